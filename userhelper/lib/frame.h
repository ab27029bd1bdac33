/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The frame layer: NBD byte streams and what surrounds them, inside one Spice
 * port. Documentation/frame-protocol.rst is the definition; this is its code.
 *
 * Pure: no I/O, no clock, no allocation, no global state. Both ends (link and
 * share) and the fuzzers use the same file.
 */
#ifndef SPICEBD_FRAME_H
#define SPICEBD_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_MAGIC		0x46444253u	/* "SBDF" as bytes */
#define FRAME_VERSION		1
#define FRAME_HEADER_LEN	24
#define FRAME_MAX		65536u		/* header and payload */
#define FRAME_PAYLOAD_MAX	(FRAME_MAX - FRAME_HEADER_LEN)
#define FRAME_NAME_MAX		255		/* bytes of an offer's name, UTF-8 */
#define FRAME_OFFERS_MAX	64		/* offers of one share at one time */
#define FRAME_STREAMS_MAX	16		/* streams of one port at one time */
#define FRAME_CREDIT_MAX	(16u << 20)	/* credit of one stream and direction, bytes */
#define FRAME_TEXT_MAX		255		/* text of a CLOSE or BYE */
#define FRAME_SECRET_LEN	32
#define FRAME_UUID_LEN		16
#define FRAME_CHECK_LEN		8		/* at the end of a checked frame's payload */

/*
 * L: link to share, S: share to link, B: both. Numbers are the wire's and
 * never change their meaning; an unknown type is skipped if bit 15 is set
 * (optional), and otherwise ends the session.
 */
enum frame_type {
	FRAME_HELLO	= 1,	/* B */
	FRAME_RESYNC	= 2,	/* S: asks for a new HELLO; epoch and seq are 0 */
	FRAME_OFFER	= 3,	/* S: a medium, new or changed */
	FRAME_WITHDRAW	= 4,	/* S: an offer is gone */
	FRAME_OFFERS_END = 5,	/* S: the list as it stood at the hello is complete */
	FRAME_OPEN	= 6,	/* L: new stream on an offer */
	FRAME_OPENED	= 7,	/* S: it stands */
	FRAME_DATA	= 8,	/* B: bytes of a stream */
	FRAME_CREDIT	= 9,	/* B: more credit for the receiver of this frame */
	FRAME_CLOSE	= 10,	/* B: a stream ends; each side sends one */
	FRAME_NOTICE	= 11,	/* L: what became of a medium */
	FRAME_EJECT_REQUEST = 12, /* S: the person wants the medium back */
	FRAME_PING	= 13,	/* B */
	FRAME_PONG	= 14,	/* B */
	FRAME_MOVE	= 15,	/* L: a medium is to belong to another host */
	FRAME_BYE	= 16,	/* B: the session ends; code and text say why */
	FRAME_MOVE_STATE = 17,	/* S: how that stands */
};
#define FRAME_TYPE_OPTIONAL	0x8000u

/* struct frame_header - in host order; on the wire little-endian, packed */
struct frame_header {
	uint32_t magic;
	uint16_t type;
	uint16_t flags;		/* FRAME_FLAG_*; others are ignored */
	uint32_t stream;	/* 0: of the session */
	uint32_t length;	/* of the payload */
	uint32_t epoch;
	uint32_t seq;		/* frames of this epoch and direction before this one */
};

#define FRAME_FLAG_CHECKED	(1u << 0)	/* the payload ends with a check */

enum frame_role {
	FRAME_ROLE_LINK = 1,
	FRAME_ROLE_SHARE = 2,
};

/* FRAME_HELLO: 96 bytes */
struct frame_hello {
	uint16_t version;
	uint16_t role;			/* enum frame_role of the sender */
	uint32_t capabilities;		/* FRAME_CAP_*, others are ignored */
	uint32_t epoch;			/* as in the header */
	uint32_t frame_max;		/* largest frame the sender accepts, 4096..FRAME_MAX */
	uint32_t ping_interval;		/* ms between the sender's pings */
	uint32_t ping_timeout;		/* ms of silence after which it gives up */
	uint8_t  secret[FRAME_SECRET_LEN]; /* link: resume secret; share: zero */
	uint8_t  boot_id[FRAME_UUID_LEN];  /* machine of the sender */
	uint8_t  instance[FRAME_UUID_LEN]; /* process of the sender */
	uint32_t reserved[2];
};
#define FRAME_HELLO_LEN		96

/* Every frame but HELLO and RESYNC is checked, where both sides say it. */
#define FRAME_CAP_CHECKS	(1u << 0)

