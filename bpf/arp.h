/* ARP from pods: the node answers for every address but the pod's own, so pods need no neighbour but the node. */
#pragma once

/* An ARP packet for IPv4 over Ethernet (RFC 826). */
struct arp4 {
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

#define ARP_REQUEST bpf_htons(1)
#define ARP_REPLY bpf_htons(2)

/* Turns a pod's request into the node's reply. A pod may ask with its own address only; what is not a question for
 * another address (probes for its own, announcements) ends here, as there is nobody to tell. */
static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct endpoint4 *endpoint;
	struct node_config *config;
	struct address4 sender, target;
	struct arp4 arp, reply;
	__u32 zero = 0;
	__u8 reason = DROP_UNSUPPORTED_L2_PROTOCOL;

	config = node_config.lookup(&zero);
	if (!config || bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)) || arp.operation != ARP_REQUEST)
		goto drop;
	__builtin_memcpy(&sender, arp.sender, sizeof(sender));
	__builtin_memcpy(&target, arp.target, sizeof(target));
	endpoint = endpoints4.lookup(&sender);
	if (same_address4(&sender, &target))
		goto drop;
	reason = DROP_INVALID_SOURCE_IP;
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		goto drop;
	reason = DROP_WRITE_ERROR;
	reply = arp;
	reply.operation = ARP_REPLY;
	__builtin_memcpy(reply.sender_mac, config->mac, 6);
	__builtin_memcpy(reply.sender, arp.target, 4);
	__builtin_memcpy(reply.target_mac, arp.sender_mac, 6);
	__builtin_memcpy(reply.target, arp.sender, 4);
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &reply, sizeof(reply), 0) ||
	    bpf_skb_store_bytes(skb, 0, reply.target_mac, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, reply.sender_mac, ETH_ALEN, 0))
		goto drop;
	return bpf_redirect(skb->ifindex, 0);
drop:
	count_drop(skb, reason, 0);
	return TC_ACT_SHOT;
}
