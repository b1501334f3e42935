/* What parsing leaves behind of a packet, for both families. */
#pragma once

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define OFFSET_IP ETH_HLEN

/* TTL or hop limit of what the node itself answers. */
#define ANSWER_TTL 64

/* The least transport header but TCP's (UDP, ICMP). */
#define LEAST_HEADER 8

/* A TCP header without options. */
struct tcp_header {
	__be16 sport, dport;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window;
	__u16 checksum;
	__be16 urgent;
};

/* Where things are in a packet and what kind of packet it is. */
struct packet {
	__u32 l4;           /* offset of the transport header, 0: a later fragment has none */
	__u32 inner;        /* offset of the IP header that an ICMP error quotes, 0: no error */
	__u32 end;          /* offset behind the last byte, by its header */
	__u32 offset;       /* of a fragment in its datagram, bytes */
	__be32 id;          /* of a fragment's datagram */
	__u16 policy_port;  /* what policy compares: destination port or ICMP type, host order */
	__u8 fragmented;    /* part of a datagram */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
};

/* A TCP packet that opens a connection. */
static __always_inline int tcp_opens(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Makes sure that `length` bytes can be read directly; 0 when the packet is shorter. */
static __always_inline int readable(struct __sk_buff *skb, __u32 length)
{
	if ((void *)(long)skb->data + length <= (void *)(long)skb->data_end)
		return 1;
	return bpf_skb_pull_data(skb, length) == 0 &&
	       (void *)(long)skb->data + length <= (void *)(long)skb->data_end;
}

/* The node's clock for conntrack. */
static __always_inline __u32 now_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* Whether packets of this origin come from a pod. */
static __always_inline int is_pod(__u32 origin)
{
	return origin != ORIGIN_NET && origin != ORIGIN_HOST;
}
