/* The node's datapath: one program for each place where packets of pods pass. BCC compiles it once for a node; what
 * differs between pods is in maps. services/datapath/kernel/source.py joins the headers into one text, for BCC
 * rewrites map accesses in its main file only. */
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/bpf.h>

#include "compat.h"
#include "consts.h"
#include "drops.h"
#include "types.h"
#include "maps.h"
#include "packet.h"
#include "rewrite.h"
#include "policy.h"
#include "events.h"

#define FAMILY 4
#include "family.h"
#undef FAMILY

#define FAMILY 6
#include "family.h"
#undef FAMILY

#include "arp.h"
#include "neighbour.h"

/* Counts a packet that is not told: noise of protocols that no pod needs. */
static __always_inline int drop_quietly(struct __sk_buff *skb, __u8 reason, int ingress)
{
	count_drop(skb, reason, ingress);
	return TC_ACT_SHOT;
}

/* Where what the node's stack sends into a veth comes from. */
static __always_inline __u32 origin_in_stack(struct __sk_buff *skb)
{
	return skb->ingress_ifindex ? ORIGIN_NET : ORIGIN_HOST;
}

/* tc ingress of the host side of a pod's veth: what the pod sends. */
int from_pod(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		return drop_quietly(skb, DROP_UNSUPPORTED_L2_PROTOCOL, 0);
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return handle4(skb, skb->ifindex, 0);
	case bpf_htons(ETH_P_IPV6):
		tail_calls.call(skb, TAIL_FROM_POD6);
		return drop_quietly(skb, DROP_MISSED_TAIL_CALL, 0);
	case bpf_htons(ETH_P_ARP):
		return answer_arp(skb);
	}
	return drop_quietly(skb, DROP_UNSUPPORTED_L2_PROTOCOL, 0);
}

/* tc egress of the host side of a pod's veth: what the node's stack sends to the pod. */
int to_pod(struct __sk_buff *skb)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return handle4(skb, origin_in_stack(skb), 1);
	case bpf_htons(ETH_P_IPV6):
		tail_calls.call(skb, TAIL_TO_POD6);
		return drop_quietly(skb, DROP_MISSED_TAIL_CALL, 1);
	case bpf_htons(ETH_P_ARP):
		return TC_ACT_OK;
	}
	return drop_quietly(skb, DROP_UNSUPPORTED_L2_PROTOCOL, 1);
}

/* tc ingress of the node's uplink: what comes from other machines. All that is not for a pod is the stack's, and so is
 * what carries a VLAN tag: it is for an interface on top of this one. */
int from_network(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		return TC_ACT_OK;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return handle4(skb, ORIGIN_NET, 0);
	case bpf_htons(ETH_P_IPV6):
		tail_calls.call(skb, TAIL_FROM_NETWORK6);
		return drop_quietly(skb, DROP_MISSED_TAIL_CALL, 1);
	}
	return TC_ACT_OK;
}

/* Tail call of from_pod for IPv6. */
int from_pod6(struct __sk_buff *skb)
{
	if (is_neighbour_discovery(skb))
		return answer_neighbour(skb);
	if (is_link_multicast(skb))
		return drop_quietly(skb, DROP_UNSUPPORTED_L3_PROTOCOL, 0);
	return handle6(skb, skb->ifindex, 0);
}

/* Tail call of to_pod for IPv6. About neighbours the node itself may speak, and so do the answers of from_pod6. */
int to_pod6(struct __sk_buff *skb)
{
	if ((!skb->ingress_ifindex || skb->ingress_ifindex == skb->ifindex) && is_neighbour_discovery(skb))
		return TC_ACT_OK;
	if (is_link_multicast(skb))
		return drop_quietly(skb, DROP_UNSUPPORTED_L3_PROTOCOL, 1);
	return handle6(skb, origin_in_stack(skb), 1);
}

/* Tail call of from_network for IPv6. */
int from_network6(struct __sk_buff *skb)
{
	return handle6(skb, ORIGIN_NET, 0);
}

/* Tail call of all three for IPv4: packets that no entry of a connection decides about. */
int undecided4(struct __sk_buff *skb)
{
	return handle_undecided4(skb);
}

/* The same for IPv6. */
int undecided6(struct __sk_buff *skb)
{
	return handle_undecided6(skb);
}
