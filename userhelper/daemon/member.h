/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Members of a JSON object that nobody has checked against a schema. A member of
 * another kind is as good as none: json-glib gives NULL for the text of a number
 * and takes an array for a mistake of its caller's.
 */
#ifndef SPICEBD_MEMBER_H
#define SPICEBD_MEMBER_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

const char *member_str(JsonObject *o, const char *name, const char *fallback);
int64_t member_int(JsonObject *o, const char *name, int64_t fallback);
bool member_bool(JsonObject *o, const char *name, bool fallback);

#endif /* SPICEBD_MEMBER_H */
