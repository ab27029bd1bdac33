/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a medium comes from. Whatever it is, it ends in connected NBD handles;
 * what differs is how the server is found, how an old transmission is proven
 * over (fenced), and what says that it is the same store as before.
 */
#ifndef SPICEBD_SOURCE_H
#define SPICEBD_SOURCE_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>

#include "nbdconn.h"
#include "work.h"

enum source_type {
	SOURCE_SPICE,
	SOURCE_NBD,
	SOURCE_FILE,
};

enum source_notice {
	SOURCE_INSERTED,
	SOURCE_EJECTED,
	SOURCE_BUSY,
	SOURCE_LOCKED,
	SOURCE_UNLOCKED,
};

struct source;

/**
 * struct source_resume - the outcome of finding a source again
 * @fenced: nothing that was sent before can reach the store any more
 * @flush_lost: writes that were acknowledged and not flushed may be lost
 * @another: it is another store now, and ops.successor() has it
 */
struct source_resume {
	bool fenced;
	bool flush_lost;
	bool another;
};

/*
 * open, resume, connect and stream run in tasks and end by their deadlines; the rest is
 * the main thread's and does not wait.
 */
struct source_ops {
	/* Find it for the first time. */
	int (*open)(struct source *s, struct task *t, struct derr *e);
	/*
	 * Find it again, for the same store. -ESTALE: it is another one now, or
	 * cannot be shown to be the same. @need_fence: prove the old
	 * transmission over; where that is impossible @out->fenced stays false.
	 */
	int (*resume)(struct source *s, bool need_fence, struct source_resume *out,
		      struct task *t, struct derr *e);
	/*
	 * What was found again serves the drive: only now may it be remembered
	 * in the place of what was before. Main thread; may be NULL.
	 */
	void (*resumed)(struct source *s);
	struct nbd_handle *(*connect)(struct source *s, struct task *t, struct derr *e);
	/*
	 * What is there in its place, after resume said @out->another or the
	 * export itself is another one; NULL: nothing is known. Main thread.
	 */
	struct source *(*successor)(struct source *s);
	/*
	 * A connected socket of its server, with nothing said yet: for another
	 * client than us. @name: out: of the export there, to be freed.
	 */
	int (*stream)(struct source *s, char **name, struct task *t, struct derr *e);
	/* @text: for whoever is there, or NULL */
	void (*notice)(struct source *s, enum source_notice what, const char *text);
	/*
	 * The medium is out. @unanswered: requests may still be under way.
	 * The server ends, if it is ours.
	 */
	void (*close)(struct source *s, bool unanswered);
	void (*save)(struct source *s, JsonObject *o);
	int (*load)(struct source *s, JsonObject *o);
	void (*free)(struct source *s);
};

/**
 * struct source - one medium's origin
 * @uri: as the administrator gave it
 * @name: of the medium, for people
 * @node_name: under which blockdev-add made it, or NULL
 * @resend: an administrator's word that writes may be sent again unfenced
 * @no_discard: discards are not passed on
 * @drive: index of its drive, or -1 while it has none
 * @kind: what the source itself says
 * @store: identity of the store, if the source knows one
 * @read_only: asked of the source
 * @offer_read_only: said by the source
 * @write_limit: bytes of writes under way at most; 0 no limit
 * @ops, @refs: private
 */
struct source {
	gint refs;
	const struct source_ops *ops;
	enum source_type type;
	char *uri;
	char *name;
	char *node_name;
	bool resend;
	bool no_discard;
	bool read_only;
	bool offer_read_only;
	bool folder_as_disk;
	int drive;
	enum medium_kind kind;
	uint8_t store[32];
	uint32_t store_len;
	uint32_t write_limit;
};

/**
 * source_parse() - from what the administrator wrote
 * @text: spice:[LINK/][NAME], nbd…: URI, /dev/fdset/N or a path
 * @filename: what a descriptor set is called for people, or NULL
 */
struct source *source_parse(const char *text, const char *filename, struct derr *e);

struct source *source_nbd_new(const char *uri);
/* Whether stream can work: over TLS there is nothing to hand on. */
int source_nbd_check_plain(const struct source *s, struct derr *e);
struct source *source_file_new(int fd, const char *filename, struct derr *e);
struct source *source_spice_new(const char *link, const char *medium);
/* By identity rather than by name. */
struct source *source_spice_of(const char *link, const uint8_t *medium_id);

struct source *source_from_state(JsonObject *o);
JsonObject *source_to_state(struct source *s);

struct source *source_ref(struct source *s);
void source_unref(struct source *s);
const char *source_type_str(enum source_type t);

/* Names that people and terminals see: valid UTF-8, no control characters. */
char *source_clean_name(const char *name);

/* Ends each spicebd-nbdkit whose id @keep does not know: of media that are out. */
void source_file_reap(bool (*keep)(const char *id));
/* What a file source serves, to be closed; -1: it is not known, or another source. */
int source_file_opened(const struct source *s);
/* Id of a file source's spicebd-nbdkit, or NULL for another source. */
const char *source_file_id(const struct source *s);

/* Of a Spice source: the link that it comes over, and which medium it is; else NULL. */
const char *source_spice_link(const struct source *s, const uint8_t **medium_id);

/* Whether a source is this medium of this link: for eject requests. */
bool source_is_offer(const struct source *s, const char *link, const uint8_t *medium_id);

#endif /* SPICEBD_SOURCE_H */
