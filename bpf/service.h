/* Service load balancing: which backend a frontend's next connection goes to. */

/* The frontend that a client's packets are for, 0: none. */
static __always_inline struct F(frontend) * F(frontend_of)(const struct F(tuple) * client)
{
	struct F(frontend_key) key = {};

	key.address = client->dst;
	key.port = client->dport;
	key.protocol = client->protocol;
	return F(frontends).lookup(&key);
}

/* Replaces a frontend as destination of `flow` by one of its backends. Returns 1 when it did, 0 when the destination
 * is no frontend, else a negative drop reason. A backend set never changes: when its frontend moves to another set
 * between the two look-ups, the second try sees the new one. */
static __always_inline int F(select_backend)(struct F(tuple) * flow)
{
	struct F(frontend_key) key = {};
	struct F(frontend) * frontend;
	struct F(backend) * backend;
	struct F(slot_key) slot = {};
	int attempt;

	key.address = flow->dst;
#pragma unroll
	for (attempt = 0; attempt < 2; attempt++) {
		frontend = F(frontend_of)(flow);
		if (!frontend)
			return F(frontends).lookup(&key) ? -DROP_SERVICE_BACKEND_NOT_FOUND : 0;
		if (!frontend->count)
			return -DROP_SERVICE_BACKEND_NOT_FOUND;
		slot.backends = frontend->backends;
		slot.slot = bpf_get_prandom_u32() % frontend->count;
		backend = F(backends).lookup(&slot);
		if (backend) {
			flow->dst = backend->address;
			flow->dport = backend->port;
			return 1;
		}
	}
	return -DROP_SERVICE_BACKEND_NOT_FOUND;
}

/* Whether `to` still is one of the backends of the frontend that a client's packets are for. Of a set that is too large
 * to search, every backend is taken to be. */
static __always_inline int F(serves)(const struct F(tuple) * client, const struct F(tuple) * to)
{
	struct F(frontend) *frontend = F(frontend_of)(client);
	struct F(backend) * backend;
	struct F(slot_key) slot = {};

	if (!frontend)
		return 0;
	slot.backends = frontend->backends;
	for (slot.slot = 0; slot.slot < BACKENDS_SEARCHED; slot.slot++) {
		if (slot.slot >= frontend->count)
			return 0;
		backend = F(backends).lookup(&slot);
		if (backend && F(same_address)(&backend->address, &to->dst) && backend->port == to->dport)
			return 1;
	}
	return 1;
}
