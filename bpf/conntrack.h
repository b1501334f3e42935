/* Connections: one entry for the tuple of each direction, each with all that its next packet needs. */

/* The tuple of the packets that answer a tuple's. */
static __always_inline void F(reverse)(struct F(tuple) * reversed, const struct F(tuple) * tuple)
{
	reversed->src = tuple->dst;
	reversed->dst = tuple->src;
	reversed->sport = tuple->dport;
	reversed->dport = tuple->sport;
	reversed->protocol = tuple->protocol;
	__builtin_memset(reversed->pad, 0, sizeof(reversed->pad));
}

static __always_inline int F(same_tuple)(const struct F(tuple) * a, const struct F(tuple) * b)
{
	return F(same_address)(&a->src, &b->src) && F(same_address)(&a->dst, &b->dst) &&
	       a->sport == b->sport && a->dport == b->dport && a->protocol == b->protocol;
}

/* Key of the entry for the other direction of the same connection. */
static __always_inline void F(partner)(struct F(tuple) * key, const struct F(tuple) * tuple,
				       const struct F(ct_entry) * entry)
{
	if (entry->flags & CT_TRANSLATE)
		F(reverse)(key, &entry->to);
	else
		F(reverse)(key, tuple);
}

static __always_inline __u32 F(life)(const struct F(tuple) * tuple, __u8 flags)
{
	if (tuple->protocol != IPPROTO_TCP)
		return LIFE_OTHER;
	if (flags & CT_CLOSING)
		return LIFE_TCP_CLOSING;
	return flags & CT_ESTABLISHED ? LIFE_TCP_ESTABLISHED : LIFE_TCP_OPENING;
}

/* Whether the entry still speaks for its tuple. */
static __always_inline int F(alive)(const struct F(ct_entry) * entry, __u32 now)
{
	return (__s32)(entry->expires - now) >= 0;
}

/* Whether an entry speaks for a packet. A SYN or an echo request always opens a connection, so no entry for answers
 * does; and an echo reply never opens one. */
static __always_inline int F(speaks_for)(const struct F(ct_entry) * entry, const struct packet *packet,
					 const struct F(tuple) * tuple, __u32 origin, __u32 now)
{
	if (!F(alive)(entry, now))
		return 0;
	if (packet->inner)
		return 1;
	if (entry->origin != origin)
		return 0;
	if (entry->flags & CT_REPLY)
		return !F(opens)(packet, tuple);
	return !F(answers)(packet, tuple) && !(entry->flags & CT_CLOSING && F(opens)(packet, tuple));
}

/* Whether an entry of an earlier epoch has lost its meaning: the address that it leads to belongs to another pod by
 * now, or to none, or it is a backend that serves no longer, or a Service's own. An open TCP connection stays. */
static __always_inline int F(outlived)(const struct F(ct_entry) * entry, const struct packet *packet,
				       const struct F(tuple) * tuple, __u32 origin)
{
	struct F(address) receiver = entry->flags & CT_TRANSLATE ? entry->to.dst : tuple->dst;
	struct F(endpoint) *endpoint = F(endpoints).lookup(&receiver);

	if ((endpoint ? endpoint->ifindex : 0) != entry->target)
		return 1;
	if (!is_pod(origin) || entry->flags & CT_REPLY ||
	    (tuple->protocol == IPPROTO_TCP && !tcp_opens(packet)))
		return 0;
	/* What began before its Service was known goes to a backend now. */
	return entry->flags & CT_SERVICE ? !F(serves)(tuple, &entry->to) : !!F(frontend_of)(tuple);
}

/* Takes note of a packet that an entry lets pass. The other direction's entry hears of it when the connection changes
 * state and otherwise once a tick, so that one-way traffic keeps both alive. If there is none (the map was full), the
 * next packet of the side that opened the connection is decided again, which enters it anew. */
static __always_inline void F(account)(const struct packet *packet, const struct F(tuple) * tuple,
				       struct F(ct_entry) * entry, __u32 now)
{
	struct F(ct_entry) * other;
	struct F(tuple) key;
	__u8 flags = entry->flags, news = packet->tcp_flags & ~entry->tcp_flags;
	__u32 expires;

