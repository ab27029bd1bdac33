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

enum spicebd_share_kind {
	SPICEBD_SHARE_AUTO,	/* by content: ISO 9660 and UDF are a CD */
	SPICEBD_SHARE_CDROM,
	SPICEBD_SHARE_DISK,
};

/* struct spicebd_share_medium - what to offer */
struct spicebd_share_medium {
	const char *path;	/* file, block device or folder */
	const char *name;	/* NULL: the last part of path */
	enum spicebd_share_kind as;
	bool read_write;	/* asks for it; a CD and a folder stay read-only */
};

/* struct spicebd_share_info - an offer, as the user is told of it */
struct spicebd_share_info {
	uint32_t id;		/* a medium that became another one has a new id */
	unsigned int index;	/* in the order of spicebd_share_offer() */
	const char *name;
	const char *path;
	uint64_t size;
	bool cdrom;
	bool read_only;
	bool folder;
	uint64_t read_bytes, write_bytes;	/* since the drive opened it */
};

enum spicebd_share_event_type {
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
	SPICEBD_SHARE_LOCKED,
	SPICEBD_SHARE_UNLOCKED,
	SPICEBD_SHARE_BUSY,		/* the drive's users keep it */
	SPICEBD_SHARE_CHANGED,		/* the file is another one now: new identity */
	SPICEBD_SHARE_STOPPED,		/* after spicebd_share_stop(): all servers have ended */
	SPICEBD_SHARE_ERROR,		/* text */
};

struct spicebd_share_event {
	enum spicebd_share_event_type type;
	int drive;				/* -1: none */
	const struct spicebd_share_info *medium;	/* or NULL */
	const char *text;			/* or NULL */
	const uint8_t *secret;			/* PORT_UP: 32 bytes, or NULL */
};

typedef void (*spicebd_share_fn)(void *user, const struct spicebd_share_event *ev);

/**
 * spicebd_share_new() - serve the drives of a session
 * @session: referenced; its port channels may exist already
 * @fn: told of what happens; may call every function here but free, and may not
 *	disconnect the session from within
 *
 * Port channels are connected by the core, everything else by the session's
 * owner, who must connect every channel (a migration loses bytes otherwise).
 */
struct spicebd_share *spicebd_share_new(SpiceSession *session, spicebd_share_fn fn,
					void *user);

/**
 * spicebd_share_offer() - offer one medium
 * @error: out: one line to be freed with g_free(), when false is returned
 *
 * The medium is announced when SPICEBD_SHARE_READY says so: at once for a file,
 * as soon as its image stands for a folder.
 *
 * Return: whether it was taken
 */
bool spicebd_share_offer(struct spicebd_share *share,
			     const struct spicebd_share_medium *m, char **error);

/**
 * spicebd_share_request_eject() - ask the drives to give back what they have
 * Return: how many were asked; each answers EJECTED or BUSY, or never
 */
unsigned int spicebd_share_request_eject(struct spicebd_share *share);

/* whether any medium is in a drive or open */
bool spicebd_share_in_use(struct spicebd_share *share);

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
