/* What is particular to IPv4: reading a packet into a tuple, rewriting it, and the quoted packet of ICMP errors. */
#pragma once

#define ICMP4_ECHO_REPLY 0
#define ICMP4_UNREACHABLE 3
#define ICMP4_ECHO 8
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER 12

#define IP4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IP4_FRAGMENT_OFFSET bpf_htons(0x1fff)

/* Whom a hairpin connection seems to come from. */
static __always_inline struct address4 hairpin_address4(void)
{
	struct address4 address = {HAIRPIN_ADDRESS4};

	return address;
}

static __always_inline int same_address4(const struct address4 *a, const struct address4 *b)
{
	return a->word == b->word;
}

/* Whether a packet always opens a connection: a SYN, or an echo request. */
static __always_inline int opens4(const struct packet *packet, const struct tuple4 *tuple)
{
	if (tuple->protocol == IPPROTO_ICMP)
		return packet->l4 && packet->icmp_type == ICMP4_ECHO;
	return tcp_opens(packet);
}

/* Whether a packet never opens a connection: an echo reply. */
static __always_inline int answers4(const struct packet *packet, const struct tuple4 *tuple)
{
	return tuple->protocol == IPPROTO_ICMP && packet->l4 && packet->icmp_type == ICMP4_ECHO_REPLY;
}

/* Reads the transport header at packet->l4 into tuple and packet; returns 0 or a drop reason. */
static __always_inline int parse_transport4(struct __sk_buff *skb, struct packet *packet,
					    struct tuple4 *tuple)
{
	struct {
		__be16 sport, dport;
		__be32 seq, ack;
		__u8 offset, flags;
	} tcp;
	struct {
		__u8 type, code;
		__be16 checksum, id, sequence;
	} icmp;

	switch (tuple->protocol) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, packet->l4, &tcp, 14))
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
	case IPPROTO_ICMP:
		if (bpf_skb_load_bytes(skb, packet->l4, &icmp, sizeof(icmp)))
			return DROP_CT_INVALID_HEADER;
		packet->icmp_type = icmp.type;
		packet->icmp_code = icmp.code;
		packet->policy_port = icmp.type;
		if (icmp.type == ICMP4_ECHO_REPLY) {
			tuple->sport = bpf_htons(ICMP4_ECHO);
			tuple->dport = icmp.id;
			return 0;
		}
		tuple->sport = icmp.type == ICMP4_ECHO ? icmp.id : 0;
		tuple->dport = bpf_htons(icmp.type);
		if (icmp.type == ICMP4_UNREACHABLE || icmp.type == ICMP4_TIME_EXCEEDED ||
		    icmp.type == ICMP4_PARAMETER)
			packet->inner = packet->l4 + sizeof(icmp);
		return 0;
	}
	packet->policy_port = bpf_ntohs(tuple->dport);
	return 0;
}

/* Reads a packet; returns 0 or a drop reason. Every byte of tuple is set. */
static __always_inline int parse4(struct __sk_buff *skb, struct packet *packet, struct tuple4 *tuple)
{
	struct fragment_key4 key = {};
	struct fragment4 *known;
	struct iphdr *ip;
	__u32 header;

	if (!readable(skb, OFFSET_IP + sizeof(*ip)))
		return DROP_INVALID_PACKET;
	ip = (void *)(long)skb->data + OFFSET_IP;
	if (ip->version != 4 || ip->ihl < 5)
		return DROP_INVALID_PACKET;
	tuple->src.word = ip->saddr;
	tuple->dst.word = ip->daddr;
	tuple->protocol = ip->protocol;
	packet->l4 = OFFSET_IP + ip->ihl * 4;
	if (!(ip->frag_off & (IP4_MORE_FRAGMENTS | IP4_FRAGMENT_OFFSET)))
		return parse_transport4(skb, packet, tuple);

	/* What is judged has to be what the receiver will put together (RFC 1858, RFC 3128): the transport header lies
	 * in the first fragment, not in what pads its frame, and no other one reaches into it. */
	header = ip->protocol == IPPROTO_TCP ? TCP_HEADER : LEAST_HEADER;
	if (!(ip->frag_off & IP4_FRAGMENT_OFFSET)) {
		if (bpf_ntohs(ip->tot_len) < ip->ihl * 4 + header)
			return DROP_CT_INVALID_HEADER;
		packet->first = 1;
		packet->id = ip->id;
		return parse_transport4(skb, packet, tuple);
	}
	if (bpf_ntohs(ip->frag_off & IP4_FRAGMENT_OFFSET) * 8 < header)
		return DROP_CT_INVALID_HEADER;
	key.src = tuple->src;
	key.dst = tuple->dst;
	key.id = ip->id;
	key.protocol = ip->protocol;
	packet->l4 = 0;
	known = fragments4.lookup(&key);
	if (!known)
		return DROP_FRAGMENT_NOT_FOUND;
	tuple->sport = known->sport;
	tuple->dport = known->dport;
	packet->policy_port = bpf_ntohs(known->dport);
	return 0;
}

