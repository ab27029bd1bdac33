// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tap between a Spice channel's connection and the Spice library: what is
 * taken out, what is passed on, and what a hostile peer can send. Socket pairs
 * stand for both.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib selftests/unit/spicetap_test.c userhelper/lib/spicetap.c
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "spicetap.h"

#define DATA		101
#define COMPRESSED	102
#define MIGRATE		1
#define ROOM		(1u << 20)

static int number, failed;
static struct tap *tap;
static int peer, lib;		/* the far ends */
static unsigned int wanted[2], n_written, n_released, n_ended;
static uint8_t got[ROOM], out[ROOM];
static size_t n_got, n_data;

static void result(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

static void on_data(void *opaque, const uint8_t *p, size_t n)
{
	memcpy(got + n_got, p, n < ROOM - n_got ? n : ROOM - n_got);
	n_got += n < ROOM - n_got ? n : ROOM - n_got;
	n_data++;
}

static void on_written(void *opaque, struct tap_buf *b)
{
	n_written++;
	free(b);
}

static void on_watch(void *opaque, enum tap_side side, unsigned int events)
{
	wanted[side] = events;
}

static void on_released(void *opaque)
{
	n_released++;
}

static void on_ended(void *opaque, const char *why)
{
	n_ended++;
	wanted[TAP_NET] = wanted[TAP_LIB] = 0;
	tap_free(tap);
	tap = NULL;
}

static const struct tap_ops ops = { on_data, on_written, on_watch, on_released, on_ended };

static void start(void)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv) < 0)
		abort();
	peer = sv[1];
	n_written = n_released = n_ended = n_got = n_data = 0;
	tap = tap_new(sv[0], &lib, MIGRATE, &ops, NULL);
	if (!tap)
		abort();
	tap_start(tap);
}

static void stop(void)
{
	tap_free(tap);
	tap = NULL;
	close(peer);
	close(lib);
}

/* What an event loop would do, until nothing happens any more. */
static void turn(void)
{
	for (int i = 0; i < 4 && tap; i++)
		for (int side = 0; side < 2 && tap; side++)
			tap_event(tap, side, wanted[side] & (TAP_IN | TAP_OUT));
}

static size_t message(uint8_t *p, uint16_t type, uint32_t len, uint8_t fill)
{
	const uint8_t h[TAP_HEADER] = { type, type >> 8, len, len >> 8, len >> 16, len >> 24 };

	memcpy(p, h, sizeof(h));
	memset(p + sizeof(h), fill, len);
	return sizeof(h) + len;
}

static ssize_t read_all(int fd, uint8_t *p, size_t n)
{
	ssize_t r = recv(fd, p, n, MSG_DONTWAIT);

	return r < 0 ? 0 : r;
}

static struct tap_buf *buf(size_t len, uint8_t fill)
{
	struct tap_buf *b = malloc(sizeof(*b) + len);

	memset(b->data, fill, len);
	return b;
}

/* ---- what is right */

static void test_taken_out(void)
{
	static uint8_t m[200000];
	size_t n = message(m, DATA, 60000, 'a'), other = n, r;

	n += message(m + n, 77, 30, 'x');
	n += message(m + n, DATA, 5, 'b');
	start();
	for (size_t at = 0; at < n; at += r) {
		r = send(peer, m + at, n - at < 777 ? n - at : 777, 0);
		turn();
	}
	result(n_got == 60005 && got[0] == 'a' && got[59999] == 'a' && got[60004] == 'b' &&
	       n_data == 2, "data comes whole, in whatever pieces it arrives");
	r = read_all(lib, out, sizeof(out));
	result(r == 36 && !memcmp(out, m + other, 36), "another message goes to the library");
	stop();
}

static void test_put_in(void)
{
	uint8_t m[64], small[200], want[300];
	size_t n = message(m, 201, 1, 'e'), w, r;

	start();
	send(lib, m, 4, 0);
	turn();
	tap_send(tap, buf(100, 'd'), 100);
	tap_flush(tap);
	result(n_written == 1 && tap_idle(tap), "what is sent is handed over at once");
	send(lib, m + 4, n - 4, 0);
	turn();
	tap_send(tap, buf(10, 'D'), 10);
	tap_flush(tap);
	w = message(want, DATA, 100, 'd');
	w += message(want + w, 201, 1, 'e');
	w += message(want + w, DATA, 10, 'D');
	r = read_all(peer, small, sizeof(small));
	result(r == w && !memcmp(small, want, w),
	       "a message of the library goes between two of data, not into one");
	stop();
}

static void test_blocked(void)
{
	size_t sum = 0, r;

	start();
	for (int i = 0; i < 40; i++)
		tap_send(tap, buf(60000, i), 60000);
	tap_flush(tap);
	result(n_written < 40 && wanted[TAP_NET] & TAP_OUT && !(wanted[TAP_LIB] & TAP_IN),
	       "a connection that is full is waited for, and the library with it");
	for (int i = 0; i < 200 && sum < 40 * 60006; i++) {
		while ((r = read_all(peer, out, sizeof(out))))
			sum += r;
		turn();
	}
	result(sum == 40 * 60006 && n_written == 40 && wanted[TAP_LIB] & TAP_IN,
	       "and then all of it is sent");
	for (int i = 0; i < 40; i++)
		tap_send(tap, buf(60000, i), 60000);
	tap_flush(tap);
	stop();
	result(n_written == 80, "what is not sent comes back at the end");
}

