// SPDX-License-Identifier: GPL-2.0-only
/*
 * The frame layer's receiver, packers and parsers.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib selftests/unit/frame_test.c userhelper/lib/frame.c userhelper/lib/text.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

static int failures, checks_failed, number;

#define CHECK(cond) do { \
	if (!(cond)) { \
		printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond); \
		checks_failed++; \
	} \
} while (0)

/* ---- what a receiver said, as a string of letters ---- */

struct heard {
	char what[4096];	/* F rame, S kipped, L ost */
	size_t n;
	struct frame_header hdr[2048];
	uint8_t first[2048];	/* first byte of each payload */
	uint64_t sum[2048];	/* of each payload */
	size_t frames;
};

static uint64_t checksum(const uint8_t *p, size_t len)
{
	uint64_t h = 1469598103934665603ull;

	while (len--)
		h = (h ^ *p++) * 1099511628211ull;
	return h;
}

static void hear(struct frame_rx *rx, struct heard *h, const uint8_t *data, size_t len)
{
	/* An exact copy on the heap lets the sanitizer see an overrun. */
	uint8_t *copy = malloc(len ? len : 1);
	const uint8_t *p = copy, *payload = NULL;
	struct frame_header hdr;
	enum frame_rx_result r;
	size_t calls = 0, before;

	memcpy(copy, data, len);
	for (;;) {
		before = len;
		r = frame_rx_feed(rx, &p, &len, &hdr, &payload);
		if (r == FRAME_RX_NEED_MORE) {
			CHECK(len == 0);
			break;
		}
		if (++calls > 300000) {
			CHECK(!"the receiver came to an end");
			break;
		}
		CHECK(len <= before);
		if (r == FRAME_RX_FRAME) {
			CHECK(hdr.magic == FRAME_MAGIC && hdr.length <= FRAME_PAYLOAD_MAX);
			if (h->frames < 2048) {
				h->hdr[h->frames] = hdr;
				h->first[h->frames] = hdr.length ? payload[0] : 0;
				h->sum[h->frames++] = checksum(payload, hdr.length);
			}
		}
		if (h->n < sizeof(h->what) - 1)
			h->what[h->n++] = r == FRAME_RX_FRAME ? 'F' : r == FRAME_RX_LOST ? 'L' : 'S';
	}
	h->what[h->n] = '\0';
	free(copy);
}

static size_t count(const struct heard *h, char c)
{
	size_t i, n = 0;

	for (i = 0; i < h->n; i++)
		n += h->what[i] == c;
	return n;
}

/* ---- what a sender says ---- */

struct line {
	uint8_t b[1 << 20];
	size_t n;
	struct frame_tx tx;
};

static struct frame_hello hello_of(uint32_t epoch, uint16_t role)
{
	struct frame_hello h = {
		.version = FRAME_VERSION, .role = role, .epoch = epoch,
		.frame_max = FRAME_MAX, .ping_interval = 5000, .ping_timeout = 15000,
	};

	memset(h.secret, 0x5a, sizeof(h.secret));
	memset(h.boot_id, 0xb0, sizeof(h.boot_id));
	memset(h.instance, 0x1a, sizeof(h.instance));
	return h;
}

static void say_hello(struct line *l, uint32_t epoch)
{
	struct frame_hello h = hello_of(epoch, FRAME_ROLE_LINK);

	l->tx.epoch = epoch;
	l->tx.seq = 0;
	l->n += frame_pack_hello(&l->tx, l->b + l->n, &h);
}

static void say_data(struct line *l, uint32_t stream, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		l->b[l->n + FRAME_HEADER_LEN + i] = seed + i * 7 + (i >> 8);
	l->n += frame_seal(&l->tx, l->b + l->n, FRAME_DATA, stream, len);
}

static void say_ping(struct line *l, uint64_t token)
{
	l->n += frame_pack_u64(&l->tx, l->b + l->n, FRAME_PING, token);
}

static struct line *new_line(void)
{
	return calloc(1, sizeof(struct line));
}

static void start(struct frame_rx *rx, struct heard *h, uint32_t expect)
{
	memset(h, 0, sizeof(*h));
	memset(rx, 0xee, sizeof(*rx));
	frame_rx_init(rx, expect);
}

/* A session with frames of every awkward size, and how many frames it has. */
static struct line *a_session(size_t *frames)
{
	static const size_t sizes[] = { 0, 1, 23, 24, 25, 1000, FRAME_PAYLOAD_MAX };
	struct line *l = new_line();
	size_t i;

	say_hello(l, 77);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		say_data(l, i + 1, sizes[i], i);
		say_ping(l, i);
	}
	*frames = 1 + 2 * i;
	return l;
}

static struct frame_rx rx;
static struct heard got, want;

/* ---- tests ---- */

static void test_whole(void)
{
	size_t frames, i;
	struct line *l = a_session(&frames);

	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(got.frames == frames && got.n == frames);
	for (i = 0; i < got.frames; i++)
		CHECK(got.hdr[i].seq == i && got.hdr[i].epoch == 77);
	CHECK(rx.dropped == 0);
	free(l);
}

static void test_split_everywhere(void)
{
	struct line *l = new_line();
	size_t i;

	say_hello(l, 77);
	say_data(l, 1, 100, 3);
	say_data(l, 1, 0, 3);
	say_ping(l, 9);
	say_data(l, 2, 300, 4);
	start(&rx, &want, 0);
	hear(&rx, &want, l->b, l->n);
	CHECK(want.frames == 5);
	for (i = 0; i <= l->n; i++) {
		start(&rx, &got, 0);
		hear(&rx, &got, l->b, i);
		hear(&rx, &got, l->b + i, l->n - i);
		CHECK(got.frames == want.frames &&
		      !memcmp(got.sum, want.sum, sizeof(got.sum)) && count(&got, 'L') == 0);
	}
	free(l);
}

