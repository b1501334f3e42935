/* The policy question: may a peer class reach a policy set on this port, and which rule says so. */
#pragma once

/* The answer. `reason` 0 allows. */
struct verdict {
	__u16 rule;
	__u8 reason;
	__u8 audit;
};

/* What a policy set is asked, and how far the search for the answer has come. */
struct question {
	__u64 set;
	__u64 peer_class;
	__u32 low; /* the block wanted is not before this one */
	__u32 high; /* nor after this one */
	__u16 port; /* of the server, in host order */
	__u8 protocol;
	__u8 asks; /* EVENT_EGRESS or EVENT_INGRESS, 0: nothing */
	__u8 turned; /* as though the server were the client */
	__u8 pad[3];
};

/* Whether a range starts at or before (protocol, port) in the order of a row. */
static __always_inline int starts_by(const struct port_range *range, __u8 protocol, __u16 port)
{
	return range->protocol < protocol || (range->protocol == protocol && range->first <= port);
}

/* What an action means; redirection is refused until there is a proxy to redirect to. */
static __always_inline void conclude(struct verdict *verdict, __u8 action, __u16 rule)
{
	verdict->rule = rule;
	verdict->audit = action == ACTION_AUDIT;
	if (action == ACTION_ALLOW || action == ACTION_AUDIT)
		verdict->reason = 0;
	else if (action == ACTION_REDIRECT)
		verdict->reason = DROP_PROXY_REDIRECTION_NOT_SUPPORTED;
	else
		verdict->reason = rule == RULE_NONE ? DROP_POLICY_DENIED : DROP_POLICY_DENY;
}

/* Asks a policy set about a peer class. Rows longer than one block are searched by halving: the block wanted is the
 * last whose first range starts at or before the port. The bounds of the search are in memory, so that the verifier need
 * not follow each of its ways to the end. */
static __always_inline void ask_policy(struct verdict *verdict, struct question *question)
{
	__u8 protocol = question->protocol;
	__u16 port = question->port;
	struct row_block *row, *block;
	struct row_key key = {};
	__u32 i;

	verdict->rule = RULE_NONE;
	verdict->audit = 0;
	verdict->reason = 0;
	if (question->set == SET_OPEN)
		return;
	verdict->reason = DROP_POLICY_NOT_READY;
	if (question->set == SET_NOT_READY)
		return;
	if (question->peer_class == CLASS_DEFAULT) {
		verdict->reason = DROP_INVALID_IDENTITY;
		return;
	}
	key.set = question->set;
	key.peer_class = question->peer_class;
	row = policy_rows.lookup(&key);
	if (!row) {
		key.peer_class = CLASS_DEFAULT;
		row = policy_rows.lookup(&key);
		if (!row)
			return;
	}
	conclude(verdict, row->action, row->rule);
	if (!row->ranges)
		return;
	question->low = 0;
	question->high = (row->ranges - 1) / ROW_RANGES;
	for (i = 0; i < 7; i++) {
		REREAD();
		if (question->low >= question->high)
			break;
		key.block = (question->low + question->high + 1) / 2;
		block = policy_rows.lookup(&key);
		if (!block) {
			verdict->reason = DROP_POLICY_NOT_READY;
			return;
		}
		if (starts_by(&block->range[0], protocol, port))
			question->low = key.block;
		else
			question->high = key.block - 1;
	}
	REREAD();
	key.block = question->low;
	block = policy_rows.lookup(&key);
	if (!block) {
		verdict->reason = DROP_POLICY_NOT_READY;
		return;
	}
	for (i = 0; i < ROW_RANGES; i++) {
		struct port_range *range = &block->range[i];

		if (question->low * ROW_RANGES + i >= row->ranges)
			return;
		if (range->protocol == protocol && range->first <= port && port <= range->last) {
			conclude(verdict, range->action, range->rule);
			return;
		}
	}
}
