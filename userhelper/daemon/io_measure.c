// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is told of the connections: bytes each way, and how long the far end takes
 * to answer. Each thread has its own figures, which only it writes; one request at
 * a time, now and then, is timed, so that this costs next to nothing.
 */
#include "io_impl.h"

#define SAMPLE_MS	100	/* between two that are timed */
#define SMOOTH		8	/* a new one counts as one in so many */

static void add(uint64_t *to, uint64_t n)
{
	__atomic_store_n(to, *to + n, __ATOMIC_RELAXED);
}

void ioq_traffic(struct ioq *q, uint64_t sent, uint64_t received)
{
	add(&q->sent_bytes, sent);
	add(&q->received_bytes, received);
}

void ioq_timed_sent(struct ioq *q, const struct ring_slot *s)
{
	if (q->timed || q->now < q->timed_next)
		return;
	q->timed = s;
	q->timed_us = g_get_monotonic_time();
}

void ioq_timed_came(struct ioq *q, const struct ring_slot *s)
{
	int64_t us, old = q->latency_us;

	if (q->timed != s)
		return;
	us = MAX(g_get_monotonic_time() - q->timed_us, 1);
	q->timed = NULL;
	q->timed_next = q->now + SAMPLE_MS;
	if (old)
		us = MAX(old + (us - old) / SMOOTH, 1);
	__atomic_store_n(&q->latency_us, us, __ATOMIC_RELAXED);
}

void io_figures(const struct io *io, struct io_figures *out)
{
	uint64_t sum = 0;
	unsigned int n = 0;

	*out = (struct io_figures) { 0 };
	for (unsigned int i = 0; i < io->n; i++) {
		const struct ioq *q = &io->q[i];
		int64_t us = __atomic_load_n(&q->latency_us, __ATOMIC_RELAXED);

		out->sent += __atomic_load_n(&q->sent_bytes, __ATOMIC_RELAXED);
		out->received += __atomic_load_n(&q->received_bytes, __ATOMIC_RELAXED);
		sum += us;
		n += us > 0;
	}
	out->latency_us = n ? sum / n : 0;
}