/* link: takes an EJECT_REQUEST that names a replacement; share: a NOTICE with text */
#define FRAME_CAP_ANSWERS	(1u << 1)
/* both: MOVE and MOVE_STATE */
#define FRAME_CAP_MOVE		(1u << 2)

/* link: takes an EJECT_REQUEST that has a medium put into an empty drive */
#define FRAME_CAP_INSERT	(1u << 3)

/* Bits of an EJECT_REQUEST's flags. */
#define FRAME_EJECT_FORCE	(1u << 0)
#define FRAME_EJECT_REPLACE	(1u << 1)	/* le32 offer follows: to be inserted instead */
#define FRAME_EJECT_INSERT	(1u << 2)	/* the offer itself is to be inserted */

/* Bits of struct frame_offer.flags. */
#define FRAME_OFFER_READ_ONLY	(1u << 0)
#define FRAME_OFFER_DURABLE	(1u << 1)	/* acknowledged writes survive the server */
#define FRAME_OFFER_MULTI	(1u << 2)	/* several streams at once are coherent */
#define FRAME_OFFER_BUSY	(1u << 3)	/* open for writing by another port */
#define FRAME_OFFER_AWAY	(1u << 4)	/* belongs to another host: OPEN is refused */

enum frame_kind {
	FRAME_KIND_UNKNOWN = 0,
	FRAME_KIND_CDROM = 1,			/* ISO 9660 or UDF */
	FRAME_KIND_DISK = 2,
};

/* FRAME_OFFER: 64 bytes, then name_len bytes of name */
struct frame_offer {
	uint32_t id;			/* not 0; of this session */
	uint32_t flags;			/* FRAME_OFFER_* */
	uint64_t size;			/* bytes */
	uint8_t  medium_id[FRAME_UUID_LEN];   /* of the store */
	uint8_t  incarnation[FRAME_UUID_LEN]; /* of the server process that has it */
	uint16_t kind;			/* enum frame_kind */
	uint16_t name_len;
	uint32_t owner_epoch;		/* how often it came to belong to another host */
	uint32_t reserved[2];
	char	 name[FRAME_NAME_MAX + 1]; /* not on the wire as such: NUL-terminated here */
};
#define FRAME_OFFER_LEN		64

enum frame_notice_what {
	FRAME_NOTICE_INSERTED = 1,	/* the drive took the medium */
	FRAME_NOTICE_EJECTED = 2,	/* the drive gave it back */
	FRAME_NOTICE_LOCKED = 3,
	FRAME_NOTICE_UNLOCKED = 4,
	FRAME_NOTICE_BUSY = 5,		/* answer to an eject request: in use */
};

/* Codes of CLOSE and BYE. */
enum frame_code {
	FRAME_OK = 0,
	FRAME_ERR_PROTOCOL = 1,
	FRAME_ERR_VERSION = 2,
	FRAME_ERR_NO_SUCH_OFFER = 3,
	FRAME_ERR_BUSY = 4,
	FRAME_ERR_SERVER = 5,		/* the NBD server ended or did not start */
	FRAME_ERR_LIMIT = 6,
	FRAME_ERR_TIMEOUT = 7,
	FRAME_ERR_SHUTDOWN = 8,
	FRAME_ERR_MOVED = 9,		/* the medium belongs to another host */
};

/* What a MOVE asks of the share; Documentation/migration.rst. */
enum frame_move_verb {
	FRAME_MOVE_BEGIN = 1,	/* go to the other host, too */
	FRAME_MOVE_COMMIT = 2,	/* let the medium belong to that host */
	FRAME_MOVE_CANCEL = 3,	/* unless that was done, never do it; answered by what is so */
	FRAME_MOVE_ACCEPT = 4,	/* of the other host: it is the medium, and there is room */
	FRAME_MOVE_DONE = 5,	/* it is known here that the medium is gone */
};

enum frame_move_result {
	FRAME_MOVE_WAITING = 1,	/* for the other host, or for its word */
	FRAME_MOVE_READY = 2,	/* the other host has accepted it */
	FRAME_MOVE_GRANTED = 3,	/* the medium belongs to the other host */
	FRAME_MOVE_OVER = 4,	/* it does not, and never will by this move; text: why */
};

#define FRAME_MOVE_URI_MAX	127
#define FRAME_MOVE_SUBJECT_MAX	95
#define FRAME_MOVE_TICKET_MAX	60

