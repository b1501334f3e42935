/* Refusals: what a pod hears at once where nobody serves, instead of waiting for an answer. TCP is reset (RFC 9293,
 * 3.10.7.1), of all else the port is unreachable (RFC 792, RFC 4443). They come from the address that was asked, straight
 * into the pod: no policy is asked about the pod's own packet coming back as an answer. */

/* ICMP's message, with as much of the packet as it has to quote. */
struct F(unreachable) {
	__u8 type, code;
	__u16 checksum;
	__be32 unused;
	F(ip_header) header;
	__u8 transport[8];
};

/* Turns the packet around: `length` bytes of `protocol` go back to who sent it. Returns 0 when that is done. */
static __always_inline int F(turn_around)(struct __sk_buff *skb, const struct F(tuple) * tuple, __u8 protocol,
					  void *bytes, __u32 length)
{
	F(ip_header) header = {};
	__u8 macs[2 * ETH_ALEN], turned[2 * ETH_ALEN];

	F(fill_header)(&header, tuple, protocol, length);
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return -1;
	__builtin_memcpy(turned, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, macs, ETH_ALEN);
	return bpf_skb_change_tail(skb, OFFSET_IP + sizeof(header) + length, 0) ||
	       bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0) ||
	       bpf_skb_store_bytes(skb, OFFSET_IP, &header, sizeof(header), 0) ||
	       bpf_skb_store_bytes(skb, OFFSET_IP + sizeof(header), bytes, length, 0);
}

/* Resets the TCP connection that a segment belongs to. */
static __always_inline int F(reset)(struct __sk_buff *skb, const struct packet *packet,
				    const struct F(tuple) * tuple)
{
	struct tcp_header segment, reset = {};

	if (packet->tcp_flags & TCP_RST || bpf_skb_load_bytes(skb, packet->l4, &segment, sizeof(segment)))
		return -1;
	reset.sport = tuple->dport;
	reset.dport = tuple->sport;
	reset.offset = sizeof(reset) / 4 << 4;
	reset.flags = TCP_RST;
	if (segment.flags & TCP_ACK) {
		reset.seq = segment.ack;
	} else {
		__u32 taken = packet->end - packet->l4 - (segment.offset >> 4) * 4;

		taken += !!(segment.flags & TCP_SYN) + !!(segment.flags & TCP_FIN);
		reset.ack = bpf_htonl(bpf_ntohl(segment.seq) + taken);
		reset.flags |= TCP_ACK;
	}
	reset.checksum = F(checksum_of)(&tuple->dst, &tuple->src, IPPROTO_TCP, &reset, sizeof(reset));
	return F(turn_around)(skb, tuple, IPPROTO_TCP, &reset, sizeof(reset));
}

/* Says that there is nobody on the port of a datagram. */
static __always_inline int F(tell_unreachable)(struct __sk_buff *skb, const struct packet *packet,
					       const struct F(tuple) * tuple)
{
	struct F(unreachable) message = {};

	message.type = F(ICMP_UNREACHABLE);
	message.code = F(ICMP_PORT_UNREACHABLE);
	if (bpf_skb_load_bytes(skb, OFFSET_IP, &message.header, sizeof(message.header)) ||
	    bpf_skb_load_bytes(skb, packet->l4, message.transport, sizeof(message.transport)))
		return -1;
	if (F(ICMP_CHECKSUM))
		message.checksum =
			F(checksum_of)(&tuple->dst, &tuple->src, F(PROTOCOL_ICMP), &message, sizeof(message));
	else
		message.checksum = folded(bpf_csum_diff(0, 0, (__be32 *)&message, sizeof(message), 0));
	return F(turn_around)(skb, tuple, F(PROTOCOL_ICMP), &message, sizeof(message));
}

/* Answers a packet of a pod that nobody serves; one that cannot be answered is dropped. Returns a tc action. */
static __always_inline int F(send_refusal)(struct __sk_buff *skb, const struct F(parsed) * parsed)
{
	const struct packet *packet = &parsed->packet;
	const struct F(tuple) *tuple = &parsed->tuple;

	/* Errors are not answered, nor what has options in front of its ports: nobody who is served wrongly sends it. */
	if (packet->inner || packet->fragmented || packet->l4 != OFFSET_IP + sizeof(F(ip_header)) ||
	    tuple->protocol == F(PROTOCOL_ICMP))
		return TC_ACT_SHOT;
	if (tuple->protocol == IPPROTO_TCP ? F(reset)(skb, packet, tuple)
					   : F(tell_unreachable)(skb, packet, tuple))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(skb->ifindex, 0);
}
