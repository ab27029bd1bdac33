/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What makes a far medium near: the measured path, and of a read-only medium
 * the cache that is filled ahead of its readers. One for each set of I/O
 * threads (struct io), which all call it; it locks. A medium on a near path has
 * none, and its requests pay for nothing.
 *
 * Nothing that fails here is an error of a request: a request that does not
 * find its blocks is sent to the server by itself.
 */
#ifndef SPICEBD_FAR_H
#define SPICEBD_FAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ring.h"

/* A round trip from which on a path counts as far, us; and, for measuring only, as not near. */
#define FAR_RTT_US		2000
#define FAR_MEASURE_US		500
#define FAR_CACHE_DEFAULT	(64u << 20)
/* Idle for so long, the cache gives its memory back. */
#define FAR_IDLE_MS		600000

/**
 * struct far_params - what it has to know
 * @size: of the medium, bytes
 * @cache: bytes of memory at most; 0: only measure
 * @rtt: first guess at the round trip, us
 * @wake: requests of a queue may find their blocks now; called without the
 *	lock, on the thread of another queue
 */
struct far_params {
	uint64_t size;
	size_t cache;
	uint32_t rtt;
	void (*wake)(unsigned int queue, void *arg);
	void *arg;
};

enum far_verdict {
	FAR_HIT,	/* it is read: the slot's buffer is filled */
	FAR_WAIT,	/* its blocks are coming: ask again when woken */
	FAR_DIRECT,	/* send it to the server */
};

/* struct far_fetch - a block to be read from the server */
struct far_fetch {
	void *block;
	uint64_t offset;
	uint32_t len;
	void *buf;
	void *owner;			/* the caller's */
};

/**
 * struct far_stats - for people
 * @hits, @joined, @misses: reads that found everything, that waited for what
 *	was coming, that nobody had foreseen
 * @fetched, @wasted: bytes fetched ahead, and thrown away unread
 * @used: bytes of memory in use
 */
struct far_stats {
	uint32_t rtt;
	uint64_t rate;
	uint32_t read_ahead;
	size_t limit, used;
	uint64_t hits, joined, misses, hit_bytes;
	uint64_t fetched, wasted;
};

struct far;

/* Return: NULL: there is no memory; all goes without. */
struct far *far_new(const struct far_params *p);
void far_free(struct far *f);

/**
 * far_read() - a read that lies inside the medium
 * @again: it has waited
 */
enum far_verdict far_read(struct far *f, unsigned int queue, struct ring_slot *s, bool again);

/**
 * far_next() - what a queue's thread should fetch now
 *
 * First what requests wait for. Return: there is something; it counts as sent.
 */
bool far_next(struct far *f, unsigned int queue, struct far_fetch *out);

/**
 * far_done() - a fetch has ended
 * Return: requests of this queue may find their blocks now
 */
bool far_done(struct far *f, unsigned int queue, void *block, int error);

/* Whether @owner is a block of far_next(). */
bool far_owns(const struct far *f, const void *owner);

/**
 * far_sent() - a request goes to the server by itself
 * Return: its mark for far_came()
 */
uint64_t far_sent(struct far *f, unsigned int queue, uint32_t len);
void far_came(struct far *f, unsigned int queue, uint64_t mark, uint32_t len, bool ok);

/**
 * far_news() - after something came
 * Return: once: the proposed read-ahead is quite another one, far_stats() tells
 */
bool far_news(struct far *f);

/* The queue's connection is gone, and all that it fetched. */
void far_lost(struct far *f, unsigned int queue);

/* What is there may be of another medium: forget it. All connections are gone. */
void far_forget(struct far *f);

/**
 * far_idle() - time to give memory back?
 * Return: ms until then, at most; -1: there is nothing to give
 */
int far_idle(struct far *f, long long now);

void far_stats(struct far *f, struct far_stats *out);

#endif /* SPICEBD_FAR_H */