static void test_byte_by_byte(void)
{
	size_t frames, i;
	struct line *l = a_session(&frames);

	start(&rx, &want, 0);
	hear(&rx, &want, l->b, l->n);
	start(&rx, &got, 0);
	for (i = 0; i < l->n; i++)
		hear(&rx, &got, l->b + i, 1);
	CHECK(got.frames == frames && !memcmp(got.sum, want.sum, sizeof(got.sum)));
	CHECK(rx.dropped == 0);
	free(l);
}

static void test_payload_in_place(void)
{
	struct line *l = new_line();
	const uint8_t *p, *payload;
	struct frame_header hdr;
	size_t len;

	say_hello(l, 1);
	say_data(l, 1, 500, 0);
	start(&rx, &got, 0);
	p = l->b;
	len = l->n;
	CHECK(frame_rx_feed(&rx, &p, &len, &hdr, &payload) == FRAME_RX_FRAME);
	CHECK(frame_rx_feed(&rx, &p, &len, &hdr, &payload) == FRAME_RX_FRAME);
	CHECK(payload == l->b + l->n - 500);
	free(l);
}

/* Every bit of a frame's header, inverted, must not give that frame. */
static void test_header_bits(void)
{
	struct line *l;
	size_t at, bit;

	for (bit = 0; bit < FRAME_HEADER_LEN * 8; bit++) {
		l = new_line();
		say_hello(l, 77);
		say_data(l, 1, 10, 1);
		at = l->n;
		say_data(l, 1, 64, 2);
		say_data(l, 1, 8, 3);
		l->b[at + bit / 8] ^= 1 << bit % 8;
		start(&rx, &got, 0);
		hear(&rx, &got, l->b, l->n);
		if (bit < 32 || bit >= 160)		/* magic; sequence */
			CHECK(got.frames == 2 && count(&got, 'L') == 1);
		else if (bit >= 128)			/* epoch: dropped, then a gap */
			CHECK(got.frames == 2 && count(&got, 'L') == 1);
		else if (bit >= 96 && bit < 128)	/* length */
			CHECK(got.frames <= 3 && (bit < 112 || count(&got, 'L') == 1));
		else if (bit == 48)			/* a check that was not agreed on */
			CHECK(got.frames == 2 && count(&got, 'L') == 1);
		else					/* type, flags, stream: the caller's */
			CHECK(got.frames == 4);
		free(l);
	}
}

static void test_gaps(void)
{
	struct line *l;
	size_t from, n, frames, i;

	/* A stretch of bytes is lost, anywhere, of any length. */
	for (from = 120; from < 420; from += 3) {
		for (n = 1; n < 200; n += 13) {
			l = new_line();
			say_hello(l, 77);
			for (i = 0; i < 8; i++)
				say_data(l, 1, 40, i);
			memmove(l->b + from, l->b + from + n, l->n - from - n);
			l->n -= n;
			start(&rx, &got, 0);
			hear(&rx, &got, l->b, l->n);
			frames = got.frames;
			for (i = 1; i < frames; i++)
				CHECK(got.hdr[i].seq == i);
			/* A length made of other bytes swallows at most one frame's worth. */
			l->n = 0;
			for (i = 0; l->n < 2 * FRAME_MAX; i++)
				say_hello(l, 1000 + i);
			say_ping(l, 1);
			hear(&rx, &got, l->b, l->n);
			CHECK(got.frames > frames && got.hdr[got.frames - 1].type == FRAME_PING);
			free(l);
		}
	}
}

static void test_repeated_frame(void)
{
	struct line *l = new_line();

	say_hello(l, 77);
	say_ping(l, 1);
	memcpy(l->b + l->n, l->b + l->n - 32, 32);
	l->n += 32;
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(!strcmp(got.what, "FFLS"));	/* lost, and the frame passed over as a whole */
	free(l);
}

static void test_foreign_epochs(void)
{
	struct line *l = new_line();

	say_hello(l, 77);
	say_ping(l, 1);
	l->tx.epoch = 78;		/* no hello for it: dropped */
	l->tx.seq = 2;
	say_data(l, 1, 1000, 1);
	l->tx.epoch = 0;
	say_data(l, 1, 10, 1);
	l->tx.epoch = 77;
	l->tx.seq = 2;
	say_ping(l, 2);
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(!strcmp(got.what, "FFSSF"));
	CHECK(rx.dropped == 1024 + 34);
	free(l);
}

/* ---- checks ---- */

#define SEED 0x0123456789abcdefull

static void say_checked_hello(struct line *l, uint32_t epoch)
{
	l->tx.checked = false;
	say_hello(l, epoch);
	l->tx.checked = true;
	l->tx.seed = SEED;
}

/* The caller's part: from the hello on, frames must be checked. */
static void hear_checked(struct frame_rx *rx, struct heard *h, const uint8_t *data, size_t len,
			 size_t hello)
{
	hear(rx, h, data, hello);
	rx->checked = true;
	rx->seed = SEED;
	hear(rx, h, data + hello, len - hello);
}

static struct line *checked_session(size_t frames, size_t len, size_t *hello)
{
	struct line *l = new_line();
	size_t i;

	say_checked_hello(l, 77);
	*hello = l->n;
	for (i = 0; i < frames; i++)
		say_data(l, 1, len, i);
	return l;
}

