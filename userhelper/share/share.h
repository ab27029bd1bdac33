/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sharing media with the drives at the other end of a Spice session.
 *
 * The core lives on a SpiceSession that somebody else made and connects: the
 * program spicebd-share, or a viewer. It runs on the session's main context
 * only and owns nothing of the session but its handlers. Port channels named
 * org.spice-space.spicebd.N are served, all others left alone.
 */
#ifndef SPICEBD_SHARE_H
#define SPICEBD_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include <spice-client.h>

struct spicebd_share;

#define SPICEBD_SHARE_DRIVES	256	/* drives are numbered below */

enum spicebd_share_kind {
	SPICEBD_SHARE_AUTO,	/* by content: ISO 9660 and UDF are a CD */
	SPICEBD_SHARE_CDROM,
	SPICEBD_SHARE_DISK,
};

/* struct spicebd_share_medium - what to offer */
struct spicebd_share_medium {
	const char *path;	/* file, block device or folder; or http[s]://… */
	const char *name;	/* NULL: the last part of path */
	enum spicebd_share_kind as;
	bool read_write;	/* asks for it; a CD and a folder stay read-only */
};

/* struct spicebd_share_info - an offer, as the user is told of it */
struct spicebd_share_info {
	uint32_t id;		/* a medium that became another one has a new id */
	const char *name;
	const char *path;
	uint64_t size;		/* until it is ready: about */
	unsigned int files;	/* in a folder */
	bool cdrom;
	bool read_only;
	bool folder;
	bool url;		/* path is an address */
	bool ready;		/* a folder's image takes its time, and so does a server */
	bool ever_inserted;	/* a drive has or had it */
	uint64_t read_bytes, write_bytes;	/* since the drive opened it */
	long long last_used;	/* ms of CLOCK_MONOTONIC, 0: never */
};

enum spicebd_share_event_type {
	SPICEBD_SHARE_PREPARING,	/* medium, of about that size; READY or FAILED follows */
	SPICEBD_SHARE_READY,		/* medium: can be offered */
	SPICEBD_SHARE_FAILED,		/* medium: cannot; text */
	SPICEBD_SHARE_PORT_UP,		/* a drive's link said hello; secret */
	SPICEBD_SHARE_PORT_DOWN,	/* text */
	SPICEBD_SHARE_PORT_SILENT,	/* the port is open, nobody says hello; text */
	SPICEBD_SHARE_PORT_LOST,	/* nothing heard for the ping timeout; text */
	SPICEBD_SHARE_OFFERED,		/* medium, to a drive */
	SPICEBD_SHARE_OPENED,		/* medium, by a drive */
	SPICEBD_SHARE_CLOSED,		/* medium: the drive's last stream; text */
	SPICEBD_SHARE_INSERTED,
	SPICEBD_SHARE_EJECTED,
	SPICEBD_SHARE_LOCKED,		/* somebody uses it; text or NULL: who, which may change */
	SPICEBD_SHARE_UNLOCKED,
	SPICEBD_SHARE_BUSY,		/* the drive's users keep it; text or NULL: who */
	SPICEBD_SHARE_CHANGED,		/* the file is another one now: new identity */
	SPICEBD_SHARE_STOPPED,		/* after spicebd_share_stop(): all servers have ended */
	SPICEBD_SHARE_ERROR,		/* text */
	SPICEBD_SHARE_MOVE,		/* a medium goes to another host: move; the user
					 * calls spicebd_share_join() or .._no_way() */
	SPICEBD_SHARE_MOVED,		/* medium: it has, and belongs to that one; text: where */
	SPICEBD_SHARE_STAYED,		/* medium: it has not; text: why */
	SPICEBD_SHARE_LEAVE,		/* session: of no more use; the user parts it later */
};

/* struct spicebd_share_move - where to; from the drive's host */
struct spicebd_share_move {
	const char *uri;	/* of a Spice server, unchecked */
	const char *subject;	/* of its certificate, or "" */
	const char *ticket;	/* its password, or "" */
};

struct spicebd_share_event {
	enum spicebd_share_event_type type;
	int drive;				/* -1: none */
	const struct spicebd_share_info *medium;	/* or NULL */
	const char *text;			/* or NULL */
	const uint8_t *secret;			/* PORT_UP: 32 bytes, or NULL */
	SpiceSession *session;			/* of the drive, or NULL */
	const struct spicebd_share_move *move;	/* MOVE, or NULL */
};

typedef void (*spicebd_share_fn)(void *user, const struct spicebd_share_event *ev);

/**
 * spicebd_share_new() - serve the drives of a session
 * @session: referenced; its port channels may exist already
 * @fn: told of what happens; may call every function here but free, and may not
 *	disconnect the session or run a main loop from within
 *
 * Port channels are connected by the core, everything else by the session's
 * owner, who must connect every channel (a migration loses bytes otherwise).
 */
struct spicebd_share *spicebd_share_new(SpiceSession *session, spicebd_share_fn fn,
					void *user);

