/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The private socket between spicebdd and a spicebd-link.
 *
 * SOCK_SEQPACKET at SPICEBD_RUN_DIR/link/NAME.sock, where the link listens and
 * has one peer at a time (a new one ends the old one's session; peer
 * credentials are checked). Every message is one struct link_msg in host order;
 * LINK_STREAM carries exactly one descriptor, a connected SOCK_STREAM unix
 * socket, and nothing else carries any. What breaks this closes the socket.
 *
 * The daemon trusts nothing in it: the link parses what strangers send.
 */
#ifndef SPICEBD_LINKPROTO_H
#define SPICEBD_LINKPROTO_H

#include <assert.h>
#include <stdint.h>

#include "frame.h"

#define LINK_PROTO_VERSION	1
#define LINK_TICKET_MAX		FRAME_MOVE_TICKET_MAX	/* of an invitation */

enum link_type {
	/* link to daemon */
	LINK_READY = 1,		/* first message; version; u.ready */
	LINK_PORT_UP,		/* port: a share said hello; epoch, u.peer */
	LINK_PORT_DOWN,		/* port: no share any more; streams are closed; text; flags
				 * bit 0: it said that it ends, and does not come back */
	LINK_OFFER,		/* port, offer, u.offer */
	LINK_WITHDRAW,		/* port, offer */
	LINK_OFFERS_END,	/* port */
	LINK_STREAM,		/* port, tag: answer to LINK_OPEN, with a descriptor */
	LINK_STREAM_FAILED,	/* port, tag, error (errno), text */
	LINK_EJECT_REQUEST,	/* port, offer, flags: FRAME_EJECT_*; u.eject; answered by a
				 * notice of what was done, or FRAME_NOTICE_BUSY */
	LINK_CLIENT,		/* a Spice client came (flags 1) or went (flags 0); text: what it is */
	LINK_STATS,		/* port, answer to LINK_GET_STATS; u.stats */
	LINK_MOVE_STATE,	/* port, offer (0: not offered), flags: enum
				 * frame_move_result, tag: owner epoch; u.move_state */

	/* daemon to link */
	LINK_ADD_PORT = 64,	/* port: offer org.spice-space.spicebd.<port> */
	LINK_DEL_PORT,		/* port */
	LINK_OPEN,		/* port, offer, tag: a new NBD stream */
	LINK_NOTICE,		/* port, offer, flags: enum frame_notice_what; u.notice */
	LINK_RESET_PORT,	/* port: new session, new epoch */
	LINK_GET_STATS,		/* port */
	LINK_MOVE,		/* port, offer, flags: enum frame_move_verb; u.move. A share
				 * that knows no such thing is answered for: FRAME_MOVE_OVER */
	LINK_INVITE,		/* text: a ticket that is good for one session of one share,
				 * which comes within a minute; "": not any more */
};

struct link_msg {
	uint32_t type;		/* enum link_type */
	uint32_t port;
	uint32_t offer;
	uint32_t tag;		/* daemon's, returned */
	uint32_t flags;
	uint32_t error;
	uint32_t epoch;
	uint32_t version;	/* LINK_READY: LINK_PROTO_VERSION */
	union {
		struct {
			uint64_t size;
			uint32_t flags;		/* FRAME_OFFER_* */
			uint32_t kind;		/* enum frame_kind */
			uint8_t medium_id[FRAME_UUID_LEN];
			uint8_t incarnation[FRAME_UUID_LEN];
			char name[FRAME_NAME_MAX + 1];
			uint32_t owner_epoch;
		} offer;
		struct {
			uint8_t boot_id[FRAME_UUID_LEN];
			uint8_t instance[FRAME_UUID_LEN];
		} peer;
		struct {
			char address[128];	/* where it listens, as the user gave it */
		} ready;
		struct {
			uint64_t rx_bytes, tx_bytes, rx_frames, tx_frames;
			uint32_t rtt_us;	/* last ping; 0 none yet */
			uint32_t streams;
		} stats;
		struct {
			uint32_t by;		/* with FRAME_EJECT_REPLACE: an offer of the port */
		} eject;
		struct {
			char text[FRAME_TEXT_MAX + 1];	/* NUL-terminated, for the share's user */
		} notice;
		struct {
			uint8_t id[FRAME_UUID_LEN];
			uint32_t port;
			char uri[FRAME_MOVE_URI_MAX + 1];
			char subject[FRAME_MOVE_SUBJECT_MAX + 1];
			char ticket[FRAME_MOVE_TICKET_MAX + 1];
		} move;
		struct {
			uint8_t id[FRAME_UUID_LEN];
			char text[FRAME_TEXT_MAX + 1];
		} move_state;
		uint8_t raw[384];
	} u;
	char text[96];		/* NUL-terminated UTF-8, for people */
};
static_assert(sizeof(struct link_msg) == 512, "link_msg has a fixed size");

#endif /* SPICEBD_LINKPROTO_H */