static void test_checked(void)
{
	static const size_t sizes[] = { 1, 7, 8, 9, 1000, FRAME_PAYLOAD_MAX - FRAME_CHECK_LEN };
	struct line *l = new_line(), *plain = new_line();
	size_t i, hello, step;

	say_checked_hello(l, 77);
	hello = l->n;
	plain->tx.epoch = 77;
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		say_data(l, 1, sizes[i], i);
		say_ping(l, i);
	}
	CHECK(frame_room(&l->tx, FRAME_MAX) == sizes[5] &&
	      frame_room(&plain->tx, FRAME_MAX) == FRAME_PAYLOAD_MAX);
	for (step = 1; step < 3; step++) {
		start(&rx, &got, 0);
		hear(&rx, &got, l->b, hello);
		rx.checked = true;
		rx.seed = SEED;
		for (i = hello; i < l->n && step == 1; i++)
			hear(&rx, &got, l->b + i, 1);
		if (step == 2)
			hear(&rx, &got, l->b + hello, l->n - hello);
		CHECK(got.frames == 13 && !count(&got, 'L'));
		for (i = 0; i < 6; i++)		/* the check is not in the length */
			CHECK(got.hdr[1 + 2 * i].length == sizes[i] &&
			      got.hdr[2 + 2 * i].length == 8);
	}
	free(l);
	free(plain);
}

/* RESYNC and HELLO have no check, and a new hello ends the demand for one. */
static void test_what_is_not_checked(void)
{
	struct line *l = new_line();
	size_t hello;

	say_checked_hello(l, 77);
	hello = l->n;
	l->n += frame_pack_empty(&l->tx, l->b + l->n, FRAME_RESYNC);
	say_ping(l, 1);
	say_hello(l, 78);
	l->tx.checked = false;
	say_ping(l, 2);
	start(&rx, &got, 0);
	hear_checked(&rx, &got, l->b, l->n, hello);
	CHECK(!strcmp(got.what, "FFFFF") && !rx.checked && got.hdr[4].length == 8);
	free(l);
}

static void test_check_demanded(void)
{
	struct line *l = new_line();
	size_t hello;

	/* none where one is due, also in a frame too short for one */
	say_checked_hello(l, 77);
	hello = l->n;
	l->tx.checked = false;
	say_ping(l, 1);
	start(&rx, &got, 0);
	hear_checked(&rx, &got, l->b, l->n, hello);
	CHECK(got.frames == 1 && count(&got, 'L') == 1);
	l->n = hello;
	l->tx.seq = 1;
	say_data(l, 1, 7, 1);
	l->b[hello + 6] = FRAME_FLAG_CHECKED;
	start(&rx, &got, 0);
	hear_checked(&rx, &got, l->b, l->n, hello);
	CHECK(got.frames == 1 && count(&got, 'L') == 1);
	/* one where none was agreed on, and one of another secret */
	l->n = hello;
	l->tx.seq = 1;
	l->tx.checked = true;
	say_ping(l, 1);
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(got.frames == 1 && count(&got, 'L') == 1);
	l->n = hello;
	l->tx.seq = 1;
	l->tx.seed++;
	say_ping(l, 1);
	start(&rx, &got, 0);
	hear_checked(&rx, &got, l->b, l->n, hello);
	CHECK(got.frames == 1 && count(&got, 'L') == 1);
	free(l);
}

/* Every bit of a checked frame, inverted: neither that frame nor a later one. */
static void test_checked_bits(void)
{
	struct line *l;
	size_t bit, hello, at;

	for (bit = 0; bit < (FRAME_HEADER_LEN + 40 + FRAME_CHECK_LEN) * 8; bit++) {
		l = checked_session(3, 40, &hello);
		at = hello + FRAME_HEADER_LEN + 40 + FRAME_CHECK_LEN;
		l->b[at + bit / 8] ^= 1 << bit % 8;
		start(&rx, &got, 0);
		hear_checked(&rx, &got, l->b, l->n, hello);
		CHECK(got.frames == 2);
		free(l);
	}
}

/*
 * A stretch of bytes is lost, from anywhere and of any length, also of whole frames
 * at any place within them: nothing but the frames before it is given, whatever
 * comes in its place, here in frames that are all alike.
 */
static void test_checked_gaps(void)
{
	const size_t frame = FRAME_HEADER_LEN + 40 + FRAME_CHECK_LEN;
	size_t from, n, hello;
	struct line *l = checked_session(0, 0, &hello);
	uint8_t b[1024];

	for (n = 0; n < 8; n++)
		say_data(l, 1, 40, 5);
	CHECK(l->n <= sizeof(b));
	for (from = hello; from < hello + 2 * frame; from++) {
		for (n = 1; n < 4 * frame; n++) {
			memcpy(b, l->b, from);
			memcpy(b + from, l->b + from + n, l->n - from - n);
			start(&rx, &got, 0);
			hear_checked(&rx, &got, b, l->n - n, hello);
			CHECK(got.frames == 1 + (from - hello) / frame);
		}
	}
	free(l);
}

/* What stands where the rest of a lost frame is awaited: a full frame of nothing. */
static void test_rest_of_frame(void)
{
	struct line *l;
	size_t hello, cut;

	for (cut = 1; cut < 1000; cut += 37) {
		l = checked_session(1, 1000, &hello);
		l->n -= cut;
		memset(l->b + l->n, 0, FRAME_MAX);
		l->n += FRAME_MAX;
		l->n += frame_pack_empty(&l->tx, l->b + l->n, FRAME_RESYNC);
		start(&rx, &got, 0);
		hear_checked(&rx, &got, l->b, l->n, hello);
		CHECK(got.frames == 2 && got.hdr[1].type == FRAME_RESYNC &&
		      count(&got, 'L') == 1);
		free(l);
	}
}

static void test_new_hello_anytime(void)
{
	struct line *l = new_line();

	say_hello(l, 77);
	say_ping(l, 1);
	say_hello(l, 78);
	say_ping(l, 2);
	l->tx.epoch = 77;		/* a straggler */
	l->tx.seq = 2;
	say_ping(l, 3);
	l->tx.epoch = 78;
	l->tx.seq = 2;
	say_ping(l, 4);
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(!strcmp(got.what, "FFFFSF"));
	CHECK(rx.epoch == 78 && rx.seq == 3);
	free(l);
}

