/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Media that are exported over NBD: that of a drive, read-only beside the
 * drive's own use, or a node that is in no drive, which is then ours. An export
 * of a drive's medium ends with the medium's stay in the drive. Main thread.
 */
#ifndef SPICEBD_DAEMON_EXPORT_H
#define SPICEBD_DAEMON_EXPORT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stddef.h>

#include "derr.h"
#include "exportproto.h"

struct drive;
struct medium;
struct source;

/**
 * struct export_args - an export to be made; strings stay the caller's
 * @id: NULL: the name
 * @node: of blockdev-add, or that is in a drive; or a drive's name
 * @name: NULL: @node
 * @if_possible: not writable after all where that cannot be
 */
struct export_args {
	const char *id, *node, *name, *description;
	bool writable, if_possible, writethrough;
};

typedef void (*export_done_fn)(int r, const struct derr *e, void *arg);

/* Before all else here. */
void exports_init(void);

/* In QEMU's words. @job: where to listen */
void exports_start(const struct export_job *job, export_done_fn done, void *arg);
void exports_stop(export_done_fn done, void *arg);
void export_add(const struct export_args *a, export_done_fn done, void *arg);
void export_del(const char *id, bool hard, export_done_fn done, void *arg);
JsonArray *exports_query(void);

/* Why BLOCK_EXPORT is set, and which export it is. */
void exports_reason(const struct drive *d, char *buf, size_t size);
const char *exports_owner(const struct drive *d);

/* The medium leaves its drive: its exports end, with their clients. */
void exports_medium_out(const struct medium *m);

/* Whether an export is made of this node and in no drive. */
bool exports_use_node(const char *node);
/* Whether an export's own file is served by this spicebd-nbdkit. */
bool exports_use_server(const char *nbdkit_id);

/* A store that an export's clients may write to is no drive's. */
int exports_check_store(const struct source *s, struct derr *e);

/* For state.json; NULL without a server. */
JsonObject *exports_save(void);
/* From there; drives have their media by then. */
void exports_adopt(JsonObject *o);

/* We end; the exports stay, and are adopted by the next one. */
void exports_leave(void);

#endif /* SPICEBD_DAEMON_EXPORT_H */
