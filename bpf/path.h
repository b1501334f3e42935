/* The path of a packet through this node: find its connection, or decide about a new one, then send it on.
 *
 * A packet of a known connection costs one conntrack look-up: the entry holds verdict, translation and target, and is
 * good while its epoch is the node's. Everything else goes through decide(), and while the maps are being changed (an
 * odd epoch) every packet does. It is in a program of its own, behind a tail call, so that the verifier follows its many
 * ways once for a family, and not for each place that packets pass. */

/* What is read from a packet, and what decide() is to know of it; all that a tail call hands over. */
struct F(parsed) {
	struct packet packet;
	struct F(tuple) tuple;
	__u32 origin; /* as in struct ct_entry */
	__u32 epoch; /* read before anything else */
	__u32 now; /* in ticks */
	__u8 delivering; /* on the way into the pod behind skb->ifindex */
	__u8 known; /* the tuple has an entry, whose verdict is void */
	__u8 pad[2];
};

/* Room for it on each CPU: the verifier then need not follow what is in it, and has the same to verify behind every way
 * that parsing may take. */
BPF_TABLE("percpu_array", __u32, struct F(parsed), F(parsings), 1);

#include "refusal.h"

/* Where packets of one end come from: its pod's host side, or ORIGIN_*. */
static __always_inline __u32 F(origin_of)(const struct F(end) * end)
{
	if (end->ifindex)
		return end->ifindex;
	return end->peer.identity == IDENTITY_HOST ? ORIGIN_HOST : ORIGIN_NET;
}

/* Remembers an allowed connection in conntrack, or that its known `entry` is allowed still. Returns 0 or a drop
 * reason. */
static __always_inline int F(remember)(const struct packet *packet, struct F(tuple) * tuple,
				       struct F(ct_entry) * entry, struct F(decision) * decision, __u32 epoch,
				       __u32 origin, __u32 now)
{
	__u32 client_ifindex = decision->client.ifindex, server_ifindex = decision->server.ifindex;
	__u32 answer_origin = F(origin_of)(&decision->server);
	struct F(ct_entry) *fresh = &decision->fresh;
	struct F(ct_entry) * answering;
	struct F(tuple) answer;
	int reason = 0;

	if (entry && entry->flags & CT_REPLY) {
		entry->target = client_ifindex;
		entry->epoch = epoch;
		return 0;
	}
	F(reverse)(&answer, &decision->flow);
	if (entry) {
		entry->target = server_ifindex;
		answering = F(ct).lookup(&answer);
		if (!answering || !F(alive)(answering, now))
			reason = F(enter_answer)(tuple, entry, &answer, answer_origin, client_ifindex, now);
		if (!reason)
			entry->epoch = epoch;
		return reason;
	}
	fresh->epoch = epoch;
	fresh->origin = origin;
	fresh->target = server_ifindex;
	fresh->expires = now + F(life)(tuple, 0);
	if (fresh->flags & CT_REPLY) {
		fresh->flags = 0;
		fresh->origin = F(origin_of)(&decision->client);
		if (F(taken)(&decision->flow, tuple, now))
			return DROP_CT_MAP_INSERTION_FAILED;
		return F(enter)(&decision->flow, fresh, tuple, origin, client_ifindex, now);
	}
	if (F(taken)(tuple, &answer, now)) {
		if (!is_pod(origin))
			return DROP_CT_MAP_INSERTION_FAILED;
		reason = F(use_other_port)(tuple, fresh, &decision->flow, &answer, now);
		if (reason)
			return reason;
	}
	fresh->to = decision->flow;
	return F(enter)(tuple, fresh, &answer, answer_origin, client_ifindex, now);
}

/* Decides about the connection that `tuple` belongs to, by the policies of those of its ends that are pods of this
 * node, and remembers it in conntrack. `entry` is the tuple's live entry, if any; the rest as in
 * handle(). Returns 0 or a drop reason. */
