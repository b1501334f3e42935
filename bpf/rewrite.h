/* Rewriting what does not depend on the address family. */
#pragma once

/* A checksum from the sum that it is of. */
static __always_inline __u16 folded(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Rewrites one port at `offset` and the checksum that covers it. */
static __always_inline int rewrite_port(struct __sk_buff *skb, __u32 offset, __u32 checksum, __u64 flags,
					__be16 from, __be16 to)
{
	if (from == to)
		return 0;
	if (checksum && bpf_l4_csum_replace(skb, checksum, from, to, flags | 2))
		return DROP_WRITE_ERROR;
	return bpf_skb_store_bytes(skb, offset, &to, 2, 0) ? DROP_WRITE_ERROR : 0;
}

/* Whether the rewriting of a packet covers its ports. SCTP's checksum does not allow it. */
static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}