static void test_expected_hello(void)
{
	struct line *l = new_line();

	say_hello(l, 5);		/* of an older session: not ours */
	say_ping(l, 1);
	say_hello(l, 6);
	say_ping(l, 2);
	say_hello(l, 7);		/* foreign, in step: dropped */
	l->tx.epoch = 6;
	l->tx.seq = 2;
	say_ping(l, 3);
	start(&rx, &got, 6);
	hear(&rx, &got, l->b, l->n);
	CHECK(got.frames == 3 && got.hdr[0].epoch == 6 && got.hdr[2].type == FRAME_PING);
	CHECK(count(&got, 'L') == 0);
	free(l);
}

static void test_same_hello_again(void)
{
	struct line *l = new_line();

	say_hello(l, 6);
	say_hello(l, 6);
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(got.frames == 1 && count(&got, 'L') == 1);
	free(l);
}

static void test_bad_hello_in_step(void)
{
	struct line *l = new_line();
	size_t at;

	say_hello(l, 6);
	at = l->n;
	say_hello(l, 7);
	l->b[at + FRAME_HEADER_LEN + 8] ^= 1;	/* epoch of the payload differs */
	say_ping(l, 1);
	say_hello(l, 8);
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(got.frames == 2 && got.hdr[1].epoch == 8 && count(&got, 'L') == 1);
	free(l);
}

static void test_resync_frame(void)
{
	struct line *l = new_line();
	size_t at;

	say_hello(l, 6);
	l->n += frame_pack_empty(&l->tx, l->b + l->n, FRAME_RESYNC);
	say_ping(l, 1);			/* a RESYNC is not counted */
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(!strcmp(got.what, "FFF") && got.hdr[1].type == FRAME_RESYNC);

	/* while hunting, too, even for one epoch only */
	start(&rx, &got, 9);
	hear(&rx, &got, (const uint8_t *)"xxSBDxSBDFSBDF", 14);
	at = l->n;
	l->n += frame_pack_empty(&l->tx, l->b + l->n, FRAME_RESYNC);
	hear(&rx, &got, l->b + at, l->n - at);
	CHECK(got.frames == 1 && got.hdr[0].type == FRAME_RESYNC && rx.hunting);
	free(l);
}

static void test_hostile_lengths(void)
{
	static const uint32_t lengths[] = {
		FRAME_PAYLOAD_MAX + 1, FRAME_MAX, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff,
	};
	struct line *l;
	size_t i;

	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		l = new_line();
		say_hello(l, 6);
		frame_seal(&l->tx, l->b + l->n, FRAME_DATA, 1, lengths[i]);
		l->n += FRAME_HEADER_LEN;
		say_ping(l, 1);
		say_hello(l, 7);
		start(&rx, &got, 0);
		hear(&rx, &got, l->b, l->n);
		CHECK(got.frames == 2 && got.hdr[1].epoch == 7 && count(&got, 'L') == 1);
		free(l);
	}
}

/* Garbage, partly or wholly made of magics, then a hello: it is found. */
static void test_hunt(void)
{
	static const char *const garbage[] = {
		"", "S", "SB", "SBD", "SBDF", "SBDFS", "SSSSBBDDFF", "SBSBDSBDFSBDFSBDF",
		"SBDF\1\0\0\0\0\0\0\0\140\0\0\0", "NBDMAGICIHAVEOPTSBD",
	};
	size_t i, k, split;
	struct line *l;

	for (i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		size_t len = i == 8 ? 16 : strlen(garbage[i]);

		for (k = 0; k < 30; k++) {	/* with any number of other bytes between */
			l = new_line();
			memcpy(l->b, garbage[i], len);
			l->n = len;
			memset(l->b + l->n, 'S', k);
			l->n += k;
			say_hello(l, 9);
			say_ping(l, 1);
			for (split = 0; split <= l->n; split += 5) {
				start(&rx, &got, k & 1 ? 9 : 0);
				hear(&rx, &got, l->b, split);
				hear(&rx, &got, l->b + split, l->n - split);
				CHECK(got.frames == 2 && got.hdr[1].type == FRAME_PING);
				CHECK(count(&got, 'L') == 0 && rx.dropped == len + k);
			}
			free(l);
		}
	}
}

/* Candidates that look like a hello up to their last byte. */
static void test_hunt_near_misses(void)
{
	struct line *l;
	size_t cut, i;

	for (cut = 1; cut < FRAME_HEADER_LEN + FRAME_HELLO_LEN; cut++) {
		l = new_line();
		for (i = 0; i < 3; i++) {
			say_hello(l, 50 + i);
			l->n -= cut;
		}
		say_hello(l, 9);
		say_ping(l, 1);
		start(&rx, &got, 9);
		hear(&rx, &got, l->b, l->n);
		CHECK(got.frames == 2 && got.hdr[0].epoch == 9);
		start(&rx, &got, 9);
		for (i = 0; i < l->n; i++)
			hear(&rx, &got, l->b + i, 1);
		CHECK(got.frames == 2 && got.hdr[0].epoch == 9);
		free(l);
	}
	/* any epoch: a payload that does not parse gives way to what is inside it */
	for (cut = 24; cut < 119; cut++) {
		l = new_line();
		say_hello(l, 50);
		memset(l->b + 24, 0, 96);
		l->n = cut;
		say_hello(l, 9);
		say_ping(l, 1);
		start(&rx, &got, 0);
		hear(&rx, &got, l->b, l->n);
		CHECK(got.frames == 2 && got.hdr[0].epoch == 9);
		free(l);
	}
	/* short frames among the bytes that a refused hello took */
	l = new_line();
	say_hello(l, 50);
	memset(l->b + 24, 0, 96);
	l->n = 30;
	for (i = 0; i < 5; i++)
		l->n += frame_pack_empty(&l->tx, l->b + l->n, FRAME_RESYNC);
	say_hello(l, 9);
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(got.frames == 6 && got.hdr[5].type == FRAME_HELLO && got.hdr[4].type == FRAME_RESYNC);
	free(l);
}