	if (flags & CT_REPLY)
		flags |= CT_ESTABLISHED;
	expires = now + F(life)(tuple, flags);
	if (expires == entry->expires && flags == entry->flags && !(news & (TCP_FIN | TCP_RST)))
		return;
	entry->tcp_flags |= packet->tcp_flags;
	entry->flags = flags;
	entry->expires = expires;
	F(partner)(&key, tuple, entry);
	other = F(ct).lookup(&key);
	if (!other) {
		if (!(flags & CT_REPLY))
			entry->epoch--;
		return;
	}
	if (entry->tcp_flags & TCP_RST || entry->tcp_flags & other->tcp_flags & TCP_FIN)
		flags |= CT_CLOSING;
	expires = now + F(life)(tuple, flags);
	entry->flags = flags;
	entry->expires = expires;
	other->flags |= flags & (CT_ESTABLISHED | CT_CLOSING);
	other->expires = expires;
}

/* Keeps a denied connection's entries alive: without them, the other side's next packet would look like a connection of
 * its own. */
static __always_inline void F(keep)(const struct F(tuple) * tuple, struct F(ct_entry) * entry, __u32 now)
{
	struct F(ct_entry) * other;
	struct F(tuple) key;

	entry->expires = now + F(life)(tuple, entry->flags);
	F(partner)(&key, tuple, entry);
	other = F(ct).lookup(&key);
	if (other)
		other->expires = entry->expires;
}

/* Whether the tuple of a connection's answers belongs to another connection that lives. */
static __always_inline int F(taken)(const struct F(tuple) * forward, struct F(tuple) * answer, __u32 now)
{
	struct F(ct_entry) * present;
	struct F(tuple) owner;

	present = F(ct).lookup(answer);
	if (!present || !F(alive)(present, now) || present->flags & CT_CLOSING ||
	    !(present->flags & CT_REPLY))
		return 0;
	F(partner)(&owner, answer, present);
	return !F(same_tuple)(&owner, forward);
}

/* Gives a pod's new connection another source port than its own, as the server sees it. A pod may use one port towards
 * a server's own address and towards its Service's at the same time: behind the Service they would be the same
 * connection. Returns 0 or a drop reason. */
static __always_inline int F(use_other_port)(const struct F(tuple) * forward, struct F(ct_entry) * entry,
					     struct F(tuple) * flow, struct F(tuple) * answer, __u32 now)
{
	int attempt;

	if (flow->protocol != IPPROTO_TCP && flow->protocol != IPPROTO_UDP)
		return DROP_CT_MAP_INSERTION_FAILED;
#pragma unroll
	for (attempt = 0; attempt < OTHER_PORT_ATTEMPTS; attempt++) {
		flow->sport = bpf_htons(OTHER_PORTS + bpf_get_prandom_u32() % (65536 - OTHER_PORTS));
		F(reverse)(answer, flow);
		if (!F(taken)(forward, answer, now)) {
			entry->flags |= CT_TRANSLATE;
			return 0;
		}
	}
	return DROP_CT_MAP_INSERTION_FAILED;
}

/* Enters an entry; returns 0 or a drop reason. One that a former connection left under the same key is written over where
 * it lies: that saves the LRU two moves. It has no address that a packet on another CPU could see half written, and one
 * that has expired may be swept away meanwhile. */
static __always_inline int F(put)(struct F(tuple) * key, struct F(ct_entry) * entry, __u32 now)
{
	struct F(ct_entry) *former = F(ct).lookup(key);

	if (former && F(alive)(former, now) && !((former->flags | entry->flags) & CT_TRANSLATE)) {
		*former = *entry;
		return 0;
	}
	return F(ct).update(key, entry) ? DROP_CT_MAP_INSERTION_FAILED : 0;
}

/* Enters what answers a connection; returns 0 or a drop reason. */
static __always_inline int F(enter_answer)(struct F(tuple) * forward, struct F(ct_entry) * entry,
					   struct F(tuple) * answer, __u32 answer_origin, __u32 answer_target,
					   __u32 now)
{
	struct F(ct_entry) reply = {};

	reply.epoch = entry->epoch;
	reply.origin = answer_origin;
	reply.target = answer_target;
	reply.expires = entry->expires;
	reply.flags = entry->flags | CT_REPLY;
	if (entry->flags & CT_TRANSLATE)
		F(reverse)(&reply.to, forward);
	return F(put)(answer, &reply, now);
}

/* Enters both directions of a new connection; returns 0 or a drop reason. The answer's entry is first, so that a
 * forward entry never stands alone. */
static __always_inline int F(enter)(struct F(tuple) * forward, struct F(ct_entry) * entry,
				    struct F(tuple) * answer, __u32 answer_origin, __u32 answer_target,
				    __u32 now)
{
	int reason = F(enter_answer)(forward, entry, answer, answer_origin, answer_target, now);

	if (reason)
		return reason;
	reason = F(put)(forward, entry, now);
	if (reason)
		F(ct).delete(answer);
	return reason;
}
