/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A medium that is in a drive through us, or is on its way: source, connections
 * and threads. Main thread, but for the tasks that hold a reference.
 */
#ifndef SPICEBD_MEDIUM_H
#define SPICEBD_MEDIUM_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "faropts.h"
#include "io.h"
#include "kernel.h"
#include "nbdconn.h"
#include "source.h"
#include "work.h"

struct drive;

enum medium_state {
	MEDIUM_COMING,		/* being inserted */
	MEDIUM_IN,
	MEDIUM_OUT,
};

/**
 * struct medium - a medium
 * @name: for people
 * @id, @id_len: identity as the kernel keeps it
 * @conns: NBD connections, and so threads
 * @sock: sockets for them to bind, or -1
 * @io: its threads, or NULL while nobody serves it
 * @attached: we are the drive's helper
 * @link_up: the far end is there
 * @stalled: the connections stand but are silent
 * @stall_ms: silence that is a stall
 * @up_at: now_ms() when the connections came up
 * @reason: why it is not up
 * @used, @users: what its share was told last: that somebody uses it, and who
 * @deadline: now_ms() by which it must be up again; 0: none
 * @clean: (adopting) the earlier spicebdd left nothing unanswered or unflushed
 * @fence: (adopting) requests may still be under way
 * @flush_lost: the next flush has to fail, once there are threads
 * @reconnect: task that looks for the far end
 * @far: how it is to be made near, resolved
 * @ending: threads of ours that have not ended yet
 */
struct medium {
	gint refs;
	struct drive *drive;
	enum medium_state state;
	struct source *source;
	struct nbd_props props;
	char *name;
	uint8_t id[SPICEBD_MEDIUM_ID_MAX];
	uint32_t id_len;
	bool read_only;
	enum medium_kind kind;
	unsigned int conns;
	int sock[IO_QUEUES_MAX];
	struct io *io;
	bool attached;
	uint64_t generation;
	bool link_up, stalled;
	int stall_ms;
	long long up_at;
	char reason[256], users[240];
	bool used;
	long long deadline;
	guint deadline_timer;
	bool clean, fence, flush_lost, dirty_unknown;
	struct task *reconnect;
	struct faropts far;
	unsigned int ending;
};

struct medium *medium_new(struct drive *d, struct source *s, const struct nbd_props *p);
struct medium *medium_ref(struct medium *m);
void medium_unref(struct medium *m);

/* What the kernel is told of it. */
void medium_for_kernel(const struct medium *m, struct kernel_medium *km);

/* What medium_attach() needs and might not get. */
int medium_prepare(struct medium *m, struct derr *e);

/**
 * medium_attach() - become the drive's helper, bind queues, start threads
 * @h: connections, medium.conns of them; taken over in any case
 */
int medium_attach(struct medium *m, struct nbd_handle **h, struct derr *e);

/* The kernel has let it go: end threads and source. */
void medium_out(struct medium *m);

/* Give the threads new connections; taken over. */
void medium_connect(struct medium *m, struct nbd_handle **h, unsigned int n);

/* Kernel and threads let go of each other, the medium stays in. */
void medium_release(struct medium *m);

/* Nobody serves the drive any more though we are here: begin anew. */
void medium_orphaned(struct medium *m);

/* Look for the far end; reconnect.c. */
void medium_reconnect(struct medium *m);
void medium_set_deadline(struct medium *m, long long deadline);
/* From what the kernel says is left of its clock; 0: none runs. */
long long medium_hold_deadline(const struct kernel_drive *k);

/* Answer what is under way, flush, let go: for a successor. */
void medium_drain(struct medium *m, int limit_ms);

/* All threads have ended: of what was ejected, too. */
bool media_quiet(void);

const char *medium_kind_str(enum medium_kind k);

#endif /* SPICEBD_MEDIUM_H */
