/* SPDX-License-Identifier: GPL-2.0-only */
/* The object of a drive in spicebd-query. Main thread. */
#ifndef SPICEBD_QUERY_DRIVE_H
#define SPICEBD_QUERY_DRIVE_H

#include <json-glib/json-glib.h>

struct cmd;
struct drive;

/* @d: just refreshed. @c: on the status socket it has no names */
JsonObject *query_drive(struct drive *d, const struct cmd *c);

#endif /* SPICEBD_QUERY_DRIVE_H */
