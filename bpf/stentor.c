/* The node's datapath: one program for each place where packets of pods pass. BCC compiles it once for a node; what
 * differs between pods is in maps. services/datapath/kernel/source.py joins the headers into one text, for BCC
 * rewrites map accesses in its main file only. */
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/bpf.h>

#include "compat.h"
#include "consts.h"
#include "drops.h"
#include "types.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"
#include "events.h"

#define FAMILY 4
#include "family.h"
#undef FAMILY

#include "arp.h"

/* Counts a packet that is not told: noise of protocols that no pod needs. */
static __always_inline int drop_quietly(struct __sk_buff *skb, __u8 reason, int ingress)
{
	count_drop(skb, reason, ingress);
	return TC_ACT_SHOT;
}

/* tc ingress of the host side of a pod's veth: what the pod sends. */
int from_pod(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		return drop_quietly(skb, DROP_UNSUPPORTED_L2_PROTOCOL, 0);
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return handle4(skb, skb->ifindex, 0);
	case bpf_htons(ETH_P_ARP):
		return answer_arp(skb);
	case bpf_htons(ETH_P_IPV6):
		return drop_quietly(skb, DROP_UNSUPPORTED_L3_PROTOCOL, 0);
	}
	return drop_quietly(skb, DROP_UNSUPPORTED_L2_PROTOCOL, 0);
}

/* tc egress of the host side of a pod's veth: what the node's stack sends to the pod. */
int to_pod(struct __sk_buff *skb)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return handle4(skb, skb->ingress_ifindex ? ORIGIN_NET : ORIGIN_HOST, 1);
	case bpf_htons(ETH_P_ARP):
		return TC_ACT_OK;
	case bpf_htons(ETH_P_IPV6):
		return drop_quietly(skb, DROP_UNSUPPORTED_L3_PROTOCOL, 1);
	}
	return drop_quietly(skb, DROP_UNSUPPORTED_L2_PROTOCOL, 1);
}

/* tc ingress of the node's uplink: what comes from other machines. All that is not for a pod is the stack's, and so is
 * what carries a VLAN tag: it is for an interface on top of this one. */
int from_network(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP) && !skb->vlan_present)
		return handle4(skb, ORIGIN_NET, 0);
	return TC_ACT_OK;
}
