/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What two spicebdd say to each other while a drive moves: JSON objects on a
 * connected socket. Either side is a stranger to the other: what is said is
 * bounded in length, depth and number, and nothing is believed.
 */
#ifndef SPICEBD_MIGSTREAM_H
#define SPICEBD_MIGSTREAM_H

#include <json-glib/json-glib.h>

struct migstream;

struct migstream_ops {
	/* An object came. */
	void (*heard)(void *user, JsonObject *o);
	/* It is over, once, and by itself; @why: for people */
	void (*lost)(void *user, const char *why);
};

/* @fd: a connected stream socket, taken over */
struct migstream *migstream_new(int fd, const struct migstream_ops *ops, void *user);
/* From within, too. What was said last still leaves, if it leaves at once. */
void migstream_free(struct migstream *s);
void migstream_set(struct migstream *s, const struct migstream_ops *ops, void *user);
/* @o: taken over */
void migstream_say(struct migstream *s, JsonObject *o);

#endif /* SPICEBD_MIGSTREAM_H */
