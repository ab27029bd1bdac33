/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the path to a far end is like, from the requests that go over it anyway:
 * the round trip from the quickest of those that found it idle, the bandwidth
 * from how fast answers come while more is under way than a round trip carries:
 * then the path was full. Else it was the reader who was slow, and it can be no
 * less than that. All are the best of the last ten to twenty seconds in which
 * anything was seen. The caller locks.
 */
#ifndef SPICEBD_PATH_H
#define SPICEBD_PATH_H

#include <stdbool.h>
#include <stdint.h>

/* Read-ahead that is proposed: the kernel's default at least. */
#define PATH_READ_AHEAD_MIN	(128u << 10)
#define PATH_READ_AHEAD_MAX	(16u << 20)

/**
 * struct path - what is known
 * @rtt, @rate, @least: best of this period and of the one before: us; bytes a
 *	second of a full path, and of one that was not
 * @period: when this one began, us
 * @samples: of rates in this period
 * @from: when the train that is measured began, us; 0: none
 * @bytes: that have come since, in @pieces; @piece: the largest
 * @depth: sum of the bytes under way after each
 */
struct path {
	uint32_t rtt[2];
	uint64_t rate[2];
	uint64_t least[2];
	uint64_t period;
	unsigned int samples;
	uint64_t from;
	uint64_t bytes;
	uint32_t piece;
	unsigned int pieces;
	uint64_t depth;
};

/* @rtt: a first guess, us; 0 none */
void path_init(struct path *p, uint32_t rtt);

/**
 * path_came() - an answer came
 * @sent, @now: us
 * @len: bytes
 * @alone: nothing else was under way when it was sent
 * @depth: bytes of others that are under way
 */
void path_came(struct path *p, uint64_t sent, uint64_t now, uint32_t len, bool alone,
	       uint64_t depth);

uint32_t path_rtt(const struct path *p);		/* us, 0 unknown */
uint64_t path_rate(const struct path *p);	/* bytes a second, 0: was never full */

/* Bandwidth times delay, bytes; of a rate that is not known yet, a careful guess. */
uint64_t path_bdp(const struct path *p);

/*
 * The read-ahead that fills it, bytes, in whole 64 KiB; in the first period not
 * less than for a fast path.
 */
uint32_t path_read_ahead(const struct path *p);

#endif /* SPICEBD_PATH_H */
