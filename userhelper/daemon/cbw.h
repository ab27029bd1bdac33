/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copy before write: what a snapshot does to the writes of its medium. The first
 * that goes to a cluster waits until the cluster's old bytes are in the scratch
 * file. The I/O threads read them over their own connections; a thread of this
 * one's own writes them, since storage can be slow, and a drive's is not that.
 *
 * Nothing here fails a request: whatever goes wrong ends the snapshot, and lets
 * go of all that waits.
 */
#ifndef SPICEBD_CBW_H
#define SPICEBD_CBW_H

#include <stdbool.h>
#include <stdint.h>

#include "snapmap.h"

struct cbw;

/**
 * struct cbw_copy - a cluster that is being copied; its reader's until it says how
 *	that went
 * @buf: for @len bytes from @offset of the medium on
 * @next: the reader's
 */
struct cbw_copy {
	struct cbw *c;
	uint64_t cluster, offset;
	uint32_t len;
	uint8_t *buf;
	struct cbw_copy *next;
	long long since;
};

/**
 * struct cbw_params - what it works with
 * @map: taken over
 * @scratch: file, empty, of the medium's size; taken over
 * @limit_ms: so long may the scratch file's storage take, cbw_watch() sees to it
 * @failed: once, on any thread, with no lock held: the snapshot has ended
 */
struct cbw_params {
	struct snapmap map;
	int scratch;
	int limit_ms;
	void (*failed)(void *arg);
	void *arg;
};

/* Return: NULL: no memory, or no thread; @p's are the caller's then */
struct cbw *cbw_new(const struct cbw_params *p);
struct cbw *cbw_ref(struct cbw *c);
void cbw_unref(struct cbw *c);

/**
 * cbw_attach() - whom to wake
 * @wake: what waits in @queue may go on; called with cbw's lock held
 *
 * With NULL: nobody any more; when it returns nobody is being woken.
 */
void cbw_attach(struct cbw *c, void (*wake)(unsigned int queue, void *arg), void *arg);

/**
 * cbw_begin() - may a write to these bytes, which lie inside the medium, be sent?
 * @queue: is woken when it should ask again; below 32
 * @copy: out: a cluster that the caller has to read first; NULL: none can be given
 *	now. May be NULL: the caller can read none
 *
 * Return: it may, now and for good
 */
bool cbw_begin(struct cbw *c, unsigned int queue, uint64_t offset, uint64_t len,
	       struct cbw_copy **copy);

/* It was read, or could not be. @error: errno value */
void cbw_read_done(struct cbw_copy *copy, int error);

/* It will not be read: the connection is gone. Somebody else will. */
void cbw_read_lost(struct cbw_copy *copy);

/* To be called every second or so. */
void cbw_watch(struct cbw *c, long long now);

/* The snapshot is over: its readers are told, and what waits is let go. */
void cbw_end(struct cbw *c, int error, const char *why);

/* As snapmap_over(). */
int cbw_over(struct cbw *c, char *why);

/* Bytes that were copied. */
uint64_t cbw_copied(struct cbw *c);

#endif /* SPICEBD_CBW_H */
