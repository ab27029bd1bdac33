/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Point-in-time snapshots of the medium in a drive, read over NBD while the drive
 * goes on: cbw.h does the copying, a spicebd-export of its own serves it.
 * Documentation/snapshot.rst. Main thread.
 */
#ifndef SPICEBD_SNAPSHOT_H
#define SPICEBD_SNAPSHOT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "derr.h"

struct drive;
struct exportd;
struct medium;
struct snapshot;

#define SNAPSHOTS_MAX	16
#define SNAPSHOT_NAME_MAX 63

/**
 * struct snapshot_args - what is wanted
 * @name: NULL: the first free of s0, s1, …
 * @scratch: an open file, empty, writable; taken over
 * @scratch_name: of it, for people, or NULL
 * @socket: absolute path, or NULL: in the run directory
 * @node: whose file the scratch file is: it is one of QEMU's jobs then, which can be
 *	exported by that name; or NULL
 */
struct snapshot_args {
	struct drive *d;
	const char *name, *scratch_name, *socket, *node;
	int scratch;
};

typedef void (*snapshot_done_fn)(int r, const struct derr *e, void *arg);
/* @o: as of snapshots_query(), with @r 0 */
typedef void (*snapshot_made_fn)(int r, JsonObject *o, const struct derr *e, void *arg);

void snapshot_create(const struct snapshot_args *a, snapshot_made_fn done, void *arg);

/* @force: with its clients. @done: nothing of it is left */
void snapshot_delete(const char *name, bool force, snapshot_done_fn done, void *arg);

/* @d: NULL: of all. @names: with what is not everybody's to know */
JsonArray *snapshots_query(const struct drive *d, bool names);

/* One stands, or is being made, of what is in the drive. */
bool snapshots_block(const struct drive *d);
/* What to say then, and whose it is. */
void snapshots_reason(const struct drive *d, char *buf, size_t size);
const char *snapshots_owner(const struct drive *d);

/* A job of that target. */
struct snapshot *snapshot_by_node(const char *node);

/* All of QEMU's jobs. @arg is passed on; strings stay the snapshot's. */
void snapshot_jobs(void (*fn)(const char *id, uint64_t size, uint64_t copied, void *arg), void *arg);

/*
 * For exports of it by another server than its own: what it is of, a stream for a
 * client, how many there are, and who is told when it ends.
 */
struct medium *snapshot_medium(const struct snapshot *s);
void snapshot_stream(struct snapshot *s, struct exportd *server, uint32_t tag);
void snapshot_clients(struct snapshot *s, uint32_t n);
void snapshots_on_end(void (*fn)(const struct snapshot *s));

/* They end, with their clients: the medium leaves, or is not served by us any more. */
void snapshots_medium_out(const struct medium *m, const char *why);

/* spicebdd ends. */
void snapshots_leave(void);

#endif /* SPICEBD_SNAPSHOT_H */
