/* Whose address is it: local endpoints, the ipcache and CIDR classes. */

/* The identity and peer class of an address. Class 0 means that none is known, which policy refuses. */
static __always_inline void F(find_peer)(struct F(peer) * found, const struct F(address) * address)
{
	struct F(prefix) prefix = {.length = sizeof(*address) * 8};
	struct F(address) key = *address;
	struct F(peer) * peer;
	__u64 *peer_class;
	__u32 identity;

	peer = F(ipcache).lookup(&key);
	if (!peer) {
		prefix.address = *address;
		peer = F(cidrs).lookup(&prefix);
	}
	found->identity = peer ? peer->identity : IDENTITY_WORLD;
	found->peer_class = peer ? peer->peer_class : 0;
	if (found->peer_class)
		return;
	identity = found->identity;
	peer_class = identity_class.lookup(&identity);
	if (peer_class)
		found->peer_class = *peer_class;
}
