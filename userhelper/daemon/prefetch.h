/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What to fetch before it is asked for: streams of reads, seen on the device
 * and so across the ends of files, each with a window that grows while its
 * reader comes along. Pure policy: no memory, no connections; the caller locks.
 */
#ifndef SPICEBD_PREFETCH_H
#define SPICEBD_PREFETCH_H

#include <stdbool.h>
#include <stdint.h>

#define PREFETCH_STREAMS	16

/**
 * struct prefetch_stream - a reader that goes forward
 * @next: where it is, bytes
 * @fetched, @ahead: from here to there is still to be fetched
 * @window: how far ahead of it, bytes
 * @run: bytes that it has read in a row
 * @used: when it last read, by prefetch.clock; 0: not in use
 */
struct prefetch_stream {
	uint64_t next;
	uint64_t fetched, ahead;
	uint32_t window;
	uint64_t run;
	uint64_t used;
};

/**
 * struct prefetch - all streams of a medium
 * @size: of the medium, bytes
 * @first, @most: window of a new stream, and of the longest
 * @penalty: how often @first is halved
 * @good, @bad: bytes that were asked for and that were not, lately
 */
struct prefetch {
	uint64_t size;
	uint32_t first, most;
	unsigned int penalty;
	uint64_t good, bad;
	uint64_t clock;
	struct prefetch_stream stream[PREFETCH_STREAMS];
};

void prefetch_init(struct prefetch *p, uint64_t size);

/**
 * prefetch_path() - what the path can have under way
 * @bdp: bandwidth times delay, bytes
 * @limit: longest window that there is memory for
 */
void prefetch_path(struct prefetch *p, uint64_t bdp, uint32_t limit);

/**
 * prefetch_read() - somebody reads
 * @late: it has to wait: the window was too short
 */
void prefetch_read(struct prefetch *p, uint64_t offset, uint32_t len, bool late);

/**
 * prefetch_next() - the next block to fetch, of the stream that read last
 * @block: bytes of one
 * @index: out
 * Return: there is one; prefetch_taken() or the next prefetch_read() goes on
 */
bool prefetch_next(struct prefetch *p, uint32_t block, uint64_t *index);
void prefetch_taken(struct prefetch *p, uint32_t block, uint64_t index);

/* Bytes that were fetched ahead were asked for, or thrown away unread. */
void prefetch_good(struct prefetch *p, uint32_t bytes);
void prefetch_bad(struct prefetch *p, uint64_t bytes);

/* All readers are gone: what was planned is not wanted. */
void prefetch_stop(struct prefetch *p);

#endif /* SPICEBD_PREFETCH_H */
