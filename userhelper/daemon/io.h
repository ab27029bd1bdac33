/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The I/O of one medium: threads, each with one queue socket of the kernel's
 * and one NBD connection. A request stays in its slot, and its payload in the
 * slot's buffer, from the kernel's message to the kernel's answer.
 *
 * While the far end is lost the requests are kept, and sent again over the next
 * connections; whether that is right is decided by the caller before it hands
 * these over.
 */
#ifndef SPICEBD_IO_H
#define SPICEBD_IO_H

#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>
#include <linux/spicebd.h>

#include "cbw.h"
#include "derr.h"
#include "far.h"
#include "nbdconn.h"
#include "ring.h"

#define IO_QUEUES_MAX	4

enum io_event {
	IO_LOST,	/* a connection broke; all of them should be dropped */
	IO_STALLED,	/* requests are under way and nothing has come for long */
	IO_ALIVE,	/* ... and then something came */
	IO_PATH,	/* the path is another one than io_far() said before */
	IO_FLUSH_FAILED,	/* as io_fail_flush() wanted it */
	IO_ENDED,	/* all threads have ended, after io_stop() */
};

/**
 * struct io_figures - what has gone over the connections since the medium came
 * @sent, @received: payload, bytes
 * @latency_us: from sending a request to its answer, of late; 0: none was timed
 */
struct io_figures {
	uint64_t sent, received;
	int64_t latency_us;
};

/**
 * struct io_params - what the threads need to know
 * @memory: bytes that each thread registers with the kernel, or 0
 * @write_limit: bytes of writes under way, over all threads; 0: no limit
 * @measure: the path is far enough to be measured
 * @cache: bytes of memory for what is fetched ahead of readers, or 0
 * @libnbd: leave the transmission to it
 * @event: called on the main thread; @round is that of io_connect()
 */
struct io_params {
	uint16_t family;
	uint32_t max_io;
	size_t memory;
	uint32_t write_limit;
	bool measure;
	size_t cache;
	bool libnbd;
	struct nbd_props props;
	bool read_only;
	void (*event)(enum io_event ev, unsigned int round, const char *text, void *arg);
	void *arg;
};

enum io_stop {
	IO_STOP_NOW,	/* what is under way is dropped; the kernel knows */
	IO_STOP_DRAIN,	/* answer what is under way, take nothing new, flush */
};

struct io;

struct io *io_new(const struct io_params *p);

/**
 * io_add_queue() - bind one queue socket; its thread starts with io_start()
 * @sock: of ring_socket(), taken over
 */
int io_add_queue(struct io *io, int sock, const uint8_t key[SPICEBD_KEY_LEN],
		 struct derr *e);

/**
 * io_start() - start the threads
 *
 * Return: 0 or -errno; after an error only io_stop() is of use.
 */
int io_start(struct io *io);
unsigned int io_nr_queues(const struct io *io);

/**
 * io_connect() - hand over connections, one for each queue
 *
 * @stall_ms: silence of them that is a stall
 *
 * Everything that is unanswered is sent over them. The handles are taken over.
 */
void io_connect(struct io *io, struct nbd_handle **h, unsigned int n, int stall_ms);

void io_figures(const struct io *io, struct io_figures *out);

/* Number of the last io_connect(). */
unsigned int io_round(const struct io *io);

/* Close the connections; requests are kept. */
void io_disconnect(struct io *io);

/**
 * io_stop() - end the threads; @event says IO_ENDED later, and after that the
 * caller calls io_free(). A drain ends after @limit_ms at the latest.
 */
void io_stop(struct io *io, enum io_stop how, int limit_ms);
void io_free(struct io *io);

/* After IO_ENDED of a drain: nothing was left unanswered, all is flushed. */
bool io_clean(const struct io *io);

/* All connections are closed: io_disconnect() is done. Tasks may wait for it. */
bool io_disconnected(struct io *io);

/*
 * Writes, trims and zeroes that were sent and not answered: what a fence is
 * needed for.
 */
unsigned int io_sent_writes(const struct io *io);
/* All requests that are not answered. */
unsigned int io_unanswered(const struct io *io);

/* Acknowledged writes since the last good flush. */
bool io_dirty(const struct io *io);

/* The next flush answers EIO: what it should have saved may be lost. */
void io_fail_flush(struct io *io);

/* Whether that is still to come. */
bool io_flush_doubted(const struct io *io);

/* Whether that has been told. */
bool io_flush_failed(const struct io *io);

/*
 * What was fetched ahead may be of another store than the one behind the next
 * connections: between io_disconnect() and io_connect().
 */
void io_forget(struct io *io);

/* False: the path is not measured. */
bool io_far(struct io *io, struct far_stats *out);

/**
 * io_set_cbw() - what writes wait for from now on; NULL: for nothing any more
 *
 * A reference is taken. Where it is to be exact, nothing may be under way, and
 * the kernel must not yet know that it may send something.
 */
void io_set_cbw(struct io *io, struct cbw *c);

/* Connections that were handed over and not lost. */
unsigned int io_connections(const struct io *io);

#endif /* SPICEBD_IO_H */
