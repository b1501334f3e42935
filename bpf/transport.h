/* From a packet to its tuple and from one tuple to another, with what ipv4.h and ipv6.h know of their headers. */

/* Whether a packet always opens a connection: a SYN, or an echo request. */
static __always_inline int F(opens)(const struct packet *packet, const struct F(tuple) * tuple)
{
	if (tuple->protocol == F(PROTOCOL_ICMP))
		return packet->l4 && packet->icmp_type == F(ICMP_ECHO);
	return tcp_opens(packet);
}

/* Whether a packet never opens a connection: an echo reply. */
static __always_inline int F(answers)(const struct packet *packet, const struct F(tuple) * tuple)
{
	return tuple->protocol == F(PROTOCOL_ICMP) && packet->l4 && packet->icmp_type == F(ICMP_ECHO_REPLY);
}

/* Reads the transport header at packet->l4 into tuple and packet; returns 0 or a drop reason. */
static __always_inline int F(parse_transport)(struct __sk_buff *skb, struct packet *packet,
					      struct F(tuple) * tuple)
{
	struct tcp_header tcp;
	struct {
		__u8 type, code;
		__be16 checksum, id, sequence;
	} icmp;

	switch (tuple->protocol) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, packet->l4, &tcp, offsetof(struct tcp_header, window)))
			return DROP_CT_INVALID_HEADER;
		tuple->sport = tcp.sport;
		tuple->dport = tcp.dport;
		packet->tcp_flags = tcp.flags;
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (bpf_skb_load_bytes(skb, packet->l4, &tuple->sport, 4))
			return DROP_CT_INVALID_HEADER;
		break;
	case F(PROTOCOL_ICMP):
		if (bpf_skb_load_bytes(skb, packet->l4, &icmp, sizeof(icmp)))
			return DROP_CT_INVALID_HEADER;
		packet->icmp_type = icmp.type;
		packet->icmp_code = icmp.code;
		packet->policy_port = icmp.type;
		if (icmp.type == F(ICMP_ECHO_REPLY)) {
			tuple->sport = bpf_htons(F(ICMP_ECHO));
			tuple->dport = icmp.id;
			return 0;
		}
		tuple->sport = icmp.type == F(ICMP_ECHO) ? icmp.id : 0;
		tuple->dport = bpf_htons(icmp.type);
		if (F(is_icmp_error)(icmp.type))
			packet->inner = packet->l4 + sizeof(icmp);
		return 0;
	}
	packet->policy_port = bpf_ntohs(tuple->dport);
	return 0;
}

/* Reads a packet; returns 0 or a drop reason. Every byte of tuple is set. What is judged of a fragmented datagram has to
 * be what its receiver will put together (RFC 1858, RFC 3128): the transport header lies in the first fragment, not in
 * what pads its frame, and no other one reaches into it. */
static __always_inline int F(parse)(struct __sk_buff *skb, struct packet *packet, struct F(tuple) * tuple)
{
	struct F(fragment_key) key = {};
	struct F(fragment) * known;
	__u32 header;
	int reason = F(parse_header)(skb, packet, tuple);

	if (reason)
		return reason;
	header = tuple->protocol == IPPROTO_TCP ? sizeof(struct tcp_header) : LEAST_HEADER;
	if (!packet->offset) {
		if (packet->fragmented && packet->end < packet->l4 + header)
			return DROP_CT_INVALID_HEADER;
		return F(parse_transport)(skb, packet, tuple);
	}
	packet->l4 = 0;
	if (packet->offset < header)
		return DROP_CT_INVALID_HEADER;
	key.src = tuple->src;
	key.dst = tuple->dst;
	key.id = packet->id;
	key.protocol = tuple->protocol;
	known = F(fragments).lookup(&key);
	if (!known)
		return DROP_FRAGMENT_NOT_FOUND;
	tuple->sport = known->sport;
	tuple->dport = known->dport;
	packet->policy_port = bpf_ntohs(known->dport);
	return 0;
}

/* Lets the fragments that follow a first one have its ports. Only for one that passes: else whoever may not send could
 * speak for the fragments of others. */
static __always_inline void F(expect_fragments)(const struct packet *packet, const struct F(tuple) * tuple)
{
	struct F(fragment_key) key = {};
	struct F(fragment) ports = {};

	key.src = tuple->src;
	key.dst = tuple->dst;
	key.id = packet->id;
	key.protocol = tuple->protocol;
	ports.sport = tuple->sport;
	ports.dport = tuple->dport;
	F(fragments).update(&key, &ports);
}

/* Reads the packet that an ICMP error quotes, as a tuple of the opposite direction: that of the error itself. */
static __always_inline int F(parse_quoted)(struct __sk_buff *skb, const struct packet *packet,
					   struct F(tuple) * tuple)
{
	__u32 length = F(parse_quoted_header)(skb, packet->inner, tuple);
	__be16 ports[4] = {};