static __always_inline int F(decide)(struct __sk_buff *skb, const struct packet *packet,
				     struct F(tuple) * tuple, struct F(ct_entry) * entry,
				     struct F(decision) * decision, __u32 epoch, __u32 origin, int delivering,
				     __u32 now)
{
	struct F(end) * sender, *receiver;
	struct F(endpoint) * source;
	int pod = is_pod(origin), port, reply, reason;

	if (!entry && (packet->inner || F(answers)(packet, tuple)))
		return DROP_CT_INVALID_HEADER;
	/* Only a pod may use its address, and only on its own interface. An ICMP error may come from any router. */
	source = F(endpoints).lookup(&tuple->src);
	if (!packet->inner && (pod ? !source || source->ifindex != origin : !!source))
		return DROP_INVALID_SOURCE_IP;
	RETEST(entry);
	port = F(orient)(packet, tuple, entry, decision, pod);
	if (port < 0)
		return -port;
	reason = F(judge)(decision, packet, tuple, entry, port, origin);
	reply = decision->asked & EVENT_REPLY;
	sender = reply ? &decision->server : &decision->client;
	receiver = reply ? &decision->client : &decision->server;
	if (origin == ORIGIN_NET && !packet->inner && sender->peer.identity == IDENTITY_HOST)
		return DROP_INVALID_SOURCE_IP;
	/* Nothing reaches a pod whose address the kernel does not know: its policy would not be asked. */
	if (!reason && delivering && skb->ifindex != receiver->ifindex)
		return DROP_ENDPOINT_NOT_READY;
	/* A denied connection's entry keeps its epoch, so that each of its packets is decided again. */
	if (reason) {
		if (entry)
			F(keep)(tuple, entry, now);
		return reason;
	}
	return F(remember)(packet, tuple, entry, decision, epoch, origin, now);
}

/* Finds the connection that an ICMP error belongs to: `tuple` becomes the one of the error's direction. An error of no
 * known connection stays a packet like any other. */
static __always_inline void F(find_erroneous)(struct __sk_buff *skb, struct packet *packet,
					      struct F(tuple) * tuple, __u32 origin, __u32 now)
{
	struct F(tuple) quoted = {};
	struct F(ct_entry) * entry;

	if (F(parse_quoted)(skb, packet, &quoted))
		goto unknown;
	entry = F(ct).lookup(&quoted);
	if (!entry || !F(alive)(entry, now))
		goto unknown;
	/* It goes where its own header says, so that has to be who sent what it quotes. */
	if (!F(same_address)(&quoted.dst, &tuple->dst))
		goto unknown;
	if (is_pod(origin) ? entry->origin != origin || !F(same_address)(&quoted.src, &tuple->src)
			   : is_pod(entry->origin))
		goto unknown;
	*tuple = quoted;
	return;
unknown:
	packet->inner = 0;
}