/* After a gap, a hello inside somebody's data is not believed. */
static void test_forged_inside_data(void)
{
	struct line *l = new_line(), *forged = new_line();

	say_hello(forged, 0x666);
	say_hello(l, 6);
	say_ping(l, 1);
	l->tx.seq = 5;			/* frames are missing */
	frame_seal(&l->tx, l->b + l->n, FRAME_DATA, 1, forged->n);
	l->n += FRAME_HEADER_LEN;
	memcpy(l->b + l->n, forged->b, forged->n);
	l->n += forged->n;
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, l->n);
	CHECK(!strcmp(got.what, "FFLS") && rx.epoch == 6);
	free(l);
	free(forged);
}

static void test_random_garbage(void)
{
	static uint8_t noise[200000];
	struct line *l = new_line();
	unsigned int round, seed = 12345;
	size_t i, n, at;

	for (round = 0; round < 40; round++) {
		for (i = 0; i < sizeof(noise); i++) {
			seed = seed * 1103515245 + 12345;
			noise[i] = round & 1 ? (uint8_t)"SBDF\0\1\2\3"[seed >> 16 & 7] : seed >> 16;
		}
		start(&rx, &got, round & 2 ? 9 : 0);
		for (at = 0; at < sizeof(noise); at += n) {
			seed = seed * 1103515245 + 12345;
			n = seed >> 16 & 0x3ff;
			if (n > sizeof(noise) - at)
				n = sizeof(noise) - at;
			hear(&rx, &got, noise + at, n);
			n = n ? n : 1;
			CHECK(rx.have <= FRAME_HEADER_LEN + FRAME_HELLO_LEN);
		}
		l->n = 0;
		say_hello(l, 9);
		say_hello(l, 9);
		hear(&rx, &got, l->b, l->n);
		CHECK(got.frames && got.hdr[got.frames - 1].type == FRAME_HELLO);
	}
	free(l);
}

static void test_hello_fields(void)
{
	struct frame_hello h = hello_of(0x11223344, FRAME_ROLE_SHARE), out;
	struct frame_tx tx = { .epoch = 0x11223344 };
	uint8_t b[FRAME_SMALL_MAX], *p = b + FRAME_HEADER_LEN, save[FRAME_SMALL_MAX];
	size_t n = frame_pack_hello(&tx, b, &h);
	size_t len;

	CHECK(n == FRAME_HEADER_LEN + FRAME_HELLO_LEN && tx.seq == 1);
	CHECK(!memcmp(b, "SBDF\1\0\0\0\0\0\0\0\140\0\0\0\x44\x33\x22\x11\0\0\0\0", 24));
	CHECK(frame_parse_hello(p, FRAME_HELLO_LEN, &out) && !memcmp(&h, &out, sizeof(h)));
	for (len = 0; len < 300; len++)
		CHECK(frame_parse_hello(p, len, &out) == (len == FRAME_HELLO_LEN));
	memcpy(save, b, sizeof(b));
#define BAD(off, bytes) do { \
	memcpy(p + (off), bytes, sizeof(bytes) - 1); \
	CHECK(!frame_parse_hello(p, FRAME_HELLO_LEN, &out)); \
	memcpy(b, save, sizeof(b)); \
} while (0)
	BAD(0, "\0\0");				/* version 0 */
	BAD(2, "\0\0");				/* role */
	BAD(2, "\3\0");
	BAD(8, "\0\0\0\0");			/* epoch */
	BAD(12, "\xff\x0f\0\0");		/* frame_max: 4095 */
	BAD(12, "\1\0\1\0");			/* 65537 */
	BAD(16, "\x63\0\0\0");			/* ping interval: 99 */
	BAD(16, "\xff\xff\xff\xff");
	BAD(20, "\x87\x13\0\0");		/* timeout shorter than interval */
	BAD(20, "\xff\xff\xff\xff");
#undef BAD
	p[0] = 9;				/* a later version: the caller says so */
	CHECK(frame_parse_hello(p, FRAME_HELLO_LEN, &out) && out.version == 9);
}

static void test_offer_fields(void)
{
	struct frame_offer o = {
		.id = 3, .flags = FRAME_OFFER_READ_ONLY, .size = 0x1122334455667788,
		.kind = FRAME_KIND_CDROM, .name_len = 6, .name = "a.iso\xc3",
	}, out;
	struct frame_tx tx = { .epoch = 5, .seq = 1 };
	uint8_t b[FRAME_SMALL_MAX], *p = b + FRAME_HEADER_LEN;
	size_t n, len;

	memset(o.medium_id, 1, FRAME_UUID_LEN);
	memset(o.incarnation, 2, FRAME_UUID_LEN);
	n = frame_pack_offer(&tx, b, &o);
	CHECK(n == FRAME_HEADER_LEN + FRAME_OFFER_LEN + 6);
	CHECK(!frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));	/* cut UTF-8 */
	strcpy(o.name, "\xc3\xa4.iso");
	n = frame_pack_offer(&tx, b, &o);
	for (len = 0; len <= 400 - FRAME_HEADER_LEN; len++)
		CHECK(frame_parse_offer(p, len, &out) == (len == n - FRAME_HEADER_LEN));
	CHECK(frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));
	CHECK(!memcmp(&o, &out, sizeof(o)));
	p[48] = 200;			/* a kind of the future */
	CHECK(frame_parse_offer(p, n - FRAME_HEADER_LEN, &out) && out.kind == FRAME_KIND_UNKNOWN);
	p[15] |= 0x80;			/* more than the block layer can count */
	CHECK(!frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));
	p[15] &= 0x7f;
	p[0] = 0;
	CHECK(!frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));
	p[0] = 1;
	memset(p + 16, 0, 16);
	CHECK(!frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));
	memset(p + 16, 1, 16);
	memset(p + 32, 0, 16);
	CHECK(!frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));
	memset(p + 32, 1, 16);
	CHECK(frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));

	memset(o.name, 'n', FRAME_NAME_MAX);
	o.name_len = FRAME_NAME_MAX;
	n = frame_pack_offer(&tx, b, &o);
	CHECK(n <= sizeof(b) && frame_parse_offer(p, n - FRAME_HEADER_LEN, &out));
	CHECK(strlen(out.name) == FRAME_NAME_MAX);
}

