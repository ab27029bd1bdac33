/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The server's side of QMP, below the commands: bytes to objects and back,
 * greeting and negotiation, one command at a time and in order, limits, passed
 * descriptors. On the GLib main loop; everything here is the main thread's.
 */
#ifndef SPICEBD_QMP_H
#define SPICEBD_QMP_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stddef.h>

#define QMP_LINE_MAX		(1 << 20)	/* bytes of one command */
#define QMP_DEPTH_MAX		64		/* of nesting */
#define QMP_WAITING_MAX		64		/* commands of one peer */
#define QMP_UNREAD_MAX		(4 << 20)	/* bytes of answers and events */
#define QMP_FDS_MAX		16		/* descriptors not yet added to a set */

enum qmp_class {
	QMP_GENERIC_ERROR,
	QMP_COMMAND_NOT_FOUND,
	QMP_DEVICE_NOT_FOUND,
	QMP_DEVICE_NOT_ACTIVE,
};

const char *qmp_class_str(enum qmp_class c);

/*
 * The splitter finds where one JSON object ends and the next begins, so that
 * nothing unbounded or deeply nested ever reaches the parser.
 */
struct qmp_splitter {
	GString *buf;
	unsigned int depth;
	bool in_string, escaped;
	bool skipping;		/* until the end of a bad line */
};

enum qmp_split {
	QMP_SPLIT_MORE,		/* all taken, no whole object yet */
	QMP_SPLIT_OBJECT,	/* splitter.buf holds one; qmp_splitter_next() drops it */
	QMP_SPLIT_BAD,		/* not JSON, too long or too deep: rest of the line is skipped */
};

void qmp_splitter_init(struct qmp_splitter *s);
void qmp_splitter_clear(struct qmp_splitter *s);
void qmp_splitter_next(struct qmp_splitter *s);
enum qmp_split qmp_splitter_feed(struct qmp_splitter *s, const char **data, size_t *len);

struct qmp_peer;

struct qmp_ops {
	/*
	 * A command whose turn has come; exactly one qmp_return() or qmp_fail()
	 * for it must follow, now or later.
	 */
	void (*command)(struct qmp_peer *p, const char *name, JsonObject *args);
	/* The peer is going; commands under way may still answer it, into the void. */
	void (*closed)(struct qmp_peer *p);
	/* The greeting's object */
	JsonNode *(*greeting)(void);
};

/**
 * qmp_peer_new() - serve a connection
 * @fd: connected socket; taken over
 * @user: for the caller
 */
struct qmp_peer *qmp_peer_new(int fd, const struct qmp_ops *ops, void *user);
struct qmp_peer *qmp_peer_ref(struct qmp_peer *p);
void qmp_peer_unref(struct qmp_peer *p);
void qmp_peer_close(struct qmp_peer *p);
/* Nobody is there who could read an answer. */
bool qmp_peer_gone(const struct qmp_peer *p);
void *qmp_peer_user(const struct qmp_peer *p);
bool qmp_peer_negotiated(const struct qmp_peer *p);

/* The next descriptor that the peer passed, or -1; the caller's from then on. */
int qmp_peer_take_fd(struct qmp_peer *p);

/* @ret: taken over; NULL: {} */
void qmp_return(struct qmp_peer *p, JsonNode *ret);
void qmp_fail(struct qmp_peer *p, enum qmp_class c, const char *desc);

/* @data: taken over, may be NULL */
void qmp_event(struct qmp_peer *p, const char *name, JsonObject *data);

/* Write what waits, for at most @ms: before the process ends. */
void qmp_peer_linger(struct qmp_peer *p, int ms);

#endif /* SPICEBD_QMP_H */
