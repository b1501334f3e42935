/* Structures of maps and events that do not depend on the address family, and addresses. Sizes leave no hidden padding. */
#pragma once

/* An IPv4 address, network order. */
struct address4 {
	__be32 word;
};

/* An IPv6 address, network order. */
struct address6 {
	__be32 word[4];
};

/* State of the node that every packet needs. */
struct node_config {
	__u32 epoch; /* moves whenever a cached verdict might have changed; odd while maps are being changed */
	__u8 mac[6]; /* address of the host side of every pod's veth */
	__u8 pad[6];
};

/* Which row holds the verdicts of a policy set for a peer class; `block` counts from 0. */
struct row_key {
	__u64 set;
	__u64 peer_class;
	__u32 block;
	__u32 pad;
};

/* Ports first..last (host order, ICMP: types) of one protocol and what becomes of them. */
struct port_range {
	__u16 first;
	__u16 last;
	__u8 protocol;
	__u8 action;
	__u16 rule;
	__u16 redirect_port;
	__u16 pad;
};

/* Up to ROW_RANGES ranges of a row, sorted by (protocol, first). Block 0 speaks for the row. */
struct row_block {
	__u16 ranges; /* of the whole row */
	__u16 rule; /* of `action` */
	__u8 action; /* where no range matches */
	__u8 pad[3];
	struct port_range range[ROW_RANGES];
};

/* Packets and bytes dropped for one reason in one direction. */
struct drop_counter {
	__u64 packets;
	__u64 bytes;
};

/* What is told of a packet. Addresses of IPv4 stand in the first four bytes. */
struct event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u64 egress_set;
	__u64 ingress_set;
	__u8 source[16];
	__u8 destination[16]; /* after translation */
	__u8 frontend[16];
	__u32 source_identity;
	__u32 destination_identity;
	__u32 ifindex;
	__u32 length;
	__u16 source_port; /* ports: network order */
	__u16 destination_port;
	__u16 frontend_port;
	__u16 egress_rule;
	__u16 ingress_rule;
	__u8 type;
	__u8 reason;
	__u8 flags;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 pad[6];
};