static void test_numbers(void)
{
	struct frame_tx tx = { .epoch = 5, .seq = 0xffffffff };
	uint8_t b[FRAME_SMALL_MAX], *p = b + FRAME_HEADER_LEN;
	uint32_t v[2] = { 0x80000001, 7 }, out[2];
	uint64_t u;
	size_t n, len;

	n = frame_pack_u32s(&tx, b, FRAME_OPEN, 4, v, 2);
	CHECK(n == 32 && tx.seq == 0);		/* it wraps */
	for (len = 0; len < 40; len++)
		CHECK(frame_parse_u32s(p, len, out, 2) == (len == 8));
	CHECK(frame_parse_u32s(p, 8, out, 2) && out[0] == v[0] && out[1] == 7);
	n = frame_pack_u64(&tx, b, FRAME_PONG, 0x1122334455667788);
	for (len = 0; len < 40; len++)
		CHECK(frame_parse_u64(p, len, &u) == (len == 8));
	CHECK(n == 32 && frame_parse_u64(p, 8, &u) && u == 0x1122334455667788);
}

static void test_eject_and_answer(void)
{
	struct frame_tx tx = { .epoch = 5 };
	char text[FRAME_TEXT_MAX + 1], big[2000] = "";
	uint8_t b[FRAME_SMALL_MAX], *p = b + FRAME_HEADER_LEN;
	uint32_t what, offer, flags, by;
	size_t n, len;

	/* as every version has it: 8 bytes */
	n = frame_pack_eject(&tx, b, 3, FRAME_EJECT_FORCE, 9);
	for (len = 0; len < 40; len++)
		CHECK(frame_parse_eject(p, len, &offer, &flags, &by) == (len == 8));
	CHECK(n == 32 && frame_parse_eject(p, 8, &offer, &flags, &by));
	CHECK(offer == 3 && flags == FRAME_EJECT_FORCE && !by);
	n = frame_pack_eject(&tx, b, 3, FRAME_EJECT_REPLACE, 9);
	for (len = 0; len < 40; len++)
		CHECK(frame_parse_eject(p, len, &offer, &flags, &by) == (len == 12));
	CHECK(n == 36 && frame_parse_eject(p, 12, &offer, &flags, &by) && offer == 3 && by == 9);

	n = frame_pack_notice(&tx, b, FRAME_NOTICE_BUSY, 3, NULL);
	CHECK(n == 32 && frame_parse_notice(p, 8, &what, &offer, text));
	CHECK(what == FRAME_NOTICE_BUSY && offer == 3 && !*text);
	for (len = 0; len < 8; len++)
		CHECK(!frame_parse_notice(p, len, &what, &offer, text));
	while (strlen(big) < 1900)
		strcat(big, "mounted on /\xe2\x82\xac\n\xff");
	n = frame_pack_notice(&tx, b, FRAME_NOTICE_BUSY, 3, big);
	CHECK(n <= sizeof(b) && frame_parse_notice(p, n - 24, &what, &offer, text));
	CHECK(strlen(text) > FRAME_TEXT_MAX - 4 && !memcmp(text, "mounted on /", 12));
	memset(p + 8, 'a', FRAME_TEXT_MAX + 1);
	CHECK(frame_parse_notice(p, 8 + FRAME_TEXT_MAX, &what, &offer, text));
	CHECK(!frame_parse_notice(p, 8 + FRAME_TEXT_MAX + 1, &what, &offer, text));
	p[9] = '\n';
	CHECK(!frame_parse_notice(p, 20, &what, &offer, text));
}

static void test_texts(void)
{
	struct frame_tx tx = { .epoch = 5 };
	char text[FRAME_TEXT_MAX + 1], big[2000];
	uint8_t b[FRAME_SMALL_MAX], *p = b + FRAME_HEADER_LEN;
	uint32_t code;
	size_t n;

	n = frame_pack_code(&tx, b, FRAME_CLOSE, 4, FRAME_ERR_SERVER, "no space");
	CHECK(n == 24 + 4 + 8 && frame_parse_code(p, n - 24, &code, text));
	CHECK(code == FRAME_ERR_SERVER && !strcmp(text, "no space"));
	n = frame_pack_code(&tx, b, FRAME_BYE, 0, 1, NULL);
	CHECK(n == 28 && frame_parse_code(p, 4, &code, text) && !*text);
	CHECK(!frame_parse_code(p, 3, &code, text));

	/* what we send is always what the other end accepts */
	memset(big, 0, sizeof(big));
	while (strlen(big) < 1900)
		strcat(big, "\xe2\x82\xac\n\xff\xe2\x80\xa8x");
	n = frame_pack_code(&tx, b, FRAME_BYE, 0, 1, big);
	CHECK(n <= sizeof(b) && frame_parse_code(p, n - 24, &code, text));
	CHECK(strlen(text) > FRAME_TEXT_MAX - 4);

	memcpy(p, "\1\0\0\0a\nb", 7);
	CHECK(!frame_parse_code(p, 7, &code, text));
	memcpy(p, "\1\0\0\0a\0b", 7);
	CHECK(!frame_parse_code(p, 7, &code, text));
	memset(p + 4, 'x', 300);
	CHECK(frame_parse_code(p, 4 + FRAME_TEXT_MAX, &code, text));
	CHECK(!frame_parse_code(p, 5 + FRAME_TEXT_MAX, &code, text));
}

