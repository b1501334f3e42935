/* Neighbour discovery (RFC 4861) from pods: the node answers for every address but the pod's own, so pods need no
 * neighbour but the node, and no policy is asked about it. */
#pragma once

#define ND_ROUTER_SOLICITATION 133
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define ND_HOP_LIMIT 255
#define ND_SOLICITED_OVERRIDE bpf_htonl(0x60000000)
#define ND_TARGET_LINK_ADDRESS 2

/* A solicitation or an advertisement with the one option that matters here. */
struct neighbour {
	__u8 type, code;
	__be16 checksum;
	__be32 flags;
	struct address6 target;
	__u8 option, option_length;
	__u8 mac[6];
};

/* Whether a packet is about neighbours: it speaks to its link alone. */
static __always_inline int is_neighbour_discovery(struct __sk_buff *skb)
{
	__u8 next = 0, type = 0;

	bpf_skb_load_bytes(skb, OFFSET_IP + offsetof(struct ipv6hdr, nexthdr), &next, 1);
	bpf_skb_load_bytes(skb, OFFSET_IP + sizeof(struct ipv6hdr), &type, 1);
	return next == IPPROTO_ICMPV6 && type >= ND_ROUTER_SOLICITATION && type <= ND_REDIRECT;
}

/* Whether a packet is for a multicast group of its link, such as a report of groups: there is nobody to hear it. */
static __always_inline int is_link_multicast(struct __sk_buff *skb)
{
	__u8 destination[2] = {};

	bpf_skb_load_bytes(skb, OFFSET_IP + DESTINATION6, destination, 2);
	return destination[0] == 0xff && (destination[1] & 0xf) <= 2;
}

/* Turns a pod's question about an address into the node's answer. A pod may ask with its own addresses only; what is no
 * question for another address (detection of duplicates, announcements, search for routers) ends here. */
static __always_inline int answer_neighbour(struct __sk_buff *skb)
{
	__u32 zero = 0, length = sizeof(struct neighbour);
	struct node_config *config = node_config.lookup(&zero);
	struct neighbour message = {};
	struct address6 asking;
	struct endpoint6 *endpoint;
	__u8 reason = DROP_UNSUPPORTED_L3_PROTOCOL, limit;
	__be16 payload;
	__u8 mac[6];

	if (!config || bpf_skb_load_bytes(skb, OFFSET_IP + sizeof(struct ipv6hdr), &message, length) ||
	    message.type != ND_SOLICITATION ||
	    bpf_skb_load_bytes(skb, OFFSET_IP + offsetof(struct ipv6hdr, hop_limit), &limit, 1) ||
	    limit != ND_HOP_LIMIT || bpf_skb_load_bytes(skb, OFFSET_IP + SOURCE6, &asking, sizeof(asking)) ||
	    bpf_skb_load_bytes(skb, ETH_ALEN, mac, ETH_ALEN))
		goto drop;
	/* Looking for a duplicate has no source. */
	reason = asking.word[0] || asking.word[3] ? DROP_INVALID_SOURCE_IP : reason;
	endpoint = endpoints6.lookup(&asking);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		goto drop;
	reason = DROP_UNSUPPORTED_L3_PROTOCOL;
	endpoint = endpoints6.lookup(&message.target);
	if (endpoint && endpoint->ifindex == skb->ifindex)
		goto drop;
	message.type = ND_ADVERTISEMENT;
	message.code = 0;
	message.checksum = 0;
	message.flags = ND_SOLICITED_OVERRIDE;
	message.option = ND_TARGET_LINK_ADDRESS;
	message.option_length = 1;
	__builtin_memcpy(message.mac, config->mac, 6);
	message.checksum = checksum_of6(&message.target, &asking, IPPROTO_ICMPV6, &message, sizeof(message));
	reason = DROP_WRITE_ERROR;
	/* What the question has behind this is no part of the answer. */
	if (bpf_skb_change_tail(skb, OFFSET_IP + sizeof(struct ipv6hdr) + length, 0))
		goto drop;
	payload = bpf_htons(length);
	if (bpf_skb_store_bytes(skb, OFFSET_IP + offsetof(struct ipv6hdr, payload_len), &payload, 2, 0) ||
	    bpf_skb_store_bytes(skb, OFFSET_IP + sizeof(struct ipv6hdr), &message, sizeof(message), 0) ||
	    bpf_skb_store_bytes(skb, OFFSET_IP + SOURCE6, &message.target, 16, 0) ||
	    bpf_skb_store_bytes(skb, OFFSET_IP + DESTINATION6, &asking, sizeof(asking), 0) ||
	    bpf_skb_store_bytes(skb, 0, mac, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, message.mac, ETH_ALEN, 0))
		goto drop;
	return bpf_redirect(skb->ifindex, 0);
drop:
	count_drop(skb, reason, 0);
	return TC_ACT_SHOT;
}
