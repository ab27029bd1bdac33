/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The event loop: descriptors, timers and tasks put off, on epoll, all on one
 * thread. libspice-server is driven by it, too; its own GLib sources would cost
 * several system calls for each event.
 *
 * A watch, timer or task may be removed at any time, also by its own callback.
 */
#ifndef SPICEBD_LINK_LOOP_H
#define SPICEBD_LINK_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#define LOOP_READ	1u
#define LOOP_WRITE	2u
#define LOOP_EDGE	4u	/* with both: told once of each change, not as long as it lasts */

struct loop_watch;
typedef void (*loop_watch_fn)(int fd, int events, void *opaque);

/* Returns NULL, with errno, when the kernel refuses the descriptor. */
struct loop_watch *loop_watch_add(int fd, unsigned int events, loop_watch_fn fn, void *opaque);
void loop_watch_set(struct loop_watch *w, unsigned int events);
void loop_watch_remove(struct loop_watch *w);	/* NULL is fine; before close() */

/* Makes @fd, which may be watched, a name of the file of @with. -errno */
int loop_replace(int fd, int with);

struct loop_timer;
typedef void (*loop_timer_fn)(void *opaque);

struct loop_timer *loop_timer_add(loop_timer_fn fn, void *opaque);
void loop_timer_start(struct loop_timer *t, uint32_t ms);	/* once */
void loop_timer_stop(struct loop_timer *t);
void loop_timer_remove(struct loop_timer *t);	/* NULL is fine */

/* A task runs once, after the callbacks that are running now have returned. */
struct loop_task {
	void (*fn)(void *opaque);
	void *opaque;
	bool queued;
	struct loop_task *next;
};
void loop_defer(struct loop_task *t);
void loop_cancel(struct loop_task *t);

int loop_init(void);		/* -errno */
void loop_busy_poll(bool yes);	/* spin.h; before the sandbox; no by default */
void loop_run(void);		/* until loop_quit() */
void loop_quit(void);

#endif /* SPICEBD_LINK_LOOP_H */
