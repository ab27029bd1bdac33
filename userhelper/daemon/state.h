/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The daemon's memory: which drive has which medium from which source, in
 * state.json, replaced as a whole. It is written before the kernel is told of a
 * medium, so that nothing is in the kernel that a successor does not know.
 */
#ifndef SPICEBD_STATE_H
#define SPICEBD_STATE_H

#include <json-glib/json-glib.h>

#include "derr.h"

struct drive;
struct medium;

#define STATE_MAX	(4 << 20)	/* bytes of the file */

/* Write the media that are in, or coming. Return: 0 or -errno */
int state_save(struct derr *e);

/**
 * state_load() - what an earlier spicebdd left
 * @server: out: its NBD server, a reference, or NULL
 * Return: array of media (may be empty), the caller's; NULL: there is no file
 *	or none that makes sense
 */
JsonArray *state_load(JsonObject **server);

/* One medium of it. Return: medium in state MEDIUM_IN, or NULL */
struct medium *state_medium(struct drive *d, JsonObject *o);

/* The entry of a drive, or NULL. */
JsonObject *state_entry(JsonArray *a, unsigned int index);

/* Read a file into a node, with its size bounded; for state_load() and tests. */
JsonNode *state_read_file(const char *path);

#endif /* SPICEBD_STATE_H */
