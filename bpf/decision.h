/* The decision about a new connection, or about one whose verdict is void: who talks to whom, and what the policies of
 * those ends that are pods of this node say about it. */

/* One end of a connection. */
struct F(end) {
	struct F(peer) peer;
	__u64 egress_set;
	__u64 ingress_set;
	__u32 ifindex; /* host side of its veth, 0: not a pod of this node */
	__u32 unready; /* a pod whose policies are not here yet */
};

#define QUESTIONS 4

/* What decide() works on and finds out. */
struct F(decision) {
	struct F(tuple) flow; /* from client to server, after translation: what policy is asked about */
	__u8 asked; /* EVENT_* */
	__u8 pad[7];
	struct F(end) client;
	struct F(end) server;
	struct question question[QUESTIONS]; /* asked in this order, until one is denied */
	__u64 egress_set;
	__u64 ingress_set;
	struct verdict egress;
	struct verdict ingress;
	struct F(ct_entry) fresh; /* the entry of a new connection */
	struct event event;
};

/* Room for one decision on each CPU: too large for the stack, and the verifier need not follow what is in it. */
BPF_TABLE("percpu_array", __u32, struct F(decision), F(decisions), 1);

/* An empty decision about a packet. */
static __always_inline struct F(decision) * F(begin)(const struct F(tuple) * tuple)
{
	__u32 zero = 0;
	struct F(decision) *decision = F(decisions).lookup(&zero);

	if (!decision)
		return 0;
	__builtin_memset(decision, 0, sizeof(*decision));
	decision->flow = *tuple;
	decision->egress.rule = decision->ingress.rule = RULE_NONE;
	return decision;
}

/* Tells what became of a packet. */
static __always_inline void F(tell_decision)(struct __sk_buff *skb, const struct packet *packet,
					     const struct F(tuple) * tuple, struct F(decision) * decision,
					     __u8 type, __u8 reason)
{
	struct event *event = &decision->event;
	int reply = decision->asked & EVENT_REPLY;

	event->time = bpf_ktime_get_ns();
	event->type = type;
	event->reason = reason;
	event->flags = decision->asked;
	if (decision->egress.audit)
		event->flags |= EVENT_AUDIT_EGRESS;
	if (decision->ingress.audit)
		event->flags |= EVENT_AUDIT_INGRESS;
	event->family = FAMILY;
	event->protocol = tuple->protocol;
	event->ifindex = skb->ifindex;
	event->length = skb->len;
	event->tcp_flags = packet->tcp_flags;
	event->icmp_type = packet->icmp_type;
	event->icmp_code = packet->icmp_code;
	event->egress_set = decision->egress_set;
	event->ingress_set = decision->ingress_set;
	event->egress_rule = decision->egress.rule;
	event->ingress_rule = decision->ingress.rule;
	event->source_identity = reply ? decision->server.peer.identity : decision->client.peer.identity;
	event->destination_identity = reply ? decision->client.peer.identity : decision->server.peer.identity;
	__builtin_memcpy(event->source, &tuple->src, sizeof(tuple->src));
	event->source_port = tuple->sport;
	if (reply) {
		__builtin_memcpy(event->destination, &tuple->dst, sizeof(tuple->dst));
		event->destination_port = tuple->dport;
	} else {
		__builtin_memcpy(event->destination, &decision->flow.dst, sizeof(tuple->dst));
		event->destination_port = decision->flow.dport;
	}
	if (decision->asked & EVENT_SERVICE) {
		__builtin_memcpy(event->frontend, &tuple->dst, sizeof(tuple->dst));
		event->frontend_port = tuple->dport;
	}
	tell(event);
}

/* Whether a packet without an entry belongs to a TCP connection that was not seen to open: the map was full, or the
 * programs came later than the connection. */
static __always_inline int F(under_way)(const struct packet *packet, const struct F(tuple) * tuple)
{
	return tuple->protocol == IPPROTO_TCP && !tcp_opens(packet);
}

/* Whether such a packet comes from the side that opened the connection, as far as ports can tell. */
static __always_inline int F(from_client)(const struct F(tuple) * tuple)
{
	return bpf_ntohs(tuple->sport) >= CLIENT_PORTS && bpf_ntohs(tuple->dport) < CLIENT_PORTS;
}

/* Finds out who talks to whom: decision->flow and decision->fresh.flags. Returns the port (host order) that policy is
 * asked about, or a negative drop reason. */