static bool name(const char *s)
{
	size_t len = strlen(s);
	char *exact = malloc(len ? len : 1);
	bool ok;

	memcpy(exact, s, len);
	ok = frame_name_ok(exact, len);
	free(exact);
	return ok;
}

static void test_names(void)
{
	static const char *const good[] = {
		"a", "debian-12.iso", "...", ".x", "Fotos 2024 (gr\xc3\xb6\xc3\x9f" "e).img",
		"\xe6\x97\xa5\xe6\x9c\xac", "\xf0\x9f\x92\xbf", "\xf4\x8f\xbf\xbf", "\\", "a b",
		"\xc2\xa0", "\xee\x80\x80",
	};
	static const char *const bad[] = {
		"", ".", "..", "a/b", "/", "a\nb", "\t", "\x1b[2J", "\x7f", "\xc2\x80", "\xc2\x9f",
		"\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xae" "exe", "\xe2\x80\x8f", "\xe2\x80\x8e",
		"\xd8\x9c", "\xe2\x81\xa6", "\xe2\x81\xa9", "\xff", "\x80", "\xc3", "\xe2\x82",
		"\xf0\x9f\x92", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xed\xa0\x80",
		"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xc3(", "\xe2(\xac",
	};
	char big[300];
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (!name(good[i])) {
			printf("# refused: good name %zu\n", i);
			checks_failed++;
		}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (name(bad[i])) {
			printf("# accepted: bad name %zu\n", i);
			checks_failed++;
		}
	CHECK(!frame_name_ok("a\0b", 3));
	memset(big, 'x', sizeof(big));
	CHECK(frame_name_ok(big, FRAME_NAME_MAX) && !frame_name_ok(big, FRAME_NAME_MAX + 1));
}

static void test_moves(void)
{
	struct frame_move m = {
		.verb = FRAME_MOVE_BEGIN, .offer = 7, .port = 9, .uri = "spice://host:5900",
		.subject = "CN=host", .ticket = "0123",
	}, back;
	struct frame_move_state s = {
		.result = FRAME_MOVE_OVER, .offer = 7, .owner_epoch = 3, .text = "why not",
	}, said;
	struct frame_tx tx = { .epoch = 5 };
	uint8_t b[FRAME_SMALL_MAX], *p = b + FRAME_HEADER_LEN;
	size_t len, i;

	memset(m.id, 0x1d, sizeof(m.id));
	memcpy(s.id, m.id, sizeof(s.id));
	len = frame_pack_move(&tx, b, &m) - FRAME_HEADER_LEN;
	CHECK(frame_parse_move(p, len, &back) && !memcmp(&m, &back, sizeof(m)));
	for (i = 0; i < len; i++)
		CHECK(!frame_parse_move(p, i, &back));
	CHECK(!frame_parse_move(p, len + 1, &back));
	p[32] = '\n';
	CHECK(!frame_parse_move(p, len, &back));
	for (m.verb = FRAME_MOVE_COMMIT; m.verb <= FRAME_MOVE_DONE; m.verb++) {
		len = frame_pack_move(&tx, b, &m) - FRAME_HEADER_LEN;
		CHECK(len == 24 && frame_parse_move(p, len, &back) && back.verb == m.verb &&
		      !back.uri[0] && !memcmp(back.id, m.id, sizeof(m.id)));
		CHECK(!frame_parse_move(p, len - 1, &back) && !frame_parse_move(p, len + 1, &back));
	}
	p[0] = 6;
	CHECK(!frame_parse_move(p, 24, &back));
	p[0] = 2;
	memset(p + 8, 0, FRAME_UUID_LEN);
	CHECK(!frame_parse_move(p, 24, &back));

	/* The longest of each fits. */
	m.verb = FRAME_MOVE_BEGIN;
	memset(m.uri, 'u', FRAME_MOVE_URI_MAX);
	memset(m.subject, 's', FRAME_MOVE_SUBJECT_MAX);
	memset(m.ticket, 't', FRAME_MOVE_TICKET_MAX);
	len = frame_pack_move(&tx, b, &m);
	CHECK(len <= FRAME_SMALL_MAX && frame_parse_move(p, len - FRAME_HEADER_LEN, &back) &&
	      !memcmp(&m, &back, sizeof(m)));

	len = frame_pack_move_state(&tx, b, &s) - FRAME_HEADER_LEN;
	CHECK(frame_parse_move_state(p, len, &said) && !memcmp(&s, &said, sizeof(s)));
	for (i = 0; i < 28; i++)
		CHECK(!frame_parse_move_state(p, i, &said));
	CHECK(frame_parse_move_state(p, 28, &said) && !said.text[0]);
	p[28] = 1;
	CHECK(!frame_parse_move_state(p, len, &said));
	p[0] = 5;
	CHECK(!frame_parse_move_state(p, 28, &said));
}

static void test_strings(void)
{
	unsigned int i;

	for (i = 0; i < 0x10000; i++)
		CHECK(frame_type_str(i) && *frame_type_str(i) && frame_code_str(i * 65537u));
	CHECK(!strcmp(frame_type_str(FRAME_BYE), "BYE"));
	CHECK(!strcmp(frame_code_str(FRAME_ERR_SHUTDOWN), "shut down"));
}

/* ---- a frame that goes by ---- */