/* Lets the fragments that follow a first one have its ports. Only for one that passes: else whoever may not send could
 * speak for the fragments of others. */
static __always_inline void expect_fragments4(const struct packet *packet, const struct tuple4 *tuple)
{
	struct fragment_key4 key = {};
	struct fragment4 ports = {};

	key.src = tuple->src;
	key.dst = tuple->dst;
	key.id = packet->id;
	key.protocol = tuple->protocol;
	ports.sport = tuple->sport;
	ports.dport = tuple->dport;
	fragments4.update(&key, &ports);
}

/* Reads the packet that an ICMP error quotes, as a tuple of the opposite direction: that of the error itself. */
static __always_inline int parse_quoted4(struct __sk_buff *skb, const struct packet *packet,
					 struct tuple4 *tuple)
{
	struct iphdr ip;
	__be16 ports[4] = {};

	if (bpf_skb_load_bytes(skb, packet->inner, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return DROP_INVALID_PACKET;
	if (bpf_skb_load_bytes(skb, packet->inner + ip.ihl * 4, ports, sizeof(ports)))
		return DROP_CT_INVALID_HEADER;
	tuple->src.word = ip.daddr;
	tuple->dst.word = ip.saddr;
	tuple->protocol = ip.protocol;
	if (ip.protocol == IPPROTO_ICMP) {
		/* type and code, checksum, identifier: only echo has a connection to belong to */
		__u8 type = bpf_ntohs(ports[0]) >> 8;

		tuple->sport = type == ICMP4_ECHO ? bpf_htons(ICMP4_ECHO) : ports[2];
		tuple->dport = type == ICMP4_ECHO ? ports[2] : bpf_htons(ICMP4_ECHO);
		return 0;
	}
	tuple->sport = ports[1];
	tuple->dport = ports[0];
	return 0;
}

/* Offset of the transport checksum in its header, 0 when addresses and ports do not enter it. */
static __always_inline __u32 checksum_offset4(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	}
	return 0;
}

/* Rewrites one address at `offset` and the checksums that cover it. */
static __always_inline int rewrite_address4(struct __sk_buff *skb, __u32 offset, __u32 checksum, __u64 flags,
					    struct address4 *from, struct address4 *to)
{
	if (same_address4(from, to))
		return 0;
	if (checksum &&
	    bpf_l4_csum_replace(skb, checksum, from->word, to->word, BPF_F_PSEUDO_HDR | flags | 4))
		return DROP_WRITE_ERROR;
	if (bpf_l3_csum_replace(skb, OFFSET_IP + offsetof(struct iphdr, check), from->word, to->word, 4) ||
	    bpf_skb_store_bytes(skb, offset, &to->word, 4, 0))
		return DROP_WRITE_ERROR;
	return 0;
}

/* Rewrites one port at `offset` and the checksum that covers it. */
static __always_inline int rewrite_port4(struct __sk_buff *skb, __u32 offset, __u32 checksum, __u64 flags,
					 __be16 from, __be16 to)
{
	if (from == to)
		return 0;
	if (checksum && bpf_l4_csum_replace(skb, checksum, from, to, flags | 2))
		return DROP_WRITE_ERROR;
	return bpf_skb_store_bytes(skb, offset, &to, 2, 0) ? DROP_WRITE_ERROR : 0;
}

/* Rewrites addresses and ports from one tuple to another; returns 0 or a drop reason. */
static __always_inline int translate4(struct __sk_buff *skb, const struct packet *packet, struct tuple4 *from,
				      struct tuple4 *to)
{
	__u32 checksum = packet->l4 ? checksum_offset4(from->protocol) : 0;
	__u64 flags = from->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	int reason;

