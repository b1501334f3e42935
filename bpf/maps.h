/* Maps that do not depend on the address family. PIN_DIR and the sizes come from the compiler's command line. */
#pragma once

/* The node's configuration: one entry. */
BPF_TABLE_PINNED("array", __u32, struct node_config, node_config, 1, PIN_DIR "/node_config");

/* Peer class of each identity. */
BPF_TABLE_PINNED("hash", __u32, __u64, identity_class, MAX_IDENTITIES, PIN_DIR "/identity_class",
		 BPF_F_NO_PREALLOC);

/* Verdicts of each policy set for each peer class, and its default row (class CLASS_DEFAULT). */
BPF_TABLE_PINNED("hash", struct row_key, struct row_block, policy_rows, MAX_ROWS, PIN_DIR "/policy_rows",
		 BPF_F_NO_PREALLOC);

/* Dropped packets: index is reason * 2, plus 1 for ingress. */
BPF_TABLE_PINNED("percpu_array", __u32, struct drop_counter, drops, 512, PIN_DIR "/drops");

/* Events that could not be told because a ring was full: [0] drops, [1] flows. */
BPF_TABLE_PINNED("percpu_array", __u32, __u64, events_lost, 2, PIN_DIR "/events_lost");

/* Drops, in a ring of their own that forwarded traffic cannot fill. */
BPF_RINGBUF_OUTPUT(drop_events, EVENT_PAGES);

/* Parts of programs, by TAIL_*: each is verified by itself, for a whole path of both families would be too much at once. */
BPF_PROG_ARRAY(tail_calls, 8);

/* First packets of connections. */
BPF_RINGBUF_OUTPUT(flow_events, EVENT_PAGES);
