/* Limits and codes that the C code and Python share; Python reads this file, so each is one #define. */
#pragma once

/* Identities with a fixed number (shared/contract/reserved.py). */
#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2

/* Policy sets with a fixed number; all others are content hashes. */
#define SET_NOT_READY 0 /* no policy is known yet: drop */
#define SET_OPEN 1      /* no policy selects the endpoint in this direction: allow */

/* Class of a set's default row in `policy_rows`. */
#define CLASS_DEFAULT 0

/* Actions of rows and port ranges. */
#define ACTION_DENY 0
#define ACTION_ALLOW 1
#define ACTION_REDIRECT 2
#define ACTION_AUDIT 3

/* "No rule decided", in rows and events. */
#define RULE_NONE 0xffff

/* Port ranges in one block of a row, and blocks that a row may have. */
#define ROW_RANGES 8
#define ROW_BLOCKS 64

/* Flags of an endpoint. */
#define ENDPOINT_READY 1

/* Backends of one set that are looked through for the one that a connection already has. */
#define BACKENDS_SEARCHED 128

/* Flags of a conntrack entry. */
#define CT_REPLY 1       /* packets of this tuple answer a connection, they do not open one */
#define CT_TRANSLATE 2   /* packets of this tuple are rewritten to `to` */
#define CT_ESTABLISHED 4 /* both directions have been seen */
#define CT_CLOSING 8     /* a reset, or a FIN of each side, has been seen */
#define CT_HAIRPIN 16    /* a pod that reaches itself through a Service */
#define CT_SERVICE 32    /* the client addressed a frontend */

/* Source ports given to connections whose own is taken: from this one on, and how many are tried. */
#define OTHER_PORTS 49152
#define OTHER_PORT_ATTEMPTS 4

/* First port of those that Linux gives to clients (net.ipv4.ip_local_port_range): who speaks from one to a
 * lower one is taken to be the client of a connection that was not seen to open. */
#define CLIENT_PORTS 32768

/* Where packets of a conntrack entry come from, if not from a pod (then: ifindex of its host side). */
#define ORIGIN_NET 0
#define ORIGIN_HOST 1 /* ifindex of lo, which no pod can have */

/* Life of idle conntrack entries, in ticks of 2^30 ns (1.07 s). */
#define TICK_SHIFT 30
#define LIFE_TCP_OPENING 56
#define LIFE_TCP_ESTABLISHED 7450
#define LIFE_TCP_CLOSING 10
#define LIFE_OTHER 56

/* Programs in `tail_calls`. */
#define TAIL_FROM_POD6 0
#define TAIL_TO_POD6 1
#define TAIL_FROM_NETWORK6 2
#define TAIL_UNDECIDED4 3
#define TAIL_UNDECIDED6 4

/* Types and flags of events. */
#define EVENT_DROP 1
#define EVENT_NEW 2
#define EVENT_EGRESS 1   /* the egress policy of the source was asked */
#define EVENT_INGRESS 2  /* the ingress policy of the destination was asked */
#define EVENT_REPLY 4    /* the packet answers a connection */
#define EVENT_SERVICE 8  /* `frontend` holds the address that the client used */
#define EVENT_AUDIT_EGRESS 16  /* the egress policy denies, but only audits */
#define EVENT_AUDIT_INGRESS 64 /* the ingress policy does */
#define EVENT_AT_INGRESS 32 /* a drop was decided for the destination, not for the source */

/* Source address of a hairpin connection as its own pod sees it: 169.254.42.1, fd53:7465:6e74:6f72::1, network order. */
#define HAIRPIN_ADDRESS4 bpf_htonl(0xa9fe2a01)
#define HAIRPIN_ADDRESS6 {bpf_htonl(0xfd537465), bpf_htonl(0x6e746f72), 0, bpf_htonl(1)}
