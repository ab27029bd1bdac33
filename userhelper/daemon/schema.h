/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Types of QMP: what commands take and give and events carry, in tables. From
 * them arguments are checked and query-qmp-schema is answered, so that what it
 * says cannot drift from what is done.
 *
 * Members are written "name:TYPE", with '?' after TYPE if it may be left out,
 * separated by spaces. TYPE is s (string), i (integer), b (boolean), * (any
 * value), the name of a definition, or one of these in brackets: an array.
 */
#ifndef SPICEBD_SCHEMA_H
#define SPICEBD_SCHEMA_H

#include <json-glib/json-glib.h>

#include "derr.h"

enum schema_kind {
	SCHEMA_ENUM,
	SCHEMA_OBJECT,
	SCHEMA_ALTERNATE,
};

/**
 * struct schema_def - a type with a name
 * @body: an enumeration's values, an object's members, an alternate's types
 * @tag: of a union: the member that decides which @variants apply
 * @variants: of a union: "value:Definition" for each value that adds members
 */
struct schema_def {
	const char *name;
	enum schema_kind kind;
	const char *body, *tag, *variants;
};

/* The table; ends with a NULL name. schema_types.c */
extern const struct schema_def schema_defs[];

/**
 * struct schema_event - an event that may be sent
 * @data: its members
 */
struct schema_event {
	const char *name, *data;
};

extern const struct schema_event schema_events[];

const struct schema_def *schema_find(const char *name);

/**
 * struct schema_item - one "name:TYPE?" of a list
 * @type: empty where there is none, as in an enumeration
 */
struct schema_item {
	char name[64], type[64];
	bool optional;
};

/* The next item of a list; false at its end. */
bool schema_next(const char **list, struct schema_item *it);

/**
 * schema_check() - whether an object is as a list of members says
 * @members: a list, or "@Definition" for all members of that one
 *
 * Return: 0, or -EINVAL with QEMU's words in @e.
 */
int schema_check(const char *members, JsonObject *o, struct derr *e);

#endif /* SPICEBD_SCHEMA_H */
