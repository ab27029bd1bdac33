/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The frames of RFC 6455, a server's end. Pure: no I/O, no allocation. A message has
 * no meaning here, only its bytes: they are given on as they come.
 */
#ifndef SPICEBD_WSFRAME_H
#define SPICEBD_WSFRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_CONTROL_MAX	125
#define WS_FRAME_MAX	(1u << 20)	/* that we take */
#define WS_HEADER_MAX	4		/* that we write: payloads below 64 KiB */

enum ws_code {
	WS_NORMAL = 1000,
	WS_GOING = 1001,
	WS_PROTOCOL = 1002,
	WS_KIND = 1003,
	WS_TOO_BIG = 1009,
	WS_LATER = 1013,
};

enum ws_opcode {
	WS_CONTINUED = 0,
	WS_TEXT = 1,
	WS_BINARY = 2,
	WS_CLOSE = 8,
	WS_PING = 9,
	WS_PONG = 10,
};

/**
 * struct ws_in - what comes from the browser
 * @fault: not 0: the peer broke the protocol, enum ws_code; nothing more is read
 * @closed: it said CLOSE; nothing more is read
 * @pinged: a PING is to be answered with @control; the caller clears it
 */
struct ws_in {
	uint8_t head[14];
	size_t have;		/* of the header */
	uint64_t left;		/* of the payload */
	uint64_t at;		/* of it, for the mask */
	uint8_t mask[4];
	uint8_t opcode;
	bool in_payload, in_message;
	uint8_t control[WS_CONTROL_MAX];
	size_t control_len;
	unsigned int fault;
	bool closed, pinged;
};

/**
 * ws_decode() - take bytes as they came
 * @buf: in: @len bytes; out: the messages' own bytes
 * Return: how many these are
 */
size_t ws_decode(struct ws_in *w, uint8_t *buf, size_t len);

/* ws_header() - of a whole frame of ours; returns its length, at most WS_HEADER_MAX */
size_t ws_header(uint8_t *out, enum ws_opcode opcode, size_t length);

#endif /* SPICEBD_WSFRAME_H */
