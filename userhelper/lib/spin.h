/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether to look for the next event for a moment before sleeping until it comes.
 *
 * Where one request at a time goes through several processes, each sleeps for less
 * time than it takes to wake it, on a processor that has gone idle meanwhile. So
 * after a row of sleeps that were shorter than SPIN_SLEEP_NS it is better to look. A look
 * in vain makes the row that is asked for twice as long, so that it stays rare where
 * events are far apart, and nothing is looked for after a pause.
 *
 * Pure but for spin_init() and spin_now().
 */
#ifndef SPICEBD_SPIN_H
#define SPICEBD_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#define SPIN_NS		200000u	/* a look is as long as that */
#define SPIN_SLEEP_NS	300000u	/* a short sleep: an event within SPIN_NS, and the waking */
#define SPIN_ROW_MIN	16u
#define SPIN_ROW_MAX	1024u
#define SPIN_FORGIVE	8u	/* looks with success that make up for one in vain */

struct spin {
	bool off;
	uint32_t row;		/* short sleeps, one after another */
	uint32_t need;		/* ... of which so many are asked for */
	uint32_t hits;
};

/**
 * spin_init() - no row yet
 * @off: never look; so it is, too, where this process has only one processor
 *
 * Asks for the processors: before a sandbox forbids it.
 */
void spin_init(struct spin *s, bool off);

/* Nanoseconds of a clock that goes on. */
uint64_t spin_now(void);

/* Whether to look; then spin_looked() follows, and otherwise spin_slept(). */
bool spin_wanted(const struct spin *s);

/**
 * spin_looked() - how that went
 * @came: within SPIN_NS there was something
 * @alone: it was one event: where there are more, sleeping gathers them
 */
void spin_looked(struct spin *s, bool came, bool alone);

/* @ns: for which it slept; any value where s->off */
void spin_slept(struct spin *s, uint64_t ns, bool alone);

#endif /* SPICEBD_SPIN_H */
