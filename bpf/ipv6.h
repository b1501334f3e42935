/* What is particular to IPv6: its headers, its ICMP, its checksums, its routes. */

#define PROTOCOL_ICMP6 IPPROTO_ICMPV6
#define ICMP_ECHO6 128
#define ICMP_ECHO_REPLY6 129
#define ICMP_UNREACHABLE6 1
#define ICMP_PORT_UNREACHABLE6 4
#define ICMP_CHECKSUM6 2 /* offset of the checksum that covers addresses */
#define SOURCE6 offsetof(struct ipv6hdr, saddr)
#define DESTINATION6 offsetof(struct ipv6hdr, daddr)

/* Extension headers (RFC 8200), and with how many of them a packet is dropped. */
#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTHENTICATION 51
#define NEXT_DESTINATION 60
#define EXTENSIONS 6

/* A fragment header, and the beginning of any other extension header. */
struct fragment_header6 {
	__u8 next, length;
	__be16 offset; /* of a fragment, in bytes, and flags; of a routing header: type, segments left */
	__be32 id;
};

typedef struct ipv6hdr ip_header6;

static __always_inline int same_address6(const struct address6 *a, const struct address6 *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* Whom a hairpin connection seems to come from. */
static __always_inline struct address6 hairpin_address6(void)
{
	struct address6 address = {HAIRPIN_ADDRESS6};

	return address;
}

/* Destination unreachable, packet too big, time exceeded, parameter problem. */
static __always_inline int is_icmp_error6(__u8 type)
{
	return type >= 1 && type <= 4;
}

/* Walks over the extension headers from packet->l4 on; returns 0 or a drop reason. A routing header that would send the
 * packet elsewhere than it says is refused, and so is anything but the transport header behind a fragment header:
 * policy would be asked about what cannot be seen in the fragments that follow. */
static __always_inline int skip_extensions6(struct __sk_buff *skb, struct packet *packet,
					    struct tuple6 *tuple)
{
	struct fragment_header6 extension;
	int i;

	for (i = 0; i < EXTENSIONS; i++) {
		if (tuple->protocol != NEXT_HOP_BY_HOP && tuple->protocol != NEXT_ROUTING &&
		    tuple->protocol != NEXT_FRAGMENT && tuple->protocol != NEXT_AUTHENTICATION &&
		    tuple->protocol != NEXT_DESTINATION)
			return 0;
		if (packet->fragmented)
			return DROP_INVALID_EXTENSION_HEADER;
		if (bpf_skb_load_bytes(skb, packet->l4, &extension, sizeof(extension)))
			return DROP_CT_INVALID_HEADER;
		if (tuple->protocol == NEXT_ROUTING && bpf_ntohs(extension.offset) & 0xff)
			return DROP_INVALID_EXTENSION_HEADER;
		if (tuple->protocol == NEXT_FRAGMENT) {
			/* One that is alone (RFC 6946) is as good as whole. */
			packet->fragmented = !!(bpf_ntohs(extension.offset) & ~6);
			packet->offset = bpf_ntohs(extension.offset) & ~7;
			packet->id = extension.id;
			packet->l4 += 8;
		} else if (tuple->protocol == NEXT_AUTHENTICATION) {
			packet->l4 += (extension.length + 2) * 4;
		} else {
			packet->l4 += (extension.length + 1) * 8;
		}
		tuple->protocol = extension.next;
	}
	return DROP_INVALID_EXTENSION_HEADER;
}

/* Reads the headers of a packet; returns 0 or a drop reason. Addresses, protocol and packet->l4 are set, and what
 * parse_fragment6() needs. */
static __always_inline int parse_header6(struct __sk_buff *skb, struct packet *packet, struct tuple6 *tuple)
{
	struct ipv6hdr *ip;

	if (!readable(skb, OFFSET_IP + sizeof(*ip)))
		return DROP_INVALID_PACKET;
	ip = (void *)(long)skb->data + OFFSET_IP;
	if (ip->version != 6)
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&tuple->src, &ip->saddr, sizeof(tuple->src));
	__builtin_memcpy(&tuple->dst, &ip->daddr, sizeof(tuple->dst));
	tuple->protocol = ip->nexthdr;
	packet->l4 = OFFSET_IP + sizeof(*ip);
	packet->end = packet->l4 + bpf_ntohs(ip->payload_len);
	return skip_extensions6(skb, packet, tuple);
}