	if (checksum)
		checksum += packet->l4;
	reason = rewrite_address4(skb, OFFSET_IP + offsetof(struct iphdr, saddr), checksum, flags, &from->src,
				  &to->src);
	if (!reason)
		reason = rewrite_address4(skb, OFFSET_IP + offsetof(struct iphdr, daddr), checksum, flags,
					  &from->dst, &to->dst);
	if (reason || !checksum)
		return reason;
	reason = rewrite_port4(skb, packet->l4, checksum, flags, from->sport, to->sport);
	if (!reason)
		reason = rewrite_port4(skb, packet->l4 + 2, checksum, flags, from->dport, to->dport);
	return reason;
}

/* Rewrites an ICMP error so that it speaks of the connection as its receiver knows it. `from` is the tuple of the
 * error's direction as quoted (parse_quoted4), `to` what that tuple is translated to. The quoted addresses do not
 * change the ICMP checksum, for the quoted header's own checksum makes up for them. */
static __always_inline int translate_error4(struct __sk_buff *skb, const struct packet *packet,
					    struct tuple4 *from, struct tuple4 *to)
{
	__u32 address = packet->inner + offsetof(struct iphdr, saddr);
	__u32 check = packet->inner + offsetof(struct iphdr, check);
	__u32 icmp_check = packet->l4 + 2, ports;
	struct address4 outer;
	struct iphdr ip;
	int reason;

	if (bpf_skb_load_bytes(skb, packet->inner, &ip, sizeof(ip)) || ip.ihl < 5 ||
	    bpf_skb_load_bytes(skb, OFFSET_IP + offsetof(struct iphdr, saddr), &outer, 4))
		return DROP_INVALID_PACKET;
	ports = packet->inner + ip.ihl * 4;
	if (bpf_l3_csum_replace(skb, check, from->dst.word, to->dst.word, 4) ||
	    bpf_l3_csum_replace(skb, check, from->src.word, to->src.word, 4) ||
	    bpf_skb_store_bytes(skb, address, &to->dst.word, 4, 0) ||
	    bpf_skb_store_bytes(skb, address + 4, &to->src.word, 4, 0))
		return DROP_WRITE_ERROR;
	if (checksum_offset4(from->protocol)) {
		reason = rewrite_port4(skb, ports, icmp_check, 0, from->dport, to->dport);
		if (!reason)
			reason = rewrite_port4(skb, ports + 2, icmp_check, 0, from->sport, to->sport);
		if (reason)
			return reason;
	}
	reason = rewrite_address4(skb, OFFSET_IP + offsetof(struct iphdr, daddr), 0, 0, &from->dst, &to->dst);
	if (!reason && same_address4(&outer, &from->src))
		reason = rewrite_address4(skb, OFFSET_IP + offsetof(struct iphdr, saddr), 0, 0, &from->src,
					  &to->src);
	return reason;
}

/* Sends a packet out by the node's routes, as its stack would; TC_ACT_OK leaves it to the stack, which also answers
 * what cannot be sent (expired TTL, too long, unreachable). Returns a tc action or a negative drop reason. */
static __always_inline int route4(struct __sk_buff *skb, const struct tuple4 *tuple)
{
	struct bpf_fib_lookup fib = {};
	__be16 before, after;
	__u8 ttl[2];

	if (bpf_skb_load_bytes(skb, OFFSET_IP + offsetof(struct iphdr, ttl), ttl, sizeof(ttl)) || ttl[0] <= 1)
		return TC_ACT_OK;
	fib.family = AF_INET;
	fib.ifindex = skb->ifindex;
	fib.l4_protocol = tuple->protocol;
	fib.ipv4_src = tuple->src.word;
	fib.ipv4_dst = tuple->dst.word;
	fib.tot_len = skb->gso_segs > 1 ? 0 : skb->len - OFFSET_IP;
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return TC_ACT_OK;
	__builtin_memcpy(&before, ttl, 2);
	ttl[0]--;
	__builtin_memcpy(&after, ttl, 2);
	if (bpf_l3_csum_replace(skb, OFFSET_IP + offsetof(struct iphdr, check), before, after, 2) ||
	    bpf_skb_store_bytes(skb, OFFSET_IP + offsetof(struct iphdr, ttl), ttl, 1, 0) ||
	    bpf_skb_store_bytes(skb, 0, fib.dmac, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, fib.smac, ETH_ALEN, 0))
		return -DROP_WRITE_ERROR;
	return bpf_redirect(fib.ifindex, 0);
}
