// SPDX-License-Identifier: GPL-2.0-only
/*
 * The frame receiver and all parsers on arbitrary bytes.
 *
 * The first byte of an input says how: bit 0 whether one hello is expected, bit 7
 * whether frames must be checked, the others how the bytes are cut. Cut in two ways
 * the same bytes must give the same frames.
 */

#include "frame.h"
#include "fuzz.h"

struct digest {
	uint64_t frames, hash, lost;
};

static void mix(struct digest *d, const void *p, size_t len)
{
	const uint8_t *b = p;

	while (len--)
		d->hash = (d->hash ^ *b++) * 1099511628211ull;
}

static void parse_all(const struct frame_header *h, const uint8_t *p)
{
	char text[FRAME_TEXT_MAX + 1];
	uint8_t out[FRAME_SMALL_MAX];
	struct frame_tx tx = { .epoch = 1 };
	struct frame_hello hello;
	struct frame_move_state state;
	struct frame_offer offer;
	struct frame_move move;
	uint32_t v[4];
	uint64_t u;

	if (frame_parse_hello(p, h->length, &hello)) {
		must(frame_pack_hello(&tx, out, &hello) == FRAME_HEADER_LEN + h->length);
		must(!memcmp(out + FRAME_HEADER_LEN, p, 88));
	}
	if (frame_parse_offer(p, h->length, &offer)) {
		must(strlen(offer.name) == offer.name_len && frame_name_ok(offer.name, offer.name_len));
		must(frame_pack_offer(&tx, out, &offer) == FRAME_HEADER_LEN + h->length);
	}
	if (frame_parse_code(p, h->length, v, text)) {
		must(frame_pack_code(&tx, out, FRAME_BYE, 0, v[0], text) <= sizeof(out));
		must(strlen(text) > FRAME_TEXT_MAX || h->length < 4 + strlen(text) ||
		     !memcmp(text, p + 4, strlen(text)));
	}
	frame_parse_u32s(p, h->length, v, h->length % 5);
	frame_parse_notice(p, h->length, &v[0], &v[1], text);
	frame_parse_eject(p, h->length, &v[0], &v[1], &v[2]);
	/* What was parsed packs again to what it was. */
	if (frame_parse_move(p, h->length, &move))
		must(frame_pack_move(&tx, out, &move) == FRAME_HEADER_LEN + h->length);
	if (frame_parse_move_state(p, h->length, &state))
		must(frame_pack_move_state(&tx, out, &state) == FRAME_HEADER_LEN + h->length);
	frame_parse_u64(p, h->length, &u);
	frame_name_ok((const char *)p, h->length);
	must(frame_type_str(h->type) && frame_code_str(h->stream));
}

static struct digest feed(const uint8_t *data, size_t size, uint8_t how, size_t step)
{
	static struct frame_rx rx;
	struct digest d = { 0 };
	const uint8_t *p, *payload;
	struct frame_header h;
	uint32_t expect = how & 1 ? 0x01010101 : 0;
	size_t len, calls;
	uint8_t *copy;

	frame_rx_init(&rx, expect);
	while (size) {
		len = step < size ? step : size;
		copy = malloc(len);
		memcpy(copy, data, len);
		data += len;
		size -= len;
		p = copy;
		for (calls = 0;; calls++) {
			enum frame_rx_result r = frame_rx_feed(&rx, &p, &len, &h, &payload);

			must(calls < 1000000 && rx.have <= FRAME_MAX);
			if (r == FRAME_RX_NEED_MORE)
				break;
			if (r == FRAME_RX_LOST)
				d.lost++;
			if (r != FRAME_RX_FRAME)
				continue;
			must(h.magic == FRAME_MAGIC && h.length <= FRAME_PAYLOAD_MAX);
			must(h.type == FRAME_RESYNC || h.epoch == rx.epoch);
			must(!expect || h.type == FRAME_RESYNC || rx.epoch == expect);
			must(!rx.checked || h.type == FRAME_RESYNC || h.flags & FRAME_FLAG_CHECKED);
			if (h.type == FRAME_HELLO && how & 0x80) {
				rx.checked = true;
				rx.seed = 0x73656564;
			}
			mix(&d, &h, sizeof(h));
			mix(&d, payload, h.length);
			d.frames++;
			parse_all(&h, payload);
		}
		must(!len);
		free(copy);
	}
	return d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame_header whole = { .length = size };
	struct digest a, b;

	parse_all(&whole, data);
	if (!size)
		return 0;
	a = feed(data + 1, size - 1, data[0], 1 + (data[0] >> 1 & 63));
	b = feed(data + 1, size - 1, data[0], size);
	must(a.frames == b.frames && a.hash == b.hash && a.lost == b.lost);
	return 0;
}
