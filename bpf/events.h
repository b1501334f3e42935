/* What leaves the kernel: counters of drops, and events through the rings. What a full ring refuses is counted. */
#pragma once

#define RING_DROPS 0
#define RING_FLOWS 1

/* Tells an event; a full ring is counted. */
static __always_inline void tell(struct event *event)
{
	__u32 ring = event->type == EVENT_DROP ? RING_DROPS : RING_FLOWS;
	long full;
	__u64 *lost;

	if (ring == RING_DROPS)
		full = drop_events.ringbuf_output(event, sizeof(*event), 0);
	else
		full = flow_events.ringbuf_output(event, sizeof(*event), 0);
	if (!full)
		return;
	lost = events_lost.lookup(&ring);
	if (lost)
		*lost += 1;
}

/* Counts a dropped packet. */
static __always_inline void count_drop(struct __sk_buff *skb, __u8 reason, int ingress)
{
	__u32 index = reason * 2 + !!ingress;
	struct drop_counter *counter = drops.lookup(&index);

	if (counter) {
		counter->packets += 1;
		counter->bytes += skb->len;
	}
}
