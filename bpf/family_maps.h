/* Maps that hold addresses; included once for each family. */

/* Connections: two entries each, one for the tuple of each direction. */
BPF_TABLE_PINNED("lru_hash", struct F(tuple), struct F(ct_entry), F(ct), MAX_CT, PIN_DIR "/" F_NAME("ct"));

/* Pods of this node. */
BPF_TABLE_PINNED("hash", struct F(address), struct F(endpoint), F(endpoints), MAX_ENDPOINTS,
		 PIN_DIR "/" F_NAME("endpoints"), BPF_F_NO_PREALLOC);

/* Identity of each pod's and node's address in the cluster. */
BPF_TABLE_PINNED("hash", struct F(address), struct F(peer), F(ipcache), MAX_IPCACHE,
		 PIN_DIR "/" F_NAME("ipcache"), BPF_F_NO_PREALLOC);

/* Identity and class of all other addresses, by longest prefix. */
BPF_TABLE_PINNED("lpm_trie", struct F(prefix), struct F(peer), F(cidrs), MAX_CIDRS,
		 PIN_DIR "/" F_NAME("cidrs"), BPF_F_NO_PREALLOC);

/* Service frontends. */
BPF_TABLE_PINNED("hash", struct F(frontend_key), struct F(frontend), F(frontends), MAX_FRONTENDS,
		 PIN_DIR "/" F_NAME("frontends"), BPF_F_NO_PREALLOC);

/* Backend sets, one entry a backend. */
BPF_TABLE_PINNED("hash", struct F(slot_key), struct F(backend), F(backends), MAX_BACKENDS,
		 PIN_DIR "/" F_NAME("backends"), BPF_F_NO_PREALLOC);

/* Ports of fragmented datagrams on their way. */
BPF_TABLE_PINNED("lru_hash", struct F(fragment_key), struct F(fragment), F(fragments), MAX_FRAGMENTS,
		 PIN_DIR "/" F_NAME("fragments"));
