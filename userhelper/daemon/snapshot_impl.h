/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of snapshot.h share: snapshot_make.c makes them, snapshot_serve.c
 * hands their clients what they read from, snapshot.c has the rest.
 */
#ifndef SPICEBD_SNAPSHOT_IMPL_H
#define SPICEBD_SNAPSHOT_IMPL_H

#include <glib.h>

#include "cbw.h"
#include "exportd.h"
#include "medium.h"
#include "snapshot.h"

enum snapshot_state {
	SNAPSHOT_COMING,	/* blocks already */
	SNAPSHOT_STANDS,
	SNAPSHOT_FAILED,	/* its clients get errors; shown until it is deleted */
	SNAPSHOT_ENDING,
};

/**
 * struct snapshot - one
 * @m: a reference
 * @server: its spicebd-export
 * @c: a reference, from when it stands on
 * @map, @map_fd: the map, until @c has it, and the descriptor to pass on
 * @scratch, @scratch_read: the file, until @c has it, and the same, read-only
 * @life: a pipe; the writing end is closed with us
 * @node: see struct snapshot_args
 * @clients, @clients_elsewhere: its own server's, and those of exports
 * @gone: to be given up by the next step of making it
 * @serving: @server's export was told to it
 * @watch: timer
 * @why: it failed
 * @waiting: for its end
 */
struct snapshot {
	char *name, *socket, *scratch_name, *node;
	enum snapshot_state state;
	struct medium *m;
	struct exportd *server;
	struct cbw *c;
	struct snapmap map;
	int map_fd, scratch, scratch_read, life[2];
	uint32_t clients, clients_elsewhere;
	bool gone;
	long long since;
	guint watch;
	char why[SNAPMAP_WHY_MAX];
	snapshot_made_fn made;
	void *made_arg;
	GList *waiting;
};

extern GList *snapshots;	/* of struct snapshot */

struct snapshot *snapshot_find(const char *name);
JsonObject *snapshot_object(const struct snapshot *s, bool names);
/* Tell the drive that what blocks it has changed. */
void snapshot_changed(struct snapshot *s);
uint32_t snapshot_all_clients(const struct snapshot *s);
/* From whatever state; @why: for its readers */
void snapshot_end(struct snapshot *s, const char *why);
/* What was not told to anybody yet. */
void snapshot_free(struct snapshot *s);

/* snapshot_make.c: on any thread, by cbw */
void snapshot_failed(void *arg);

/* snapshot_serve.c */
extern const struct exportd_ops snapshot_ops;
void snapshot_announce(struct snapshot *s, exportd_fn done);

#endif /* SPICEBD_SNAPSHOT_IMPL_H */
