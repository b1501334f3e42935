/* Structures of maps that hold addresses; included once for each family with F() and struct F(address) set. */

/* A connection's packets in one direction, as they arrive: before any translation. Ports in network order;
 * ICMP echo has its identifier on the side that asks and the request's type on the other. */
struct F(tuple) {
	struct F(address) src;
	struct F(address) dst;
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 pad[3];
};

/* What is known of the packets of one tuple. */
struct F(ct_entry) {
	__u32 epoch; /* node_config.epoch under which the verdict was reached */
	__u32 origin; /* ifindex of the sending pod's host side, or ORIGIN_* */
	__u32 target; /* ifindex of the receiving pod's host side, 0: not a pod of this node */
	__u32 expires; /* tick after which the entry means nothing */
	__u8 flags;
	__u8 tcp_flags; /* all that this direction has sent */
	__u16 pad;
	struct F(tuple) to; /* with CT_TRANSLATE: what the packets become */
};

/* A pod of this node, by its address. */
struct F(endpoint) {
	__u64 ingress_set;
	__u64 egress_set;
	__u32 ifindex; /* host side of its veth */
	__u32 identity;
	__u32 flags;
	__u32 pad;
};

/* Whom an address belongs to. */
struct F(peer) {
	__u64 peer_class; /* 0: the class of `identity` */
	__u32 identity;
	__u32 pad;
};

/* A prefix, for the longest-prefix match. */
struct F(prefix) {
	__u32 length;
	struct F(address) address;
};

/* What clients address: a Service's address and port. Port and protocol 0: any other port of that address. */
struct F(frontend_key) {
	struct F(address) address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* The backends of a frontend. */
struct F(frontend) {
	__u64 backends; /* which backend set */
	__u32 count;
	__u32 flags;
};

/* One place in a backend set, 0 <= slot < count. */
struct F(slot_key) {
	__u64 backends;
	__u32 slot;
	__u32 pad;
};

/* Where a backend serves. */
struct F(backend) {
	struct F(address) address;
	__be16 port;
	__u16 flags;
};

/* Later fragments of a datagram have no ports; this finds those of the first one. */
struct F(fragment_key) {
	struct F(address) src;
	struct F(address) dst;
	__u32 id;
	__u32 protocol;
};

/* Ports of a fragmented datagram. */
struct F(fragment) {
	__be16 sport;
	__be16 dport;
};