/* Reads the header that an ICMP error quotes, as a tuple of the opposite direction. Returns its length, 0: it cannot be
 * read. */
static __always_inline __u32 parse_quoted_header6(struct __sk_buff *skb, __u32 offset, struct tuple6 *tuple)
{
	struct fragment_header6 fragment;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return 0;
	__builtin_memcpy(&tuple->src, &ip.daddr, sizeof(tuple->src));
	__builtin_memcpy(&tuple->dst, &ip.saddr, sizeof(tuple->dst));
	tuple->protocol = ip.nexthdr;
	if (ip.nexthdr != NEXT_FRAGMENT)
		return sizeof(ip);
	if (bpf_skb_load_bytes(skb, offset + sizeof(ip), &fragment, sizeof(fragment)) ||
	    bpf_ntohs(fragment.offset) & ~7)
		return 0;
	tuple->protocol = fragment.next;
	return sizeof(ip) + sizeof(fragment);
}

/* Rewrites one address at `offset`, and at `checksum` (0: none) the checksum that covers it. */
static __always_inline int rewrite_address6(struct __sk_buff *skb, __u32 offset, __u32 checksum, __u64 flags,
					    struct address6 *from, struct address6 *to)
{
	__s64 difference;

	if (same_address6(from, to))
		return 0;
	difference = bpf_csum_diff((__be32 *)from, sizeof(*from), (__be32 *)to, sizeof(*to), 0);
	if (difference < 0)
		return DROP_WRITE_ERROR;
	if (checksum && bpf_l4_csum_replace(skb, checksum, 0, difference, BPF_F_PSEUDO_HDR | flags))
		return DROP_WRITE_ERROR;
	/* No header checksum makes up for the address, so that of the whole frame has to hear of it. */
	return bpf_skb_store_bytes(skb, offset, to, sizeof(*to), BPF_F_RECOMPUTE_CSUM) ? DROP_WRITE_ERROR : 0;
}

/* Rewrites an address of the header at `inner` that an ICMP error quotes, and the ICMP checksum, which covers it. */
static __always_inline int rewrite_quoted6(struct __sk_buff *skb, __u32 inner, __u32 offset, __u32 icmp_check,
					   struct address6 *from, struct address6 *to)
{
	__s64 difference = bpf_csum_diff((__be32 *)from, sizeof(*from), (__be32 *)to, sizeof(*to), 0);

	if (difference < 0 || bpf_l4_csum_replace(skb, icmp_check, 0, difference, 0) ||
	    bpf_skb_store_bytes(skb, inner + offset, to, sizeof(*to), 0))
		return DROP_WRITE_ERROR;
	return 0;
}

/* Fills in what the node's routes are asked about; 0 when the packet must not be sent on (expired hop limit). Link-local
 * and multicast destinations the look-up refuses. */
static __always_inline int ask_route6(struct __sk_buff *skb, const struct tuple6 *tuple,
				      struct bpf_fib_lookup *fib)
{
	__u8 limit;

	if (bpf_skb_load_bytes(skb, OFFSET_IP + offsetof(struct ipv6hdr, hop_limit), &limit, 1) || limit <= 1)
		return 0;
	fib->family = AF_INET6;
	__builtin_memcpy(fib->ipv6_src, &tuple->src, sizeof(tuple->src));
	__builtin_memcpy(fib->ipv6_dst, &tuple->dst, sizeof(tuple->dst));
	return 1;
}

/* The header of an answer to `tuple`, with `length` bytes of `protocol` behind it. */
static __always_inline void fill_header6(ip_header6 *header, const struct tuple6 *tuple, __u8 protocol,
					 __u32 length)
{
	header->version = 6;
	header->payload_len = bpf_htons(length);
	header->nexthdr = protocol;
	header->hop_limit = ANSWER_TTL;
	__builtin_memcpy(&header->saddr, &tuple->dst, sizeof(tuple->dst));
	__builtin_memcpy(&header->daddr, &tuple->src, sizeof(tuple->src));
}

/* Takes one from the hop limit. */
static __always_inline int age6(struct __sk_buff *skb)
{
	__u32 offset = OFFSET_IP + offsetof(struct ipv6hdr, hop_limit);
	__u8 limit;

	if (bpf_skb_load_bytes(skb, offset, &limit, 1))
		return DROP_WRITE_ERROR;
	limit--;
	return bpf_skb_store_bytes(skb, offset, &limit, 1, 0) ? DROP_WRITE_ERROR : 0;
}
