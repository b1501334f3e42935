/* What is particular to IPv4: its header, its ICMP, its checksums, its routes. */

#define PROTOCOL_ICMP4 IPPROTO_ICMP
#define ICMP_ECHO4 8
#define ICMP_ECHO_REPLY4 0
#define ICMP_UNREACHABLE4 3
#define ICMP_PORT_UNREACHABLE4 3
#define ICMP_CHECKSUM4 0 /* offset of the checksum that covers addresses, 0: none does */
#define SOURCE4 offsetof(struct iphdr, saddr)
#define DESTINATION4 offsetof(struct iphdr, daddr)

#define IP4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IP4_FRAGMENT_OFFSET bpf_htons(0x1fff)

#define IP4_DO_NOT_FRAGMENT bpf_htons(0x4000)

typedef struct iphdr ip_header4;

static __always_inline int same_address4(const struct address4 *a, const struct address4 *b)
{
	return a->word == b->word;
}

/* Whom a hairpin connection seems to come from. */
static __always_inline struct address4 hairpin_address4(void)
{
	struct address4 address = {HAIRPIN_ADDRESS4};

	return address;
}

/* Destination unreachable, time exceeded, parameter problem. */
static __always_inline int is_icmp_error4(__u8 type)
{
	return type == 3 || type == 11 || type == 12;
}

/* Reads the header of a packet; returns 0 or a drop reason. Addresses, protocol and packet->l4 are set, and what
 * parse_fragment4() needs. */
static __always_inline int parse_header4(struct __sk_buff *skb, struct packet *packet, struct tuple4 *tuple)
{
	struct iphdr *ip;

	if (!readable(skb, OFFSET_IP + sizeof(*ip)))
		return DROP_INVALID_PACKET;
	ip = (void *)(long)skb->data + OFFSET_IP;
	if (ip->version != 4 || ip->ihl < 5)
		return DROP_INVALID_PACKET;
	tuple->src.word = ip->saddr;
	tuple->dst.word = ip->daddr;
	tuple->protocol = ip->protocol;
	packet->l4 = OFFSET_IP + ip->ihl * 4;
	packet->id = ip->id;
	packet->fragmented = !!(ip->frag_off & (IP4_MORE_FRAGMENTS | IP4_FRAGMENT_OFFSET));
	packet->offset = bpf_ntohs(ip->frag_off & IP4_FRAGMENT_OFFSET) * 8;
	packet->end = OFFSET_IP + bpf_ntohs(ip->tot_len);
	return 0;
}

/* Reads the header that an ICMP error quotes, as a tuple of the opposite direction. Returns its length, 0: it cannot be
 * read. */
static __always_inline __u32 parse_quoted_header4(struct __sk_buff *skb, __u32 offset, struct tuple4 *tuple)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return 0;
	tuple->src.word = ip.daddr;
	tuple->dst.word = ip.saddr;
	tuple->protocol = ip.protocol;
	return ip.ihl * 4;
}

/* Rewrites one address at `offset` and the checksums that cover it: the header's, and at `checksum` (0: none) that of
 * the transport header. */
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

/* Rewrites an address of the header at `inner` that an ICMP error quotes. The ICMP checksum stays as it is: the quoted
 * header's own makes up for the change. */
static __always_inline int rewrite_quoted4(struct __sk_buff *skb, __u32 inner, __u32 offset, __u32 icmp_check,
					   struct address4 *from, struct address4 *to)
{
	if (bpf_l3_csum_replace(skb, inner + offsetof(struct iphdr, check), from->word, to->word, 4) ||
	    bpf_skb_store_bytes(skb, inner + offset, &to->word, 4, 0))
		return DROP_WRITE_ERROR;
	return 0;
}

/* Fills in what the node's routes are asked about; 0 when the packet must not be sent on (expired TTL). */
static __always_inline int ask_route4(struct __sk_buff *skb, const struct tuple4 *tuple,
				      struct bpf_fib_lookup *fib)
{
	__u8 ttl;

	if (bpf_skb_load_bytes(skb, OFFSET_IP + offsetof(struct iphdr, ttl), &ttl, 1) || ttl <= 1)
		return 0;
	fib->family = AF_INET;
	fib->ipv4_src = tuple->src.word;
	fib->ipv4_dst = tuple->dst.word;
	return 1;
}

/* The header of an answer to `tuple`, with `length` bytes of `protocol` behind it. */
static __always_inline void fill_header4(ip_header4 *header, const struct tuple4 *tuple, __u8 protocol,
					 __u32 length)
{
	header->version = 4;
	header->ihl = sizeof(*header) / 4;
	header->tot_len = bpf_htons(sizeof(*header) + length);
	header->frag_off = IP4_DO_NOT_FRAGMENT;
	header->ttl = ANSWER_TTL;
	header->protocol = protocol;
	header->saddr = tuple->dst.word;
	header->daddr = tuple->src.word;
	header->check = folded(bpf_csum_diff(0, 0, (__be32 *)header, sizeof(*header), 0));
}

/* Takes one from the TTL. */
static __always_inline int age4(struct __sk_buff *skb)
{
	__u32 offset = OFFSET_IP + offsetof(struct iphdr, ttl);
	__be16 before, after;
	__u8 ttl[2];

	if (bpf_skb_load_bytes(skb, offset, ttl, sizeof(ttl)))
		return DROP_WRITE_ERROR;
	__builtin_memcpy(&before, ttl, 2);
	ttl[0]--;
	__builtin_memcpy(&after, ttl, 2);
	if (bpf_l3_csum_replace(skb, OFFSET_IP + offsetof(struct iphdr, check), before, after, 2) ||
	    bpf_skb_store_bytes(skb, offset, ttl, 1, 0))
		return DROP_WRITE_ERROR;
	return 0;
}