	if (!length || bpf_skb_load_bytes(skb, packet->inner + length, ports, sizeof(ports)))
		return DROP_CT_INVALID_HEADER;
	if (tuple->protocol == F(PROTOCOL_ICMP)) {
		/* type and code, checksum, identifier: only echo has a connection to belong to */
		__u8 type = bpf_ntohs(ports[0]) >> 8;

		tuple->sport = type == F(ICMP_ECHO) ? bpf_htons(F(ICMP_ECHO)) : ports[2];
		tuple->dport = type == F(ICMP_ECHO) ? ports[2] : bpf_htons(F(ICMP_ECHO));
		return 0;
	}
	tuple->sport = ports[1];
	tuple->dport = ports[0];
	return 0;
}

/* What checksums that cover addresses cover in front of the transport header. */
struct F(pseudo) {
	struct F(address) src, dst;
	__be32 length, next;
};

/* The checksum of `length` bytes of `protocol`, a multiple of 4, between two addresses. */
static __always_inline __u16 F(checksum_of)(const struct F(address) * src, const struct F(address) * dst,
					    __u8 protocol, void *bytes, __u32 length)
{
	struct F(pseudo) pseudo = {};
	__s64 sum;

	pseudo.src = *src;
	pseudo.dst = *dst;
	pseudo.length = bpf_htonl(length);
	pseudo.next = bpf_htonl(protocol);
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	return folded(bpf_csum_diff(0, 0, bytes, length, sum));
}

/* Offset in the transport header of the checksum that covers addresses, 0: none does. */
static __always_inline __u32 F(checksum_offset)(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	case F(PROTOCOL_ICMP):
		return F(ICMP_CHECKSUM);
	}
	return 0;
}

/* Rewrites addresses and ports from one tuple to another; returns 0 or a drop reason. */
static __always_inline int F(translate)(struct __sk_buff *skb, const struct packet *packet,
					struct F(tuple) * from, struct F(tuple) * to)
{
	__u32 checksum = packet->l4 ? F(checksum_offset)(from->protocol) : 0;
	__u64 flags = from->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	int reason;

	if (checksum)
		checksum += packet->l4;
	reason = F(rewrite_address)(skb, OFFSET_IP + F(SOURCE), checksum, flags, &from->src, &to->src);
	if (!reason)
		reason = F(rewrite_address)(skb, OFFSET_IP + F(DESTINATION), checksum, flags, &from->dst,
					    &to->dst);
	if (reason || !packet->l4 || !has_ports(from->protocol))
		return reason;
	reason = rewrite_port(skb, packet->l4, checksum, flags, from->sport, to->sport);
	if (!reason)
		reason = rewrite_port(skb, packet->l4 + 2, checksum, flags, from->dport, to->dport);
	return reason;
}

/* Rewrites an ICMP error so that it speaks of the connection as its receiver knows it. `from` is the tuple of the
 * error's direction as quoted (parse_quoted()), `to` what that tuple is translated to. */
static __always_inline int F(translate_error)(struct __sk_buff *skb, const struct packet *packet,
					      struct F(tuple) * from, struct F(tuple) * to)
{
	__u32 icmp_check = packet->l4 + 2, outer_check = 0, length;
	struct F(address) outer;
	struct F(tuple) quoted;
	int reason;

	length = F(parse_quoted_header)(skb, packet->inner, &quoted);
	if (!length || bpf_skb_load_bytes(skb, OFFSET_IP + F(SOURCE), &outer, sizeof(outer)))
		return DROP_INVALID_PACKET;
	if (F(rewrite_quoted)(skb, packet->inner, F(SOURCE), icmp_check, &from->dst, &to->dst) ||
	    F(rewrite_quoted)(skb, packet->inner, F(DESTINATION), icmp_check, &from->src, &to->src))
		return DROP_WRITE_ERROR;
	if (has_ports(from->protocol)) {
		length += packet->inner;
		reason = rewrite_port(skb, length, icmp_check, 0, from->dport, to->dport);
		if (!reason)
			reason = rewrite_port(skb, length + 2, icmp_check, 0, from->sport, to->sport);
		if (reason)
			return reason;
	}
	if (F(ICMP_CHECKSUM))
		outer_check = icmp_check;
	reason = F(rewrite_address)(skb, OFFSET_IP + F(DESTINATION), outer_check, 0, &from->dst, &to->dst);
	if (!reason && F(same_address)(&outer, &from->src))
		reason = F(rewrite_address)(skb, OFFSET_IP + F(SOURCE), outer_check, 0, &from->src, &to->src);
	return reason;
}

/* Sends a packet out by the node's routes, as its stack would; TC_ACT_OK leaves it to the stack, which also answers
 * what cannot be sent (expired hop limit, too long, unreachable). Returns a tc action or a negative drop reason. */
static __always_inline int F(route)(struct __sk_buff *skb, const struct F(tuple) * tuple)
{
	struct bpf_fib_lookup fib = {};

	if (!F(ask_route)(skb, tuple, &fib))
		return TC_ACT_OK;
	fib.ifindex = skb->ifindex;
	fib.l4_protocol = tuple->protocol;
	fib.tot_len = skb->gso_segs > 1 ? 0 : skb->len - OFFSET_IP;
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return TC_ACT_OK;
	if (F(age)(skb) || bpf_skb_store_bytes(skb, 0, fib.dmac, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, fib.smac, ETH_ALEN, 0))
		return -DROP_WRITE_ERROR;
	return bpf_redirect(fib.ifindex, 0);
}