/* FRAME_MOVE: @port and what follows with FRAME_MOVE_BEGIN only */
struct frame_move {
	uint32_t verb;			/* enum frame_move_verb */
	uint32_t offer;
	uint8_t id[FRAME_UUID_LEN];	/* of the migration */
	uint32_t port;			/* of the other host's link */
	char uri[FRAME_MOVE_URI_MAX + 1];
	char subject[FRAME_MOVE_SUBJECT_MAX + 1];	/* of its certificate; or empty */
	char ticket[FRAME_MOVE_TICKET_MAX + 1];		/* or empty */
};

/* FRAME_MOVE_STATE */
struct frame_move_state {
	uint32_t result;		/* enum frame_move_result */
	uint32_t offer;			/* 0: not offered any more */
	uint32_t owner_epoch;
	uint8_t id[FRAME_UUID_LEN];
	char text[FRAME_TEXT_MAX + 1];
};

/*
 * Payloads that are a few integers:
 *   WITHDRAW       le32 offer
 *   OPEN           le32 offer, le32 credit for share-to-link bytes
 *   OPENED         le32 credit for link-to-share bytes
 *   CREDIT         le32 bytes, added to what is left
 *   CLOSE, BYE     le32 code, then text (UTF-8, no control characters)
 *   NOTICE         le32 what, le32 offer, then text with FRAME_CAP_ANSWERS
 *   EJECT_REQUEST  le32 offer, le32 flags, then le32 offer with FRAME_EJECT_REPLACE
 *   PING, PONG     le64 token
 *   OFFERS_END, RESYNC  empty
 *   MOVE           le32 verb, le32 offer, 16 bytes id; with BEGIN le32 port, u8
 *                  lengths of uri, subject and ticket, u8 0, and these three
 *   MOVE_STATE     le32 result, le32 offer, le32 owner epoch, 16 bytes id, text
 */

enum frame_rx_result {
	FRAME_RX_NEED_MORE,	/* no whole frame in the buffer yet */
	FRAME_RX_FRAME,		/* hdr and payload are set */
	FRAME_RX_SKIPPED,	/* bytes were dropped (other epoch, resynchronising); call again */
	FRAME_RX_LOST,		/* wrong magic, gap, limit or check: ask for a new hello; call again */
};

/**
 * struct frame_rx - receiver of one direction
 * @buf: holds at most one frame; the caller's memory is used while it lasts
 * @epoch: accepted epoch, 0 before a hello
 * @seq: number the next frame of @epoch must have
 * @hunting: looking for the magic of a HELLO or RESYNC
 * @expect_hello: epoch of the hello that ends hunting; 0: any
 * @checked: no frame without a check is taken; until the next HELLO
 * @seed: of the checks
 */
struct frame_rx {
	uint8_t buf[FRAME_MAX];
	size_t have;
	uint32_t epoch;
	uint32_t seq;
	bool hunting;
	uint32_t expect_hello;
	bool checked;
	uint64_t seed;
	uint64_t dropped;	/* bytes, for the log and the counters */
};

/* struct frame_tx - numbering of one direction, and whether its frames are checked */
struct frame_tx {
	uint32_t epoch;
	uint32_t seq;
	bool checked;
	uint64_t seed;
};

/* frame_seed() - of the checks of a session whose link has this secret */
uint64_t frame_seed(const uint8_t secret[FRAME_SECRET_LEN]);

/**
 * frame_rx_init() - start hunting
 * @rx: receiver
 * @expect_hello: only a hello of this epoch ends the hunt; 0: of any epoch
 */
void frame_rx_init(struct frame_rx *rx, uint32_t expect_hello);

/**
 * frame_rx_feed() - take bytes, give at most one frame
 * @rx: receiver
 * @data: in and out: the next byte to take
 * @len: in and out: bytes left
 * @hdr: out, with FRAME_RX_FRAME; its length is without the check
 * @payload: out, with FRAME_RX_FRAME: @hdr->length bytes, valid until the next
 *	call; points into *@data when the frame lies there whole; its header, as
 *	it came, stands before it
 *
 * Checks magic, length (at most FRAME_PAYLOAD_MAX), epoch, sequence, and where
 * there is one the check: no byte of a frame is given before all are known to be
 * its own. A HELLO
 * of another epoch (any for expect_hello 0) is given to the caller at any time,
 * with @rx already switched to its epoch; every other frame of a foreign epoch
 * is dropped. Call until FRAME_RX_NEED_MORE.
 *
 * Return: enum frame_rx_result.
 */
