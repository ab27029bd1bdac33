/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A spicebd-export that serves exports of ours, as seen from here: it is asked
 * for, talked to, found again after our death, and asked for anew after its
 * own. What the exports are is its owner's: export.c's, which has
 * one, or snapshot.c's, which has one for each snapshot. Main thread.
 */
#ifndef SPICEBD_EXPORTD_H
#define SPICEBD_EXPORTD_H

#include <stdbool.h>
#include <stdint.h>

#include "derr.h"
#include "exportproto.h"

typedef void (*exportd_fn)(int r, const struct derr *e, void *arg);

struct exportd;

/**
 * struct exportd_ops - what comes from it
 * @down: it is gone, and all clients with it
 * @up: it is there again: tell it the exports; called between the two SYNCs
 * @open: a client wants a stream of export @number; answer with
 *	exportd_stream()
 * @clients: the number of an export's clients
 */
struct exportd_ops {
	void (*down)(void *arg);
	void (*up)(void *arg);
	void (*open)(void *arg, uint32_t tag, uint32_t number);
	void (*clients)(void *arg, uint32_t number, uint32_t n);
};

/* One that is not started yet. @arg: of @ops */
struct exportd *exportd_new(const struct exportd_ops *ops, void *arg);

/* One that is stopped, or that is given up: the next exportd_reap() ends it. */
void exportd_free(struct exportd *x);

/* It listens, or is to listen, at its job's address. */
bool exportd_wanted(const struct exportd *x);
const struct export_job *exportd_job(const struct exportd *x);

/**
 * exportd_start() - have one started
 * @job: magic and id are filled in here
 * @done: it listens, or why not
 */
void exportd_start(struct exportd *x, const struct export_job *job, exportd_fn done, void *arg);

/* That of an earlier spicebdd, or a new one in its place. */
void exportd_adopt(struct exportd *x, const struct export_job *job);

/* It ends, and all its clients with it; @done says that it has. */
void exportd_stop(struct exportd *x, exportd_fn done, void *arg);

/* We end: it stays. */
void exportd_leave(struct exportd *x);

/* End those that are none of ours. */
void exportd_reap(void);

/* @c: magic and tag are filled in here. @done: may be NULL */
void exportd_call(struct exportd *x, struct export_ctl *c, exportd_fn done, void *arg);

/**
 * exportd_stream() - answer an open
 * @fd, @n: taken over; EXPORT_FDS_MAX at most; none with @e
 * @name: of the export at the stream's server
 */
void exportd_stream(struct exportd *x, uint32_t tag, const int *fd, unsigned int n,
		    const char *name, const struct derr *e);

#endif /* SPICEBD_EXPORTD_H */
