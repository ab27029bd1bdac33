// SPDX-License-Identifier: GPL-2.0-only
/* The frame layer; Documentation/frame-protocol.rst is its definition. */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "frame.h"
#include "text.h"

#define PING_MS_MIN	100u
#define PING_MS_MAX	3600000u
#define FRAME_MAX_MIN	4096u

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = v;
	p[1] = v >> 8;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v);
	put16(p + 2, v >> 16);
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, v);
	put32(p + 4, v >> 32);
}

static uint16_t get16(const uint8_t *p)
{
	return p[0] | (uint16_t)p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

/* ---- names and texts ---- */

bool frame_name_ok(const char *name, size_t len)
{
	if (!len || len > FRAME_NAME_MAX || memchr(name, '/', len))
		return false;
	if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
		return false;
	return text_ok((const uint8_t *)name, len);
}

/* ---- sending ---- */

static void put_header(struct frame_tx *tx, uint8_t *out, uint16_t type, uint16_t flags,
		       uint32_t stream, uint32_t length)
{
	bool resync = type == FRAME_RESYNC;

	put32(out, FRAME_MAGIC);
	put16(out + 4, type);
	put16(out + 6, flags);
	put32(out + 8, stream);
	put32(out + 12, length);
	put32(out + 16, resync ? 0 : tx->epoch);
	put32(out + 20, resync ? 0 : tx->seq++);
}

/* What agrees on checks, and what may come when nothing is agreed on, has none. */
static bool has_check(uint16_t type)
{
	return type != FRAME_HELLO && type != FRAME_RESYNC;
}

size_t frame_seal(struct frame_tx *tx, uint8_t *out, uint16_t type, uint32_t stream,
		  uint32_t length)
{
	size_t n = FRAME_HEADER_LEN + length;

	if (!tx->checked || !has_check(type)) {
		put_header(tx, out, type, 0, stream, length);
		return n;
	}
	put_header(tx, out, type, FRAME_FLAG_CHECKED, stream, length + FRAME_CHECK_LEN);
	put64(out + n, XXH64(out, n, tx->seed));
	return n + FRAME_CHECK_LEN;
}

size_t frame_room(const struct frame_tx *tx, size_t frame_max)
{
	return frame_max - FRAME_HEADER_LEN - (tx->checked ? FRAME_CHECK_LEN : 0);
}

/* Not of its first half, which may be the password of later links. */
uint64_t frame_seed(const uint8_t secret[FRAME_SECRET_LEN])
{
	return get64(secret + FRAME_SECRET_LEN - 8);
}

size_t frame_pack_hello(struct frame_tx *tx, uint8_t *out, const struct frame_hello *h)
{
	uint8_t *p = out + FRAME_HEADER_LEN;

	put16(p, h->version);
	put16(p + 2, h->role);
	put32(p + 4, h->capabilities);
	put32(p + 8, h->epoch);
	put32(p + 12, h->frame_max);
	put32(p + 16, h->ping_interval);
	put32(p + 20, h->ping_timeout);
	memcpy(p + 24, h->secret, FRAME_SECRET_LEN);
	memcpy(p + 56, h->boot_id, FRAME_UUID_LEN);
	memcpy(p + 72, h->instance, FRAME_UUID_LEN);
	memset(p + 88, 0, 8);
	return frame_seal(tx, out, FRAME_HELLO, 0, FRAME_HELLO_LEN);
}

size_t frame_pack_offer(struct frame_tx *tx, uint8_t *out, const struct frame_offer *o)
{
	uint8_t *p = out + FRAME_HEADER_LEN;
	size_t name_len = o->name_len > FRAME_NAME_MAX ? FRAME_NAME_MAX : o->name_len;

	put32(p, o->id);
	put32(p + 4, o->flags);
	put64(p + 8, o->size);
	memcpy(p + 16, o->medium_id, FRAME_UUID_LEN);
	memcpy(p + 32, o->incarnation, FRAME_UUID_LEN);
	put16(p + 48, o->kind);
	put16(p + 50, name_len);
	put32(p + 52, o->owner_epoch);
	memset(p + 56, 0, 8);
	memcpy(p + FRAME_OFFER_LEN, o->name, name_len);
	return frame_seal(tx, out, FRAME_OFFER, 0, FRAME_OFFER_LEN + name_len);
}

size_t frame_pack_u32s(struct frame_tx *tx, uint8_t *out, uint16_t type,
		       uint32_t stream, const uint32_t *v, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		put32(out + FRAME_HEADER_LEN + 4 * i, v[i]);
	return frame_seal(tx, out, type, stream, 4 * n);
}

size_t frame_pack_u64(struct frame_tx *tx, uint8_t *out, uint16_t type, uint64_t v)
{
	put64(out + FRAME_HEADER_LEN, v);
	return frame_seal(tx, out, type, 0, 8);
}

/* The text is ours or libc's, so it is made to fit rather than refused. */
static size_t put_text(uint8_t *p, const char *text)
{
	char s[FRAME_TEXT_MAX + 1];
	size_t len = text ? text_clean(s, sizeof(s), text, strlen(text)) : 0;

	memcpy(p, s, len);
	return len;
}

size_t frame_pack_code(struct frame_tx *tx, uint8_t *out, uint16_t type,
		       uint32_t stream, uint32_t code, const char *text)
{
	size_t len = put_text(out + FRAME_HEADER_LEN + 4, text);

	put32(out + FRAME_HEADER_LEN, code);
	return frame_seal(tx, out, type, stream, 4 + len);
}

size_t frame_pack_notice(struct frame_tx *tx, uint8_t *out, uint32_t what, uint32_t offer,
			 const char *text)
{
	size_t len = put_text(out + FRAME_HEADER_LEN + 8, text);

	put32(out + FRAME_HEADER_LEN, what);
	put32(out + FRAME_HEADER_LEN + 4, offer);
	return frame_seal(tx, out, FRAME_NOTICE, 0, 8 + len);
}

size_t frame_pack_eject(struct frame_tx *tx, uint8_t *out, uint32_t offer, uint32_t flags,
			uint32_t by)
{
	const uint32_t v[3] = { offer, flags, by };

	return frame_pack_u32s(tx, out, FRAME_EJECT_REQUEST, 0, v,
			       flags & FRAME_EJECT_REPLACE ? 3 : 2);
}

size_t frame_pack_empty(struct frame_tx *tx, uint8_t *out, uint16_t type)
{
	return frame_seal(tx, out, type, 0, 0);
}

#define MOVE_LEN	(8 + FRAME_UUID_LEN)
#define MOVE_BEGIN_LEN	(MOVE_LEN + 8)

size_t frame_pack_move(struct frame_tx *tx, uint8_t *out, const struct frame_move *m)
{
	const char *const texts[] = { m->uri, m->subject, m->ticket };
	uint8_t *p = out + FRAME_HEADER_LEN, *at = p + MOVE_BEGIN_LEN;

	put32(p, m->verb);
	put32(p + 4, m->offer);
	memcpy(p + 8, m->id, FRAME_UUID_LEN);
	if (m->verb != FRAME_MOVE_BEGIN) {
		return frame_seal(tx, out, FRAME_MOVE, 0, MOVE_LEN);
	}
	put32(p + MOVE_LEN, m->port);
	for (int i = 0; i < 3; i++) {
		size_t len = strlen(texts[i]);

		p[MOVE_LEN + 4 + i] = len;
		memcpy(at, texts[i], len);
		at += len;
	}
	p[MOVE_LEN + 7] = 0;
	return frame_seal(tx, out, FRAME_MOVE, 0, at - p);
}

size_t frame_pack_move_state(struct frame_tx *tx, uint8_t *out,
			     const struct frame_move_state *m)
{
	uint8_t *p = out + FRAME_HEADER_LEN;
	size_t len = put_text(p + 12 + FRAME_UUID_LEN, m->text);

	put32(p, m->result);
	put32(p + 4, m->offer);
	put32(p + 8, m->owner_epoch);
	memcpy(p + 12, m->id, FRAME_UUID_LEN);
	return frame_seal(tx, out, FRAME_MOVE_STATE, 0, 12 + FRAME_UUID_LEN + len);
}

/* ---- parsing of payloads ---- */

bool frame_parse_hello(const uint8_t *p, size_t len, struct frame_hello *h)
{
	if (len != FRAME_HELLO_LEN)
		return false;
	memset(h, 0, sizeof(*h));
	h->version = get16(p);
	h->role = get16(p + 2);
	h->capabilities = get32(p + 4);
	h->epoch = get32(p + 8);
	h->frame_max = get32(p + 12);
	h->ping_interval = get32(p + 16);
	h->ping_timeout = get32(p + 20);
	memcpy(h->secret, p + 24, FRAME_SECRET_LEN);
	memcpy(h->boot_id, p + 56, FRAME_UUID_LEN);
	memcpy(h->instance, p + 72, FRAME_UUID_LEN);
	return h->version && h->epoch &&
	       (h->role == FRAME_ROLE_LINK || h->role == FRAME_ROLE_SHARE) &&
	       h->frame_max >= FRAME_MAX_MIN && h->frame_max <= FRAME_MAX &&
	       h->ping_interval >= PING_MS_MIN && h->ping_interval <= PING_MS_MAX &&
	       h->ping_timeout >= h->ping_interval && h->ping_timeout <= PING_MS_MAX;
}

bool frame_parse_offer(const uint8_t *p, size_t len, struct frame_offer *o)
{
	if (len < FRAME_OFFER_LEN)
		return false;
	memset(o, 0, sizeof(*o));
	o->id = get32(p);
	o->flags = get32(p + 4);
	o->size = get64(p + 8);
	memcpy(o->medium_id, p + 16, FRAME_UUID_LEN);
	memcpy(o->incarnation, p + 32, FRAME_UUID_LEN);
	o->kind = get16(p + 48);
	o->name_len = get16(p + 50);
	o->owner_epoch = get32(p + 52);
	if (!o->id || o->size > INT64_MAX || len != FRAME_OFFER_LEN + (size_t)o->name_len ||
	    all_zero(o->medium_id, FRAME_UUID_LEN) ||
	    all_zero(o->incarnation, FRAME_UUID_LEN) ||
	    !frame_name_ok((const char *)p + FRAME_OFFER_LEN, o->name_len))
		return false;
	memcpy(o->name, p + FRAME_OFFER_LEN, o->name_len);
	if (o->kind > FRAME_KIND_DISK)
		o->kind = FRAME_KIND_UNKNOWN;
	return true;
}

bool frame_parse_u32s(const uint8_t *p, size_t len, uint32_t *v, unsigned int n)
{
	unsigned int i;

	if (len != 4 * (size_t)n)
		return false;
	for (i = 0; i < n; i++)
		v[i] = get32(p + 4 * i);
	return true;
}

bool frame_parse_u64(const uint8_t *p, size_t len, uint64_t *v)
{
	if (len != 8)
		return false;
	*v = get64(p);
	return true;
}

bool frame_parse_code(const uint8_t *p, size_t len, uint32_t *code,
		      char text[FRAME_TEXT_MAX + 1])
{
	if (len < 4 || len > 4 + FRAME_TEXT_MAX || !text_ok(p + 4, len - 4))
		return false;
	*code = get32(p);
	memcpy(text, p + 4, len - 4);
	text[len - 4] = '\0';
	return true;
}

bool frame_parse_notice(const uint8_t *p, size_t len, uint32_t *what, uint32_t *offer,
			char text[FRAME_TEXT_MAX + 1])
{
	if (len < 8)
		return false;
	*what = get32(p);
	/* What follows has the form of a code's payload. */
	return frame_parse_code(p + 4, len - 4, offer, text);
}

bool frame_parse_eject(const uint8_t *p, size_t len, uint32_t *offer, uint32_t *flags,
		       uint32_t *by)
{
	if (len != 8 && len != 12)
		return false;
	*offer = get32(p);
	*flags = get32(p + 4);
	*by = len == 12 ? get32(p + 8) : 0;
	return !(*flags & FRAME_EJECT_REPLACE) == (len == 8);
}

/* Printable ASCII: an address, a certificate's subject, a ticket. */
static bool get_ascii(char *to, size_t max, const uint8_t *p, size_t len)
{
	if (len > max)
		return false;
	for (size_t i = 0; i < len; i++)
		if (p[i] < 0x20 || p[i] > 0x7e)
			return false;
	memcpy(to, p, len);
	to[len] = '\0';
	return true;
}

bool frame_parse_move(const uint8_t *p, size_t len, struct frame_move *m)
{
	const uint8_t *n = p + MOVE_LEN + 4, *at = p + MOVE_BEGIN_LEN;

	memset(m, 0, sizeof(*m));
	if (len < MOVE_LEN)
		return false;
	m->verb = get32(p);
	m->offer = get32(p + 4);
	memcpy(m->id, p + 8, FRAME_UUID_LEN);
	if (m->verb < FRAME_MOVE_BEGIN || m->verb > FRAME_MOVE_DONE ||
	    all_zero(m->id, FRAME_UUID_LEN))
		return false;
	if (m->verb != FRAME_MOVE_BEGIN)
		return len == MOVE_LEN;
	if (len < MOVE_BEGIN_LEN || len != MOVE_BEGIN_LEN + (size_t)n[0] + n[1] + n[2])
		return false;
	m->port = get32(p + MOVE_LEN);
	return n[0] && get_ascii(m->uri, FRAME_MOVE_URI_MAX, at, n[0]) &&
	       get_ascii(m->subject, FRAME_MOVE_SUBJECT_MAX, at + n[0], n[1]) &&
	       get_ascii(m->ticket, FRAME_MOVE_TICKET_MAX, at + n[0] + n[1], n[2]);
}

bool frame_parse_move_state(const uint8_t *p, size_t len, struct frame_move_state *m)
{
	uint32_t ignored;

	memset(m, 0, sizeof(*m));
	if (len < 12 + FRAME_UUID_LEN)
		return false;
	m->result = get32(p);
	m->offer = get32(p + 4);
	m->owner_epoch = get32(p + 8);
	memcpy(m->id, p + 12, FRAME_UUID_LEN);
	/* The end of the id and what follows it have the form of a code's payload. */
	return m->result >= FRAME_MOVE_WAITING && m->result <= FRAME_MOVE_OVER &&
	       !all_zero(m->id, FRAME_UUID_LEN) &&
	       frame_parse_code(p + 8 + FRAME_UUID_LEN, len - 8 - FRAME_UUID_LEN, &ignored,
				m->text);
}

const char *frame_type_str(uint16_t type)
{
	static const char *const names[] = {
		[FRAME_HELLO] = "HELLO",
		[FRAME_RESYNC] = "RESYNC",
		[FRAME_OFFER] = "OFFER",
		[FRAME_WITHDRAW] = "WITHDRAW",
		[FRAME_OFFERS_END] = "OFFERS_END",
		[FRAME_OPEN] = "OPEN",
		[FRAME_OPENED] = "OPENED",
		[FRAME_DATA] = "DATA",
		[FRAME_CREDIT] = "CREDIT",
		[FRAME_CLOSE] = "CLOSE",
		[FRAME_NOTICE] = "NOTICE",
		[FRAME_EJECT_REQUEST] = "EJECT_REQUEST",
		[FRAME_PING] = "PING",
		[FRAME_PONG] = "PONG",
		[FRAME_MOVE] = "MOVE",
		[FRAME_BYE] = "BYE",
		[FRAME_MOVE_STATE] = "MOVE_STATE",
	};

	if (type >= sizeof(names) / sizeof(names[0]) || !names[type])
		return type & FRAME_TYPE_OPTIONAL ? "optional" : "unknown";
	return names[type];
}

const char *frame_code_str(uint32_t code)
{
	static const char *const names[] = {
		[FRAME_OK] = "ok",
		[FRAME_ERR_PROTOCOL] = "protocol error",
		[FRAME_ERR_VERSION] = "version not supported",
		[FRAME_ERR_NO_SUCH_OFFER] = "no such offer",
		[FRAME_ERR_BUSY] = "busy",
		[FRAME_ERR_SERVER] = "server failed",
		[FRAME_ERR_LIMIT] = "limit exceeded",
		[FRAME_ERR_TIMEOUT] = "timed out",
		[FRAME_ERR_SHUTDOWN] = "shut down",
		[FRAME_ERR_MOVED] = "moved to another host",
	};

	if (code >= sizeof(names) / sizeof(names[0]))
		return "unknown error";
	return names[code];
}

/* ---- receiving ---- */

static const uint8_t magic_bytes[4] = { 'S', 'B', 'D', 'F' };

static void get_header(const uint8_t *p, struct frame_header *h)
{
	h->magic = get32(p);
	h->type = get16(p + 4);
	h->flags = get16(p + 6);
	h->stream = get32(p + 8);
	h->length = get32(p + 12);
	h->epoch = get32(p + 16);
	h->seq = get32(p + 20);
}

void frame_rx_init(struct frame_rx *rx, uint32_t expect_hello)
{
	rx->have = 0;
	rx->epoch = 0;
	rx->seq = 0;
	rx->hunting = true;
	rx->expect_hello = expect_hello;
	rx->checked = false;
	rx->dropped = 0;
}

enum verdict {
	DELIVER,	/* the next frame of the session */
	NEW_EPOCH,	/* a HELLO that would start a session */
	DELIVER_RESYNC,	/* outside of all epochs */
	DROP,		/* a whole frame that is not for us */
	LOSE,		/* not a frame, or not the next one */
};

static bool starts_epoch(const struct frame_rx *rx, const struct frame_header *h)
{
	return h->type == FRAME_HELLO && h->length == FRAME_HELLO_LEN && !h->stream &&
	       !h->seq && h->epoch && h->epoch != rx->epoch &&
	       (!rx->expect_hello || h->epoch == rx->expect_hello);
}

static bool is_resync(const struct frame_header *h)
{
	return h->type == FRAME_RESYNC && !h->length && !h->stream && !h->epoch && !h->seq;
}

static enum verdict judge(const struct frame_rx *rx, const struct frame_header *h)
{
	if (h->magic != FRAME_MAGIC || h->length > FRAME_PAYLOAD_MAX)
		return LOSE;
	if (is_resync(h))
		return DELIVER_RESYNC;
	if (starts_epoch(rx, h))
		return NEW_EPOCH;
	/*
	 * While hunting, a frame of the epoch that was lost is passed over as a
	 * whole: its payload is somebody's data and may hold anything, also
	 * what looks like a hello.
	 */
	if (rx->hunting)
		return rx->epoch && h->epoch == rx->epoch ? DROP : LOSE;
	if (h->epoch != rx->epoch)
		return DROP;
	return h->seq == rx->seq ? DELIVER : LOSE;
}

/* A payload of hostile or random bytes must not switch the epoch. */
static bool hello_is_whole(const struct frame_header *h, const uint8_t *payload)
{
	struct frame_hello hello;

	return frame_parse_hello(payload, h->length, &hello) && hello.epoch == h->epoch;
}

/*
 * Of a frame of the session that is there from its first byte to its last: are
 * these its own bytes, or did some get lost and others come in their place?
 */
static bool check_is_right(const struct frame_rx *rx, const struct frame_header *h,
			   const uint8_t *payload)
{
	size_t n;

	if (!(h->flags & FRAME_FLAG_CHECKED))
		return !rx->checked;
	if (!rx->checked || h->length < FRAME_CHECK_LEN)
		return false;
	n = h->length - FRAME_CHECK_LEN;
	return get64(payload + n) == XXH64(payload - FRAME_HEADER_LEN, FRAME_HEADER_LEN + n,
					   rx->seed);
}

/* What its header says, its bytes may deny. */
static bool is_whole(const struct frame_rx *rx, const struct frame_header *h, enum verdict v,
		     const uint8_t *payload)
{
	if (v == NEW_EPOCH)
		return hello_is_whole(h, payload);
	return v != DELIVER || check_is_right(rx, h, payload);
}

/* The frame is there from its first byte to its last. */
static enum frame_rx_result whole_frame(struct frame_rx *rx, struct frame_header *h,
					enum verdict v)
{
	switch (v) {
	case DROP:
		rx->dropped += FRAME_HEADER_LEN + h->length;
		return FRAME_RX_SKIPPED;
	case NEW_EPOCH:
		rx->epoch = h->epoch;
		rx->seq = 1;
		rx->hunting = false;
		rx->checked = false;
		return FRAME_RX_FRAME;
	case DELIVER:
		rx->seq++;
		if (rx->checked)
			h->length -= FRAME_CHECK_LEN;
		return FRAME_RX_FRAME;
	default:
		return FRAME_RX_FRAME;
	}
}

/* Length of the part at p that cannot be the start of a magic. */
static size_t not_magic(const uint8_t *p, size_t len)
{
	size_t i, n;

	for (i = 0; i < len; i++) {
		n = len - i < sizeof(magic_bytes) ? len - i : sizeof(magic_bytes);
		if (p[i] == magic_bytes[0] && !memcmp(p + i, magic_bytes, n))
			break;
	}
	return i;
}

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

static void fill(struct frame_rx *rx, size_t want, const uint8_t **data, size_t *len)
{
	size_t n;

	if (rx->have >= want)
		return;
	n = min_size(want - rx->have, *len);
	memcpy(rx->buf + rx->have, *data, n);
	rx->have += n;
	*data += n;
	*len -= n;
}

/* What stands in buf from its start is no frame: look one byte further on. */
static void pass_over(struct frame_rx *rx)
{
	size_t n = 1 + not_magic(rx->buf + 1, rx->have - 1);

	rx->have -= n;
	memmove(rx->buf, rx->buf + n, rx->have);
	rx->dropped += n;
}

static enum frame_rx_result lose(struct frame_rx *rx)
{
	if (rx->hunting) {
		pass_over(rx);
		return FRAME_RX_SKIPPED;
	}
	rx->hunting = true;
	return FRAME_RX_LOST;
}

/* Returns true, with its result, when it could take a frame straight from data. */
static bool feed_direct(struct frame_rx *rx, const uint8_t **data, size_t *len,
			struct frame_header *hdr, const uint8_t **payload,
			enum frame_rx_result *res)
{
	enum verdict v;

	if (rx->have || *len < FRAME_HEADER_LEN)
		return false;
	get_header(*data, hdr);
	v = judge(rx, hdr);
	if (v == LOSE || *len - FRAME_HEADER_LEN < hdr->length)
		return false;
	*payload = *data + FRAME_HEADER_LEN;
	if (!is_whole(rx, hdr, v, *payload))
		return false;
	*data += FRAME_HEADER_LEN + hdr->length;
	*len -= FRAME_HEADER_LEN + hdr->length;
	*res = whole_frame(rx, hdr, v);
	return true;
}

/*
 * A refused hello leaves up to its own length of bytes in buf, and a shorter
 * frame may start among them. The frame moves to the end of buf, where it can
 * stay until the next call, and what follows it to the start.
 */
static const uint8_t *set_aside(struct frame_rx *rx, size_t n)
{
	uint8_t *frame = rx->buf + FRAME_MAX - n;

	memcpy(frame, rx->buf, n);
	memmove(rx->buf, rx->buf + n, rx->have - n);
	return frame + FRAME_HEADER_LEN;
}

bool frame_rx_ahead(const struct frame_rx *rx, const uint8_t *head, size_t len,
		    struct frame_header *hdr)
{
	if (rx->have || rx->hunting || rx->checked)
		return false;
	get_header(head, hdr);
	return hdr->type == FRAME_DATA && !(hdr->flags & FRAME_FLAG_CHECKED) &&
	       judge(rx, hdr) == DELIVER && len == FRAME_HEADER_LEN + (size_t)hdr->length;
}

void frame_rx_passed(struct frame_rx *rx)
{
	rx->seq++;
}

enum frame_rx_result frame_rx_feed(struct frame_rx *rx, const uint8_t **data,
				   size_t *len, struct frame_header *hdr,
				   const uint8_t **payload)
{
	enum frame_rx_result res;
	enum verdict v;
	size_t n;

	if (rx->hunting && !rx->have) {
		n = not_magic(*data, *len);
		*data += n;
		*len -= n;
		rx->dropped += n;
		if (n)
			return FRAME_RX_SKIPPED;
	}
	if (feed_direct(rx, data, len, hdr, payload, &res))
		return res;

	fill(rx, FRAME_HEADER_LEN, data, len);
	if (rx->hunting && rx->have && not_magic(rx->buf, min_size(rx->have, 4)))
		return lose(rx);
	if (rx->have < FRAME_HEADER_LEN)
		return FRAME_RX_NEED_MORE;
	get_header(rx->buf, hdr);
	v = judge(rx, hdr);
	if (v == LOSE)
		return lose(rx);
	fill(rx, FRAME_HEADER_LEN + hdr->length, data, len);
	if (rx->have < FRAME_HEADER_LEN + hdr->length)
		return FRAME_RX_NEED_MORE;
	*payload = rx->buf + FRAME_HEADER_LEN;
	if (!is_whole(rx, hdr, v, *payload))
		return lose(rx);

	n = FRAME_HEADER_LEN + hdr->length;
	if (rx->have > n)
		*payload = set_aside(rx, n);
	rx->have -= n;
	return whole_frame(rx, hdr, v);
}
