/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of export.h share, and nobody else. */
#ifndef SPICEBD_EXPORT_IMPL_H
#define SPICEBD_EXPORT_IMPL_H

#include <glib.h>

#include "export.h"
#include "exportd.h"
#include "medium.h"

/**
 * struct export - an export
 * @number: by which spicebd-export knows it; never used again
 * @m: the drive's medium that it is, a reference; or NULL
 * @is_snapshot: of @m
 * @snap: that one, until it ends
 * @source: where its streams come from, a reference
 * @opened: @source was opened for this export alone
 * @coming: not there yet; its names are taken all the same
 * @ending: told to go
 * @gone: it has to go before it ever was there; nobody hears of it
 */
struct export {
	uint32_t number;
	char *id, *node, *name, *description;
	bool writable, writethrough;
	struct medium *m;
	bool is_snapshot;
	struct snapshot *snap;
	struct source *source;
	bool opened;
	bool coming, ending, gone;
	uint32_t clients;
};

extern GList *exports;		/* of struct export */
extern uint32_t export_last;	/* number of the last one */
extern struct exportd *export_server;	/* exports_init() makes it */

void export_free(struct export *x);
/* Its clients were more or fewer: what blocks the drive. */
void export_mark(struct drive *d);
struct export *export_by_number(uint32_t number);

#endif /* SPICEBD_EXPORT_IMPL_H */
