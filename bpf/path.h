/* The path of a packet through this node: find its connection, or decide about a new one, then send it on.
 *
 * A packet of a known connection costs one conntrack look-up: the entry holds verdict, translation and target, and is
 * good while its epoch is the node's. Everything else goes through decide(), and while the maps are being changed (an
 * odd epoch) every packet does. */

/* What is read from a packet. */
struct F(parsed) {
	struct packet packet;
	struct F(tuple) tuple;
};

/* Room for it on each CPU: the verifier then need not follow what is in it, and has the same to verify behind every way
 * that parsing may take. */
BPF_TABLE("percpu_array", __u32, struct F(parsed), F(parsings), 1);

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

/* Handles one packet. `origin` as in struct ct_entry; `delivering` is set on the way into the pod behind skb->ifindex,
 * where passing means TC_ACT_OK. Returns a tc action. */
static __always_inline int F(handle)(struct __sk_buff *skb, __u32 origin, int delivering)
{
	struct F(decision) * decision;
	struct F(parsed) * parsed;
	struct packet *packet;
	struct F(tuple) * tuple, to;
	struct F(ct_entry) *entry = 0;
	struct node_config *config;
	__u32 zero = 0, epoch, target, now = now_ticks();
	int reason, action, fresh = 0, stale = 0;

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
		decision = F(begin)(tuple);
		goto drop;
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
	if (!entry && origin == ORIGIN_NET && !delivering && !F(endpoints).lookup(&tuple->dst))
		return TC_ACT_OK; /* from outside to the node itself */
	if (!entry || stale) {
		decision = F(begin)(tuple);
		if (!decision)
			return TC_ACT_SHOT;
		fresh = !entry;
		reason = F(decide)(skb, packet, tuple, entry, decision, epoch, origin, delivering, now);
		if (reason)
			goto drop;
		entry = F(ct).lookup(tuple);
		if (!entry) {
			reason = DROP_CT_MAP_INSERTION_FAILED;
			goto drop;
		}
	}
	target = entry->target;
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
		if (reason) {
			if (!fresh)
				decision = F(begin)(tuple);
			goto drop;
		}
	}
	/* Only now: what cannot be rewritten is dropped. */
	if (fresh)
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
	if (action >= 0)
		return action;
	reason = -action;
	decision = F(begin)(tuple);
drop:
	if (!decision)
		return TC_ACT_SHOT;
	if (!is_pod(origin) && !decision->egress.reason)
		decision->asked |= EVENT_AT_INGRESS;
	count_drop(skb, reason, decision->asked & EVENT_AT_INGRESS);
	F(tell_decision)(skb, packet, tuple, decision, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}