/* A receiver after a hello, and a line with one more frame at @at. */
static struct line *before_data(size_t *at, uint32_t length)
{
	struct line *l = new_line();

	say_hello(l, 77);
	*at = l->n;
	say_data(l, 3, length, 1);
	start(&rx, &got, 0);
	hear(&rx, &got, l->b, *at);
	return l;
}

static void test_ahead(void)
{
	static const uint32_t lengths[] = { 0, 1, 20000, FRAME_PAYLOAD_MAX };
	struct frame_header h;
	struct line *l;
	size_t at;

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		l = before_data(&at, lengths[i]);
		CHECK(frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + lengths[i], &h));
		CHECK(h.type == FRAME_DATA && h.stream == 3 && h.length == lengths[i]);
		frame_rx_passed(&rx);
		/* the same once more is not the next one */
		CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + lengths[i], &h));
		at = l->n;
		say_ping(l, 5);
		say_data(l, 3, 9, 4);
		hear(&rx, &got, l->b + at, l->n - at);
		CHECK(!strcmp(got.what, "FFF") && got.hdr[1].type == FRAME_PING);
		free(l);
	}
}

/* Nothing changes where it is refused: the frame can then be fed. */
static void test_not_ahead(void)
{
	struct frame_header h;
	struct line *l;
	size_t at;

	l = before_data(&at, 100);
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 99, &h));
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 101, &h));
	CHECK(!frame_rx_ahead(&rx, l->b + at, 100, &h) && !frame_rx_ahead(&rx, l->b + at, 0, &h));
	for (size_t bit = 0; bit < 8 * FRAME_HEADER_LEN; bit++) {
		size_t byte = bit / 8;
		/* All other flags, and the stream, are for others to judge. */
		bool may = (byte >= 6 && byte < 12) &&
			   !(byte == 6 && 1 << bit % 8 == FRAME_FLAG_CHECKED);

		l->b[at + byte] ^= 1 << bit % 8;
		CHECK(frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 100, &h) == may);
		l->b[at + byte] ^= 1 << bit % 8;
	}
	/* a length that no frame has, and one that wraps around */
	memset(l->b + at + 12, 0xff, 4);
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + (size_t)0xffffffff, &h));
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN - 1, &h));
	l->n = at;
	l->tx.seq = 1;
	say_data(l, 3, 100, 1);
	/* bytes that came before it */
	hear(&rx, &got, l->b + at, 1);
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 100, &h));
	hear(&rx, &got, l->b + at + 1, l->n - at - 1);
	CHECK(!strcmp(got.what, "FF"));
	free(l);

	/* a session with checks, whether this frame says so or not */
	l = before_data(&at, 100);
	rx.checked = true;
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 100, &h));
	rx.checked = false;
	CHECK(frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 100, &h));
	free(l);

	/* out of step, from the start and after a gap */
	l = before_data(&at, 100);
	start(&rx, &got, 0);
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 100, &h));
	hear(&rx, &got, l->b, at);
	l->tx.seq++;
	at = l->n;
	say_ping(l, 1);
	hear(&rx, &got, l->b + at, l->n - at);
	CHECK(count(&got, 'L') == 1);
	at = l->n;
	l->tx.seq = rx.seq;
	say_data(l, 3, 100, 1);
	CHECK(!frame_rx_ahead(&rx, l->b + at, FRAME_HEADER_LEN + 100, &h));
	free(l);
}

static const struct {
	void (*run)(void);
	const char *what;
} tests[] = {
	{ test_whole, "a session in one piece" },
	{ test_split_everywhere, "a session split at every byte" },
	{ test_byte_by_byte, "a session byte by byte" },
	{ test_payload_in_place, "a whole frame is not copied" },
	{ test_header_bits, "every header bit inverted" },
	{ test_gaps, "lost bytes anywhere, and a new hello after them" },
	{ test_repeated_frame, "a repeated frame" },
	{ test_foreign_epochs, "frames of a foreign epoch are dropped" },
	{ test_checked, "checked frames of every awkward size" },
	{ test_what_is_not_checked, "what is not checked" },
	{ test_check_demanded, "a check is there where it is agreed on, and nowhere else" },
	{ test_ahead, "a frame of data may go by" },
	{ test_not_ahead, "what may not go by" },
	{ test_checked_bits, "every bit of a checked frame inverted" },
	{ test_checked_gaps, "lost bytes anywhere in checked frames" },
	{ test_rest_of_frame, "a rest of nothing ends a frame that lost its own" },
	{ test_new_hello_anytime, "a new hello is heard at any time" },
	{ test_expected_hello, "only the expected hello" },
	{ test_same_hello_again, "a hello repeated" },
	{ test_bad_hello_in_step, "a bad hello in step" },
	{ test_resync_frame, "RESYNC is outside of epochs" },
	{ test_hostile_lengths, "hostile lengths" },
	{ test_hunt, "a hello after garbage that contains the magic" },
	{ test_hunt_near_misses, "a hello after hellos that are cut" },
	{ test_forged_inside_data, "a hello forged inside data" },
	{ test_random_garbage, "random garbage" },
	{ test_hello_fields, "every field of HELLO" },
	{ test_offer_fields, "every field of OFFER" },
	{ test_numbers, "numbers" },
	{ test_texts, "texts" },
	{ test_eject_and_answer, "requests for a medium and their answers" },
	{ test_moves, "a medium's move to another host" },
	{ test_names, "names" },
	{ test_strings, "strings" },
};

int main(void)
{
	size_t i;

	printf("TAP version 13\n1..%zu\n", sizeof(tests) / sizeof(tests[0]));
	for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		checks_failed = 0;
		tests[i].run();
		failures += !!checks_failed;
		printf("%sok %d - frame: %s\n", checks_failed ? "not " : "", ++number, tests[i].what);
	}
	return !!failures;
}
