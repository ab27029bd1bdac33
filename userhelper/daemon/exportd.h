/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The spicebd-export that serves our exports, as seen from here: it is asked
 * for, talked to, found again after our death, and asked for anew after its
 * own. What the exports are is export.c's. Main thread.
 */
#ifndef SPICEBD_EXPORTD_H
#define SPICEBD_EXPORTD_H

#include <stdbool.h>
#include <stdint.h>

#include "derr.h"
#include "exportproto.h"

typedef void (*exportd_fn)(int r, const struct derr *e, void *arg);

/**
 * struct exportd_ops - what comes from it
 * @down: it is gone, and all clients with it
 * @up: it is there again: tell it the exports; called between the two SYNCs
 * @open: a client wants a stream of export @number; answer with
 *	exportd_stream()
 * @clients: the number of an export's clients
 */
struct exportd_ops {
	void (*down)(void);
	void (*up)(void);
	void (*open)(uint32_t tag, uint32_t number);
	void (*clients)(uint32_t number, uint32_t n);
};

/* It listens, or is to listen, here. */
bool exportd_wanted(void);
const struct export_job *exportd_job(void);

/**
 * exportd_start() - have one started
 * @job: magic and id are filled in here
 * @done: it listens, or why not
 */
void exportd_start(const struct export_job *job, const struct exportd_ops *ops,
		   exportd_fn done, void *arg);

/* That of an earlier spicebdd, or a new one in its place. */
void exportd_adopt(const struct export_job *job, const struct exportd_ops *ops);

/* It ends, and all its clients with it; @done says that it has. */
void exportd_stop(exportd_fn done, void *arg);

/* We end: it stays. */
void exportd_leave(void);

/* End those that no spicebdd knows of. */
void exportd_reap(void);

/* @c: magic and tag are filled in here. @done: may be NULL */
void exportd_call(struct export_ctl *c, exportd_fn done, void *arg);

/* @fd: taken over; -1 with @e. From the main thread. */
void exportd_stream(uint32_t tag, int fd, const char *name, const struct derr *e);

#endif /* SPICEBD_EXPORTD_H */
