// SPDX-License-Identifier: GPL-2.0-only
#include "wsframe.h"

#include <string.h>

#define FIN		0x80
#define RESERVED	0x70
#define OPCODE		0x0f
#define MASKED		0x80
#define LENGTH		0x7f
#define LENGTH_16	126
#define LENGTH_64	127

/* How long the header is, as far as can be told by what there is of it. */
static size_t header_length(const struct ws_in *w)
{
	uint8_t n = w->have < 2 ? 0 : w->head[1] & LENGTH;

	return 2 + (n == LENGTH_16 ? 2 : n == LENGTH_64 ? 8 : 0) + 4;
}

static uint64_t payload_length(const struct ws_in *w)
{
	uint8_t n = w->head[1] & LENGTH, bytes = n == LENGTH_16 ? 2 : 8;
	uint64_t v = 0;

	if (n < LENGTH_16)
		return n;
	for (unsigned int i = 0; i < bytes; i++)
		v = v << 8 | w->head[2 + i];
	return v;
}

/* Of the first two bytes: whether such a frame may come now. */
static unsigned int judge_start(const struct ws_in *w)
{
	uint8_t op = w->head[0] & OPCODE;

	if (w->head[0] & RESERVED || !(w->head[1] & MASKED))
		return WS_PROTOCOL;
	if (op >= WS_CLOSE)
		return op > WS_PONG || !(w->head[0] & FIN) ||
		       (w->head[1] & LENGTH) > WS_CONTROL_MAX ? WS_PROTOCOL : 0;
	if (op == WS_TEXT)
		return WS_KIND;
	if (op > WS_BINARY || (op == WS_CONTINUED) != w->in_message)
		return WS_PROTOCOL;
	return 0;
}

static void begin(struct ws_in *w)
{
	w->left = payload_length(w);
	if (w->left > WS_FRAME_MAX) {
		w->fault = WS_TOO_BIG;
		return;
	}
	w->opcode = w->head[0] & OPCODE;
	memcpy(w->mask, w->head + header_length(w) - 4, 4);
	w->at = 0;
	w->have = 0;
	w->in_payload = true;
	if (w->opcode >= WS_CLOSE)
		w->control_len = 0;
	else
		w->in_message = !(w->head[0] & FIN);
}

static void finish(struct ws_in *w)
{
	w->in_payload = false;
	if (w->opcode == WS_CLOSE)
		w->closed = true;
	else if (w->opcode == WS_PING)
		w->pinged = true;
}

/* Takes one byte of a header. */
static void head_byte(struct ws_in *w, uint8_t b)
{
	w->head[w->have++] = b;
	if (w->have == 2)
		w->fault = judge_start(w);
	if (!w->fault && w->have >= 2 && w->have == header_length(w))
		begin(w);
}

static void unmask(struct ws_in *w, uint8_t *to, const uint8_t *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = from[i] ^ w->mask[(w->at + i) & 3];
	w->at += n;
	w->left -= n;
}

size_t ws_decode(struct ws_in *w, uint8_t *buf, size_t len)
{
	size_t in = 0, out = 0, n;

	while (in < len && !w->fault && !w->closed) {
		if (!w->in_payload) {
			head_byte(w, buf[in++]);
		} else {
			n = len - in < w->left ? len - in : w->left;
			if (w->opcode >= WS_CLOSE) {
				unmask(w, w->control + w->control_len, buf + in, n);
				w->control_len += n;
			} else {
				unmask(w, buf + out, buf + in, n);
				out += n;
			}
			in += n;
		}
		if (w->in_payload && !w->left)
			finish(w);
	}
	return out;
}

size_t ws_header(uint8_t *out, enum ws_opcode opcode, size_t length)
{
	out[0] = FIN | opcode;
	if (length < LENGTH_16) {
		out[1] = length;
		return 2;
	}
	out[1] = LENGTH_16;
	out[2] = length >> 8;
	out[3] = length;
	return 4;
}