static void test_released(void)
{
	uint8_t m[300], small[400];
	size_t n = message(m, DATA, 10, 'a'), taken = n;

	n += message(m + n, MIGRATE, 4, 0);
	n += message(m + n, DATA, 20, 'b');
	start();
	send(peer, m, n, 0);
	turn();
	result(n_released == 1 && n_got == 10 && read_all(lib, small, sizeof(small)) == n - taken &&
	       !memcmp(small, m + taken, n - taken),
	       "when the library is to migrate, it gets that message and all that follows");
	stop();
}

static void test_library_slow(void)
{
	static uint8_t m[70000];
	size_t sent = 0, taken = 0, n = message(m, 55, 4000, 'o'), r;
	ssize_t w;

	start();
	for (int i = 0; i < 4000; i++) {
		w = send(peer, m + sent % n, n - sent % n, MSG_DONTWAIT);
		if (w > 0)
			sent += w;
		turn();
		if (w <= 0 && !(wanted[TAP_NET] & TAP_IN))
			break;
	}
	result(tap && !(wanted[TAP_NET] & TAP_IN), "a library that does not read stops its peer");
	for (int i = 0; i < 4000 && taken < sent; i++) {
		r = read_all(lib, out, sizeof(out));
		taken += r;
		turn();
	}
	result(taken == sent && wanted[TAP_NET] & TAP_IN, "and nothing of it is lost");
	stop();
}

/* ---- what is wrong */

static void refused(uint16_t type, uint32_t len, const char *name)
{
	uint8_t h[TAP_HEADER] = { type, type >> 8, len, len >> 8, len >> 16, len >> 24 };

	start();
	send(peer, h, sizeof(h), 0);
	turn();
	result(n_ended == 1 && !n_got, name);
	stop();
}

static void test_huge(void)
{
	uint8_t h[TAP_HEADER] = { DATA, 0, 0xf0, 0xff, 0xff, 0xff };
	static uint8_t junk[200000];
	size_t sum = 0;

	start();
	send(peer, h, sizeof(h), 0);
	for (int i = 0; i < 5; i++) {
		sum += send(peer, junk, 60000, MSG_DONTWAIT);
		turn();
	}
	result(!n_ended && n_got == sum, "data of 4 GiB is given as it comes, and kept nowhere");
	stop();
}

static void test_ends(void)
{
	start();
	close(peer);
	turn();
	result(n_ended == 1, "the end of the connection is told");
	peer = -1;
	stop();
	start();
	close(lib);
	turn();
	result(n_ended == 1, "and that of the library");
	lib = -1;
	stop();
}

static void test_library_huge(void)
{
	uint8_t h[TAP_HEADER] = { 9, 0, 0xff, 0xff, 0xff, 0xff };

	start();
	send(lib, h, sizeof(h), 0);
	turn();
	result(n_ended == 1, "a message of the library that is too large ends it");
	stop();
}

/* Random messages, half of them damaged, in random pieces from both sides. */
static void test_random(void)
{
	static uint8_t m[70000];
	unsigned int ended = 0;

	srandom(4);
	for (int run = 0; run < 2000; run++) {
		start();
		for (int i = 0; i < 12 && tap; i++) {
			size_t n = message(m, random() % 4 ? DATA : random() % 120, random() % 3000, i);
			int fd = random() % 4 ? peer : lib;

			if (random() % 8 == 0)
				m[random() % n] = random();
			for (size_t at = 0, r; at < n && tap; at += r) {
				r = 1 + random() % n;
				r = send(fd, m + at, r < n - at ? r : n - at,
					 MSG_DONTWAIT | MSG_NOSIGNAL);
				if ((ssize_t)r < 0)
					break;
				turn();
			}
			if (tap && random() % 3 == 0) {
				tap_send(tap, buf(500, i), 500);
				tap_flush(tap);
			}
			read_all(peer, out, sizeof(out));
			read_all(lib, out, sizeof(out));
		}
		ended += n_ended;
		stop();
	}
	result(ended > 0 && ended < 2000, "random bytes from both sides do no harm");
}

int main(void)
{
	printf("TAP version 13\n");
	test_taken_out();
	test_put_in();
	test_blocked();
	test_released();
	test_library_slow();
	refused(DATA, 0, "an empty data message is refused");
	refused(COMPRESSED, 100, "compressed data is refused");
	refused(77, 0xfffffff0, "a message of 4 GiB for the library is refused");
	test_huge();
	test_ends();
	test_library_huge();
	test_random();
	printf("1..%d\n", number);
	return failed != 0;
}