enum frame_rx_result frame_rx_feed(struct frame_rx *rx, const uint8_t **data,
				   size_t *len, struct frame_header *hdr,
				   const uint8_t **payload);

/**
 * frame_rx_ahead() - whether a frame's payload may be used before it has come
 * @head: FRAME_HEADER_LEN bytes
 * @len: of the whole frame, as what carries it says
 * @hdr: out
 *
 * It may where frames have no check and this is the next one, of type DATA.
 * frame_rx_feed() gets none of its bytes then; frame_rx_passed() follows.
 */
bool frame_rx_ahead(const struct frame_rx *rx, const uint8_t *head, size_t len,
		    struct frame_header *hdr);
void frame_rx_passed(struct frame_rx *rx);

/**
 * frame_seal() - number a frame, write its header, and its check if it has one
 * @tx: numbering; seq counts up (RESYNC: epoch and seq 0, not counted)
 * @out: its @length bytes of payload are there, after FRAME_HEADER_LEN bytes;
 *	after them is room for FRAME_CHECK_LEN bytes
 *
 * Return: length of the frame
 */
size_t frame_seal(struct frame_tx *tx, uint8_t *out, uint16_t type, uint32_t stream,
		  uint32_t length);

/* frame_room() - bytes of payload that fit into a frame of this length */
size_t frame_room(const struct frame_tx *tx, size_t frame_max);

/*
 * Packers write header and payload into out and return the frame's length;
 * out has FRAME_SMALL_MAX bytes. Parsers check every field, length included,
 * and return false for anything that the page does not allow.
 */
#define FRAME_SMALL_MAX		(FRAME_HEADER_LEN + FRAME_OFFER_LEN + 256 + 64)

size_t frame_pack_hello(struct frame_tx *tx, uint8_t *out, const struct frame_hello *h);
size_t frame_pack_offer(struct frame_tx *tx, uint8_t *out, const struct frame_offer *o);
size_t frame_pack_u32s(struct frame_tx *tx, uint8_t *out, uint16_t type,
		       uint32_t stream, const uint32_t *v, unsigned int n);
size_t frame_pack_u64(struct frame_tx *tx, uint8_t *out, uint16_t type, uint64_t v);
size_t frame_pack_code(struct frame_tx *tx, uint8_t *out, uint16_t type,
		       uint32_t stream, uint32_t code, const char *text);
/* @text: NULL for a peer without FRAME_CAP_ANSWERS */
size_t frame_pack_notice(struct frame_tx *tx, uint8_t *out, uint32_t what, uint32_t offer,
			 const char *text);
/* @by: with FRAME_EJECT_REPLACE in @flags */
size_t frame_pack_eject(struct frame_tx *tx, uint8_t *out, uint32_t offer, uint32_t flags,
			uint32_t by);
size_t frame_pack_empty(struct frame_tx *tx, uint8_t *out, uint16_t type);
size_t frame_pack_move(struct frame_tx *tx, uint8_t *out, const struct frame_move *m);
size_t frame_pack_move_state(struct frame_tx *tx, uint8_t *out,
			     const struct frame_move_state *m);

bool frame_parse_hello(const uint8_t *p, size_t len, struct frame_hello *h);
bool frame_parse_offer(const uint8_t *p, size_t len, struct frame_offer *o);
bool frame_parse_u32s(const uint8_t *p, size_t len, uint32_t *v, unsigned int n);
bool frame_parse_u64(const uint8_t *p, size_t len, uint64_t *v);
bool frame_parse_code(const uint8_t *p, size_t len, uint32_t *code,
		      char text[FRAME_TEXT_MAX + 1]);
bool frame_parse_notice(const uint8_t *p, size_t len, uint32_t *what, uint32_t *offer,
			char text[FRAME_TEXT_MAX + 1]);
bool frame_parse_eject(const uint8_t *p, size_t len, uint32_t *offer, uint32_t *flags,
		       uint32_t *by);
bool frame_parse_move(const uint8_t *p, size_t len, struct frame_move *m);
bool frame_parse_move_state(const uint8_t *p, size_t len, struct frame_move_state *m);

/**
 * frame_name_ok() - whether a medium's name may be shown and typed
 *
 * UTF-8, 1..FRAME_NAME_MAX bytes, no control characters (C0, DEL, C1, line and
 * paragraph separators, bidirectional controls), no '/', not "." or "..".
 */
bool frame_name_ok(const char *name, size_t len);

const char *frame_type_str(uint16_t type);
const char *frame_code_str(uint32_t code);

#endif /* SPICEBD_FRAME_H */