static __always_inline int F(orient)(const struct packet *packet, const struct F(tuple) * tuple,
				     const struct F(ct_entry) * entry, struct F(decision) * decision, int pod)
{
	int selected;

	if (entry) {
		decision->fresh.flags = entry->flags;
		if (entry->flags & CT_REPLY) {
			decision->asked |= EVENT_REPLY;
			F(reverse)(&decision->flow, tuple);
		} else if (entry->flags & CT_TRANSLATE) {
			decision->flow = entry->to;
			if (entry->flags & CT_SERVICE)
				decision->asked |= EVENT_SERVICE;
		}
		return bpf_ntohs(decision->flow.dport);
	}
	/* The client has the greater port. */
	if (F(under_way)(packet, tuple) && bpf_ntohs(tuple->sport) < bpf_ntohs(tuple->dport)) {
		F(reverse)(&decision->flow, tuple);
		decision->fresh.flags = CT_REPLY;
		decision->asked = EVENT_REPLY;
		return bpf_ntohs(decision->flow.dport);
	}
	if (!pod)
		return packet->policy_port;
	selected = F(select_backend)(&decision->flow);
	if (!selected)
		return packet->policy_port;
	decision->asked |= EVENT_SERVICE;
	if (selected < 0)
		return selected;
	decision->fresh.flags = CT_TRANSLATE | CT_SERVICE;
	if (F(same_address)(&decision->flow.src, &decision->flow.dst)) {
		decision->fresh.flags |= CT_HAIRPIN;
		decision->flow.src = F(hairpin_address)();
	}
	return bpf_ntohs(decision->flow.dport);
}

/* Finds out who is behind an address. */
static __always_inline void F(meet)(struct F(end) * end, struct F(address) * address)
{
	struct F(endpoint) *endpoint = F(endpoints).lookup(address);

	if (endpoint) {
		end->egress_set = endpoint->egress_set;
		end->ingress_set = endpoint->ingress_set;
		end->ifindex = endpoint->ifindex;
		end->unready = !(endpoint->flags & ENDPOINT_READY);
	}
	F(find_peer)(&end->peer, address);
}

/* Prepares the question whether the policies of `subject` let it and `peer` speak about a `port` (host order) of the
 * server: those of egress when the subject is the client. A node and its own pods always reach one another. */
static __always_inline void F(prepare)(struct question *question, __u8 asks, const struct F(end) * subject,
				       const struct F(end) * peer, __u16 port, __u8 turned)
{
	question->set = asks == EVENT_EGRESS ? subject->egress_set : subject->ingress_set;
	question->peer_class = peer->peer.peer_class;
	question->port = port;
	question->asks = subject->ifindex && peer->peer.identity != IDENTITY_HOST ? asks : 0;
	question->turned = turned;
}

/* Takes the other end for the client. */
static __always_inline void F(turn)(struct F(decision) * decision)
{
	struct F(tuple) flow = decision->flow;
	struct F(end) client = decision->client;

	F(reverse)(&decision->flow, &flow);
	decision->client = decision->server;
	decision->server = client;
	decision->asked ^= EVENT_REPLY;
}

/* Asks the prepared questions. Returns 0 or the reason of the first denial, of which the event then tells. */
static __always_inline int F(ask)(struct F(decision) * decision, __u8 protocol)
{
	struct question *question;
	struct verdict *verdict;
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < QUESTIONS; i++) {
		question = &decision->question[i];
		if (!question->asks)
			continue;
		verdict = question->asks & EVENT_EGRESS ? &decision->egress : &decision->ingress;
		question->protocol = protocol;
		ask_policy(verdict, question);
		REREAD();
		if (question->turned && !verdict->reason) {
			*verdict = (struct verdict){.rule = RULE_NONE};
			continue;
		}
		decision->asked |= question->asks;
		if (question->asks & EVENT_EGRESS)
			decision->egress_set = question->set;
		else
			decision->ingress_set = question->set;
		if (!verdict->reason)
			continue;
		if (question->asks & EVENT_INGRESS)
			decision->asked |= EVENT_AT_INGRESS;
		if (question->turned)
			F(turn)(decision);
		return verdict->reason;
	}
	return 0;
}

/* Asks the policies of those ends of decision->flow that are pods of this node, about `port` (host order) of the server.
 * The rest as in decide(). Returns 0 or a drop reason. */
static __always_inline int F(judge)(struct F(decision) * decision, const struct packet *packet,
				    const struct F(tuple) * tuple, const struct F(ct_entry) * entry, int port,
				    __u32 origin)
{
	struct F(end) *client = &decision->client, *server = &decision->server;
	int hairpin = decision->fresh.flags & CT_HAIRPIN;

	F(meet)(client, &decision->flow.src);
	F(meet)(server, &decision->flow.dst);
	if (hairpin) {
		client->peer = server->peer;
		client->ifindex = server->ifindex = origin;
	}
	if (client->unready)
		return DROP_ENDPOINT_NOT_READY;
	if (server->unready) {
		decision->asked |= EVENT_AT_INGRESS;
		return DROP_ENDPOINT_NOT_READY;
	}
	/* A pod always reaches itself. */
	if (client->ifindex == server->ifindex)
		return 0;
	F(prepare)(&decision->question[2], EVENT_EGRESS, client, server, port, 0);
	F(prepare)(&decision->question[3], EVENT_INGRESS, server, client, port, 0);
	/* A connection that was cut must not come back as its own reverse, nor may anybody pass for one who answers. */
	if (!entry && F(under_way)(packet, tuple) && !F(from_client)(tuple)) {
		__u16 turned_port = bpf_ntohs(decision->flow.sport);

		F(prepare)(&decision->question[0], EVENT_EGRESS, server, client, turned_port, 1);
		F(prepare)(&decision->question[1], EVENT_INGRESS, client, server, turned_port, 1);
	}
	return F(ask)(decision, tuple->protocol);
}
