/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Messages of spicebd-export: with spicebdd, and with the plugin in each of its
 * nbdkits. All SOCK_SEQPACKET, fixed size, on one machine, of one version.
 * Documentation/processes.rst tells their use.
 */
#ifndef SPICEBD_EXPORTPROTO_H
#define SPICEBD_EXPORTPROTO_H

#include <stdint.h>

#define EXPORT_PROTO_MAGIC	0x58424453u
#define EXPORT_ID_LEN		32	/* hex digits */
#define EXPORT_NAME_MAX		4096	/* of NBD: names and descriptions */
#define EXPORTS_MAX		64
#define EXPORT_CLIENTS_MAX	128
#define EXPORT_FDS_MAX		4	/* with a STREAM */

enum export_family {
	EXPORT_UNIX = 1,
	EXPORT_INET,
};

#define EXPORT_JOB_NO_IPV4	(1u << 0)
#define EXPORT_JOB_NO_IPV6	(1u << 1)

/* The first message: where to listen. */
struct export_job {
	uint32_t magic;
	uint32_t family;		/* enum export_family */
	uint32_t flags;
	uint32_t max_clients;
	char id[EXPORT_ID_LEN + 1];	/* of the control socket */
	char path[108];			/* EXPORT_UNIX */
	char host[256];			/* EXPORT_INET; empty: all addresses */
	char port[32];
	uint8_t pad[3];
};

enum export_cmd {
	/*
	 * An export; the same number and name again changes nothing for its
	 * clients.
	 */
	EXPORT_CMD_ADD = 1,
	EXPORT_CMD_DEL,			/* EBUSY with clients, unless _HARD */
	EXPORT_CMD_STREAM,		/* answers EXPORT_EV_OPEN; descriptors, or error */
	/*
	 * What is not added between the two ends. A spicebdd that takes over
	 * says with them what there is.
	 */
	EXPORT_CMD_SYNC_BEGIN,
	EXPORT_CMD_SYNC_END,
	EXPORT_CMD_STOP,
};

#define EXPORT_CTL_WRITABLE	(1u << 0)	/* ADD */
#define EXPORT_CTL_WRITETHROUGH	(1u << 1)	/* ADD: each write is flushed */
#define EXPORT_CTL_HARD		(1u << 2)	/* DEL */
/*
 * ADD: with each stream come the scratch file, the map (snapmap.h) and the
 * reading end of a pipe that is closed when spicebdd ends.
 */
#define EXPORT_CTL_SNAPSHOT	(1u << 3)

/* From spicebdd. */
struct export_ctl {
	uint32_t magic;
	uint32_t cmd;			/* enum export_cmd */
	uint32_t tag;			/* of the answer; STREAM: of the event */
	uint32_t number;		/* of the export */
	uint32_t flags;
	uint32_t error;			/* STREAM */
	char name[EXPORT_NAME_MAX + 1];	/* ADD; STREAM: name at the stream's server */
	char text[EXPORT_NAME_MAX + 1];	/* ADD: description; STREAM: why not */
	uint8_t pad[2];
};

enum export_event {
	EXPORT_EV_ANSWER = 1,		/* to the job, ADD, DEL, SYNC_END and STOP */
	EXPORT_EV_OPEN,			/* a client: a stream of the export is wanted */
	EXPORT_EV_CLIENTS,		/* the number of an export's clients */
};

/* To spicebdd. */
struct export_msg {
	uint32_t magic;
	uint32_t event;			/* enum export_event */
	uint32_t tag;
	uint32_t number;
	uint32_t error;			/* errno; 0 */
	uint32_t clients;
	char text[228];			/* for people, with error */
};

enum export_ask_kind {
	EXPORT_ASK_OPEN = 1,		/* name: the client's words */
	EXPORT_ASK_CLOSE,		/* no answer */
	EXPORT_ASK_LIST,		/* index: 0, 1, … until ENOENT */
	EXPORT_ASK_OVER,		/* take nothing more from the client; no answer */
};

/* From the plugin. */
struct export_ask {
	uint32_t magic;
	uint32_t kind;			/* enum export_ask_kind */
	uint32_t index;
	char name[EXPORT_NAME_MAX + 1];
	uint8_t pad[3];
};

/* To the plugin; to an OPEN with the connected socket of an NBD server. */
struct export_grant {
	uint32_t magic;
	uint32_t error;
	uint32_t flags;			/* EXPORT_CTL_* */
	char name[EXPORT_NAME_MAX + 1];	/* OPEN: at that server; LIST: the export's */
	char text[EXPORT_NAME_MAX + 1];	/* description; why not */
	uint8_t pad[2];
};

#endif /* SPICEBD_EXPORTPROTO_H */