/* Drops a packet and tells it, with what is known of a decision about it. Returns a tc action. */
static __always_inline int F(refuse)(struct __sk_buff *skb, const struct F(parsed) * parsed,
				     struct F(decision) * decision, __u32 origin, int reason)
{
	if (!decision)
		return TC_ACT_SHOT;
	if (!is_pod(origin) && !decision->egress.reason)
		decision->asked |= EVENT_AT_INGRESS;
	count_drop(skb, reason, decision->asked & EVENT_AT_INGRESS);
	F(tell_decision)(skb, &parsed->packet, &parsed->tuple, decision, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}

/* Sends a packet on that `entry` lets pass. `decision` is about a new connection, 0: it is known. Returns a tc
 * action. */
static __always_inline int F(pass)(struct __sk_buff *skb, struct F(parsed) * parsed,
				   struct F(ct_entry) * entry, struct F(decision) * decision, __u32 origin,
				   int delivering, __u32 now)
{
	struct packet *packet = &parsed->packet;
	struct F(tuple) *tuple = &parsed->tuple, to;
	__u32 target = entry->target;
	int reason, action;

	if (!packet->inner)
		F(account)(packet, tuple, entry, now);
	if (packet->fragmented && packet->l4 && !packet->inner)
		F(expect_fragments)(packet, tuple);
	to = entry->to;
	if (entry->flags & CT_TRANSLATE) {
		if (packet->inner)
			reason = F(translate_error)(skb, packet, tuple, &to);
		else
			reason = F(translate)(skb, packet, tuple, &to);
		if (reason)
			return F(refuse)(skb, parsed, decision ? decision : F(begin)(tuple), origin, reason);
	}
	/* Only now: what cannot be rewritten is dropped. */
	if (decision)
		F(tell_decision)(skb, packet, tuple, decision, EVENT_NEW, 0);
	if (entry->flags & CT_TRANSLATE)
		*tuple = to;
	if (delivering)
		return TC_ACT_OK;
	if (target)
		return bpf_redirect_peer(target, 0);
	if (!is_pod(origin))
		return TC_ACT_OK;
	action = F(route)(skb, tuple);
	return action < 0 ? F(refuse)(skb, parsed, F(begin)(tuple), origin, -action) : action;
}

/* Handles one packet, up to decide() if it is not of a known connection. `origin` as in struct ct_entry; `delivering` is
 * set on the way into the pod behind skb->ifindex, where passing means TC_ACT_OK. Returns a tc action. */
static __always_inline int F(handle)(struct __sk_buff *skb, __u32 origin, int delivering)
{
	struct F(ct_entry) *entry = 0;
	struct F(parsed) * parsed;
	struct packet *packet;
	struct F(tuple) * tuple;
	struct node_config *config;
	__u32 zero = 0, epoch, now = now_ticks();
	int reason, stale = 0;

	config = node_config.lookup(&zero);
	if (!config)
		return TC_ACT_SHOT;
	/* Once, before any other map is read: a change meanwhile makes void whatever is decided by it. */
	epoch = *(volatile __u32 *)&config->epoch;
	parsed = F(parsings).lookup(&zero);
	if (!parsed)
		return TC_ACT_SHOT;
	packet = &parsed->packet;
	tuple = &parsed->tuple;
	__builtin_memset(parsed, 0, sizeof(*parsed));
	reason = F(parse)(skb, packet, tuple);
	if (reason) {
		if (origin == ORIGIN_NET && !delivering && !F(endpoints).lookup(&tuple->dst))
			return TC_ACT_OK; /* not for a pod: the stack judges it */
		return F(refuse)(skb, parsed, F(begin)(tuple), origin, reason);
	}
	if (packet->inner)
		F(find_erroneous)(skb, packet, tuple, origin, now);
	entry = F(ct).lookup(tuple);
	if (entry) {
		stale = epoch & 1 || entry->epoch != epoch;
		if (!F(speaks_for)(entry, packet, tuple, origin, now) ||
		    (delivering && entry->target != skb->ifindex) ||
		    (stale && F(outlived)(entry, packet, tuple, origin)))
			entry = 0;
	}
	if (entry && !stale)
		return F(pass)(skb, parsed, entry, 0, origin, delivering, now);
	if (!entry && origin == ORIGIN_NET && !delivering && !F(endpoints).lookup(&tuple->dst))
		return TC_ACT_OK; /* from outside to the node itself */
	parsed->origin = origin;
	parsed->epoch = epoch;
	parsed->now = now;
	parsed->delivering = delivering;
	parsed->known = !!entry;
	tail_calls.call(skb, F(TAIL_UNDECIDED));
	count_drop(skb, DROP_MISSED_TAIL_CALL, !is_pod(origin));
	return TC_ACT_SHOT;
}

/* Goes on where handle() left off, with a connection that has to be decided about. Returns a tc action. */
static __always_inline int F(handle_undecided)(struct __sk_buff *skb)
{
	struct F(decision) * decision;
	struct F(ct_entry) *entry = 0;
	struct F(parsed) * parsed;
	struct F(tuple) * tuple;
	__u32 zero = 0, origin, now;
	int reason, known;

	parsed = F(parsings).lookup(&zero);
	if (!parsed)
		return TC_ACT_SHOT;
	tuple = &parsed->tuple;
	origin = parsed->origin;
	now = parsed->now;
	decision = F(begin)(tuple);
	if (!decision)
		return TC_ACT_SHOT;
	if (parsed->known)
		entry = F(ct).lookup(tuple);
	known = !!entry;
	reason = F(decide)(skb, &parsed->packet, tuple, entry, decision, parsed->epoch, origin,
			   parsed->delivering, now);
	if (reason) {
		F(refuse)(skb, parsed, decision, origin, reason);
		return reason == DROP_SERVICE_BACKEND_NOT_FOUND ? F(send_refusal)(skb, parsed) : TC_ACT_SHOT;
	}
	entry = F(ct).lookup(tuple);
	if (!entry)
		return F(refuse)(skb, parsed, decision, origin, DROP_CT_MAP_INSERTION_FAILED);
	return F(pass)(skb, parsed, entry, known ? 0 : decision, origin, parsed->delivering, now);
}