/**
 * spicebd_share_offer() - offer one medium
 * @id: out: of the offer; or NULL
 * @error: out: one line to be freed with g_free(), when false is returned
 *
 * The medium is announced when SPICEBD_SHARE_READY says so: at once for a file,
 * as soon as its image stands for a folder, or the server has answered for an address.
 *
 * Return: whether it was taken
 */
bool spicebd_share_offer(struct spicebd_share *share,
			 const struct spicebd_share_medium *m, uint32_t *id, char **error);

/* How a request ended. */
enum spicebd_share_answer {
	SPICEBD_SHARE_DONE,
	SPICEBD_SHARE_REFUSED,	/* text: who keeps it, or what went wrong */
	SPICEBD_SHARE_NO_ANSWER,	/* text */
};

typedef void (*spicebd_share_answer_fn)(void *user, enum spicebd_share_answer answer,
					const char *text);

/* For so long an answer is waited for; the new medium of a change has to be read first. */
#define SPICEBD_SHARE_EJECT_MS	15000
#define SPICEBD_SHARE_FORCE_MS	1000
#define SPICEBD_SHARE_CHANGE_MS	30000

/**
 * spicebd_share_eject() - have a medium back from all drives that have it
 * @id: of the offer
 * @force: whoever uses it there; answered within a second
 * @fn: called once, also from within, unless the share is freed before
 *
 * The offer stands afterwards.
 */
void spicebd_share_eject(struct spicebd_share *share, uint32_t id, bool force,
			 spicebd_share_answer_fn fn, void *user);

/**
 * spicebd_share_change() - have another medium in its place, in the same drives
 * @id: of the offer that drives have
 * @by: of the other one, which is ready
 *
 * Where its users do not let go, nothing changes. Both offers stand afterwards.
 */
void spicebd_share_change(struct spicebd_share *share, uint32_t id, uint32_t by,
			  spicebd_share_answer_fn fn, void *user);

/**
 * spicebd_share_withdraw() - offer it no more, at once
 *
 * A drive that still has it loses it, with errors for whoever uses it. The file
 * is closed when its last server has ended.
 */
void spicebd_share_withdraw(struct spicebd_share *share, uint32_t id);

/**
 * spicebd_share_list() - what is offered
 * @list: out: room for @max; valid until the program returns to its loop
 * Return: how many there are
 */
unsigned int spicebd_share_list(struct spicebd_share *share,
				const struct spicebd_share_info **list, unsigned int max);

/* Of the image of a folder that is not ready yet: bytes that there are by now. */
uint64_t spicebd_share_made(struct spicebd_share *share, uint32_t id);

/* The offer of this name, or NULL. */
const struct spicebd_share_info *spicebd_share_find(struct spicebd_share *share,
						    const char *name);

/* Whether this drive, or any (-1), has it. */
bool spicebd_share_is_in(struct spicebd_share *share, uint32_t id, int drive);

/* Whether somebody uses it in this drive: it is mounted, as a rule. */
bool spicebd_share_is_locked(struct spicebd_share *share, uint32_t id, int drive);

/* Who does, as "mounted on /mnt"; NULL: nobody, or it was not said. */
const char *spicebd_share_user(struct spicebd_share *share, uint32_t id, int drive);

/* Whether a drive was told to have it; one that only looks at it does not count. */
bool spicebd_share_is_inserted(struct spicebd_share *share, uint32_t id);

/* Whether every medium that is offered was in a drive and is in none now. */
bool spicebd_share_all_back(struct spicebd_share *share);

/**
 * spicebd_share_request_eject() - ask the drives to give back what they have
 * Return: how many were asked; each answers EJECTED or BUSY, or never
 */
unsigned int spicebd_share_request_eject(struct spicebd_share *share);

/* whether any medium is in a drive or open */
bool spicebd_share_in_use(struct spicebd_share *share);

/**
 * spicebd_share_join() - serve the drives of one more session, too
 * @session: not connected yet; referenced
 *
 * Called by the receiver of SPICEBD_SHARE_MOVE, from within; the session is then
 * connected, and connected again when it is lost, until SPICEBD_SHARE_LEAVE.
 * Return: false: there are two already
 */
bool spicebd_share_join(struct spicebd_share *share, SpiceSession *session);

/* That session could not be made or connected: the medium stays. From within or later. */
void spicebd_share_no_way(struct spicebd_share *share, const char *why);

/* Has no more to do with a session, which may be lost for good; not from within. */
void spicebd_share_part(struct spicebd_share *share, SpiceSession *session);

/* traffic since the start, for a progress line */
void spicebd_share_traffic(struct spicebd_share *share, uint64_t *read_bytes,
			   uint64_t *write_bytes);

/**
 * spicebd_share_stop() - say goodbye on all ports and end all servers
 *
 * SPICEBD_SHARE_STOPPED comes when everything was handed to the session and
 * every server process was reaped.
 */
void spicebd_share_stop(struct spicebd_share *share);

void spicebd_share_free(struct spicebd_share *share);

#endif /* SPICEBD_SHARE_H */
