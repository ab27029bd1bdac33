/* SPDX-License-Identifier: GPL-2.0-only */
/* query-qmp-schema and its like: what there is, from the tables that do it. */
#ifndef SPICEBD_INTROSPECT_H
#define SPICEBD_INTROSPECT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

/* @status: only what the status socket has */
JsonArray *introspect_schema(bool status);
JsonArray *introspect_commands(bool status);
JsonArray *introspect_events(void);

#endif /* SPICEBD_INTROSPECT_H */
