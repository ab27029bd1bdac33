/* SPDX-License-Identifier: GPL-2.0-only */
/* Answers to query-*: what there is, as JSON. */
#ifndef SPICEBD_QUERY_H
#define SPICEBD_QUERY_H

#include <json-glib/json-glib.h>

struct drive;

JsonNode *query_greeting(void);

/* An answer about an inserted medium, for spicebd-insert. */
JsonObject *query_inserted(struct drive *d);

#endif /* SPICEBD_QUERY_H */
