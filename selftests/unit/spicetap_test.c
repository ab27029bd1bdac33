// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tap between a Spice channel's connection and the Spice library: what is
 * taken out, what is passed on, what goes on to another socket unread, and what a
 * hostile peer can send. Socket pairs stand for both.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib selftests/unit/spicetap_test.c userhelper/lib/spicetap.c
 */
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
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

static const struct tap_ops ops = { on_data, on_written, on_watch, on_released, on_ended, NULL };

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

/* ---- large messages to another socket */

#define HEAD		24
#define PIECES_MAX	200000

enum call { NONE, BEGIN, MOVED, PART, HOLD, GIVEN };

/* What came, in its order: as bytes, or as so many to be read at the sink's far end. */
static struct piece {
	enum call call;
	size_t n;
} pieces[PIECES_MAX];
static size_t n_pieces, calls[GIVEN + 1], far_len, sent_len;
static uint8_t sent[ROOM], far_got[ROOM];
static int sink[2];
static bool takes, held;
static size_t sink_ends;	/* so many calls of sink() have a descriptor */
static size_t sink_calls, late;
static enum call free_in;

static void note(enum call call, const uint8_t *p, size_t n)
{
	late += !tap;
	calls[call]++;
	if (n && n_pieces < PIECES_MAX)
		pieces[n_pieces++] = (struct piece){ call, n };
	if (p && n <= ROOM - n_got) {
		memcpy(got + n_got, p, n);
		n_got += n;
	}
	if (free_in != call || !tap)
		return;
	tap_free(tap);
	tap = NULL;
}

static void direct_data(void *opaque, const uint8_t *p, size_t n)
{
	note(GIVEN, p, n);
}

static bool direct_begin(void *opaque, const uint8_t *p, size_t len)
{
	note(BEGIN, takes ? p : NULL, takes ? HEAD : 0);
	return takes;
}

static int direct_sink(void *opaque)
{
	late += !tap;
	return ++sink_calls <= sink_ends ? sink[0] : -1;
}

static void direct_moved(void *opaque, size_t n)
{
	note(MOVED, NULL, n);
}

static void direct_part(void *opaque, const uint8_t *p, size_t n)
{
	note(PART, p, n);
}

static bool direct_hold(void *opaque)
{
	bool was = held;

	note(HOLD, NULL, 0);
	return was;
}

static const struct tap_direct direct = {
	HEAD, direct_begin, direct_sink, direct_moved, direct_part, direct_hold
};

static const struct tap_ops direct_ops = {
	direct_data, on_written, on_watch, on_released, on_ended, &direct
};

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void tcp_pair(int sv[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int l = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t n = sizeof(a);

	sv[1] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (struct sockaddr *)&a, n) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (struct sockaddr *)&a, &n) < 0 ||
	    connect(sv[1], (struct sockaddr *)&a, n) < 0)
		abort();
	sv[0] = accept(l, NULL, NULL);
	close(l);
	if (sv[0] < 0)
		abort();
}

static int fds_before;

static void start_direct(bool tcp)
{
	int sv[2], large = 1 << 20;

	fds_before = count_fds();
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sink) < 0)
		abort();
	setsockopt(sink[0], SOL_SOCKET, SO_SNDBUF, &large, sizeof(large));
	if (tcp)
		tcp_pair(sv);
	else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv) < 0)
		abort();
	setsockopt(sv[1], SOL_SOCKET, SO_SNDBUF, &large, sizeof(large));
	peer = sv[1];
	n_written = n_released = n_ended = n_got = n_data = 0;
	n_pieces = far_len = sent_len = sink_calls = late = 0;
	memset(calls, 0, sizeof(calls));
	takes = true;
	held = false;
	sink_ends = SIZE_MAX;
	free_in = NONE;
	tap = tap_new(sv[0], &lib, MIGRATE, &direct_ops, NULL);
	if (!tap)
		abort();
	tap_start(tap);
}

/* Ends it, and tells also whether no descriptor is left of it. */
static void result_direct(int ok, const char *name)
{
	int fds;

	stop();
	close(sink[0]);
	if (sink[1] >= 0)
		close(sink[1]);
	fds = count_fds();
	if (fds != fds_before)
		printf("# %d descriptors, %d before\n", fds, fds_before);
	result(ok && fds == fds_before, name);
}

static void read_far(void)
{
	ssize_t r;

	if (sink[1] < 0)
		return;
	while ((r = recv(sink[1], far_got + far_len, ROOM - far_len, MSG_DONTWAIT)) > 0)
		far_len += r;
}

/* Whether what was told of, by whatever call, is what was sent so far. */
static bool all_came(void)
{
	size_t at = 0, copied = 0, moved = 0;

	read_far();
	for (size_t i = 0; i < n_pieces; i++) {
		const struct piece *p = &pieces[i];
		const uint8_t *from = p->call == MOVED ? far_got + moved : got + copied;

		if (at + p->n > sent_len || memcmp(from, sent + at, p->n)) {
			printf("# wrong bytes in a piece of %zu after %zu of %zu\n", p->n, at,
			       sent_len);
			return false;
		}
		at += p->n;
		*(p->call == MOVED ? &moved : &copied) += p->n;
	}
	if (at != sent_len || moved != far_len || n_pieces == PIECES_MAX)
		printf("# %zu of %zu bytes, %zu moved, %zu at the sink\n", at, sent_len, moved,
		       far_len);
	return at == sent_len && moved == far_len && n_pieces < PIECES_MAX && !late;
}

static size_t add_message(uint8_t *p, uint16_t type, uint32_t len)
{
	static unsigned int seed = 1;

	message(p, type, len, 0);
	for (size_t i = 0; i < len; i++)
		p[TAP_HEADER + i] = (seed = seed * 1103515245 + 12345) >> 16;
	if (type == DATA) {
		memcpy(sent + sent_len, p + TAP_HEADER, len);
		sent_len += len;
	}
	return TAP_HEADER + len;
}

static uint8_t wire[ROOM];

static void put(const uint8_t *p, size_t n)
{
	ssize_t r;

	for (size_t at = 0; at < n; at += r) {
		r = send(peer, p + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (r >= 0)
			continue;
		r = 0;
		if (!tap)
			return;
		turn();
		read_far();
	}
}

/* As an event loop, which waits where a connection needs time. */
static void settle(void)
{
	struct pollfd p = { .events = POLLIN };
	size_t before;

	do {
		before = n_pieces;
		turn();
		read_far();
		if (!tap)
			return;
		p.fd = tap_fd(tap, TAP_NET);
	} while (n_pieces != before || poll(&p, 1, 20) > 0);
}

static void direct_in_pieces(bool tcp, size_t piece, const char *name)
{
	uint8_t *p = wire, for_lib[100];
	size_t n, other, moved;

	start_direct(tcp);
	p += add_message(p, DATA, 10);
	p += add_message(p, DATA, 60000);
	p += add_message(p, DATA, 3);
	p += add_message(p, DATA, 16384);
	other = p - wire;
	p += add_message(p, 77, 33);
	p += add_message(p, DATA, 20000);
	p += add_message(p, DATA, 65536);
	p += add_message(p, DATA, 16383);
	p += add_message(p, DATA, 1);
	n = p - wire;
	for (size_t at = 0; at < n; at += piece) {
		put(wire + at, n - at < piece ? n - at : piece);
		turn();
	}
	settle();
	moved = calls[MOVED];
	n = read_all(lib, for_lib, sizeof(for_lib));
	result_direct(all_came() && moved && n == 39 && !memcmp(for_lib, wire + other, 39) && !n_ended, name);
}

static void test_sink_full(void)
{
	uint8_t *p = wire;
	int small = 8192;
	bool ok;

	start_direct(false);
	setsockopt(sink[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (int i = 0; i < 6; i++) {
		p = wire;
		p += add_message(p, DATA, 50000);
		p += add_message(p, DATA, 7);
		put(wire, 2000);
		turn();
		send(peer, wire + 2000, p - wire - 2000, 0);
		/* For two of them in a row nobody reads there. */
		turn();
		if (i % 2)
			read_far();
	}
	ok = calls[MOVED] && calls[PART] > 3;
	result(all_came() && ok, "what a full sink does not take is given, once");
	result_direct(true, "and no pipe is left");
}

static void test_no_sink(void)
{
	int fds;

	start_direct(false);
	sink_ends = 0;
	fds = count_fds();
	put(wire, add_message(wire, DATA, 10));
	turn();
	for (size_t at = 0, n = add_message(wire, DATA, 40000); at < n; at += 1000) {
		put(wire + at, n - at < 1000 ? n - at : 1000);
		turn();
	}
	result(all_came() && calls[BEGIN] == 1 && calls[PART] > 1 && !calls[MOVED] &&
	       fds == count_fds(), "without a sink all of it is given, and no pipe is made");
	result_direct(true, "nor left");
	start_direct(false);
	sink_ends = 10;
	for (size_t at = 0, n = add_message(wire, DATA, 40000); at < n; at += 1000) {
		put(wire + at, n - at < 1000 ? n - at : 1000);
		turn();
	}
	result_direct(all_came() && calls[MOVED] > 1 && calls[PART] > 1,
	       "a sink that ends in the middle of a message");
}

static void test_not_begun(void)
{
	size_t n;

	start_direct(false);
	takes = false;
	n = add_message(wire, DATA, 40000);
	for (size_t at = 0; at < n; at += 999) {
		put(wire + at, n - at < 999 ? n - at : 999);
		turn();
	}
	result_direct(all_came() && calls[GIVEN] == 1 && !calls[PART] && !calls[MOVED],
	       "a message that its owner wants whole comes whole");
	start_direct(false);
	takes = false;
	n = add_message(wire, DATA, 300000);
	for (size_t at = 0; at < n; at += 999) {
		put(wire + at, n - at < 999 ? n - at : 999);
		turn();
	}
	result_direct(all_came() && calls[BEGIN] == 1 && calls[GIVEN] < 1000,
	       "and is asked for once, at its start, however long it is");
	start_direct(false);
	put(wire, add_message(wire, DATA, 40000));
	turn();
	result_direct(all_came() && !calls[BEGIN] && calls[GIVEN] == 1,
	       "what is here as a whole is given");
}

static void test_sink_closed(void)
{
	size_t n;

	start_direct(false);
	n = add_message(wire, DATA, 60000);
	put(wire, 20000);
	turn();
	put(wire + 20000, 5000);
	turn();
	read_far();
	close(sink[1]);
	sink[1] = -1;
	put(wire + 25000, n - 25000);
	turn();
	result(all_came() && calls[MOVED] && calls[PART] && tap && !n_ended,
	       "a sink whose other end is closed in the middle does no harm");
	put(wire, add_message(wire, DATA, 5));
	turn();
	result_direct(all_came(), "and messages go on");
}

static void test_direct_ends(bool tcp, const char *name)
{
	start_direct(tcp);
	add_message(wire, DATA, 60000);
	put(wire, 20000);
	settle();
	put(wire + 20000, 20000);
	settle();
	sent_len = 40000 - TAP_HEADER;
	close(peer);
	peer = -1;
	for (int i = 0; i < 500 && tap; i++)
		settle();
	result_direct(all_came() && calls[MOVED] && n_ended == 1, name);
}

static void freed_in(enum call call, size_t len, const char *name)
{
	size_t n, before;

	start_direct(false);
	free_in = call;
	/* Of a message that is kept to the end, begin() frees and refuses. */
	takes = call != GIVEN && len <= 65536;
	sink_ends = call == PART ? 1 : SIZE_MAX;
	n = add_message(wire, DATA, len);
	for (size_t at = 0; at < n && tap; at += 9000) {
		put(wire + at, n - at < 9000 ? n - at : 9000);
		turn();
	}
	before = calls[call];
	result_direct(!tap && before == 1 && !late && !n_ended, name);
}

static void test_held(void)
{
	size_t n;

	start_direct(false);
	n = add_message(wire, DATA, 60000);
	held = true;
	put(wire, 9000);
	turn();
	result(!n_got && !calls[MOVED] && !(wanted[TAP_NET] & TAP_IN),
	       "while it is held nothing is read or waited for");
	tap_go_on(tap);
	result(wanted[TAP_NET] & TAP_IN, "it goes on when it is told");
	turn();
	result(!n_got && !(wanted[TAP_NET] & TAP_IN), "and can be held again");
	held = false;
	tap_go_on(tap);
	turn();
	put(wire + 9000, 9000);
	turn();
	held = true;
	put(wire + 18000, n - 18000);
	turn();
	result(far_len + n_got < 60000 && !(wanted[TAP_NET] & TAP_IN),
	       "also in the middle of a message");
	tap_send(tap, buf(100, 'd'), 100);
	tap_flush(tap);
	send(lib, "\1\0\1\0\0\0x", 7, 0);
	turn();
	result(n_written == 1 && read_all(peer, out, sizeof(out)) == 113,
	       "what is sent is not held");
	held = false;
	tap_go_on(tap);
	tap_go_on(tap);
	turn();
	result_direct(all_came() && calls[MOVED], "and the rest comes");
}

static void test_large_then_migrate(size_t piece, const char *name)
{
	uint8_t *p = wire, small[400];
	size_t n, at;

	start_direct(false);
	p += add_message(p, DATA, 50000);
	at = p - wire;
	p += add_message(p, MIGRATE, 4);
	p += message(p, DATA, 100, 'x');
	n = p - wire;
	for (size_t i = 0; i < n; i += piece) {
		put(wire + i, n - i < piece ? n - i : piece);
		turn();
	}
	result_direct(all_came() && calls[MOVED] && n_released == 1 &&
	       read_all(lib, small, sizeof(small)) == n - at && !memcmp(small, wire + at, n - at), name);
}

/* splice() stops at an urgent byte and waits for ever, with the socket readable. */
static void test_urgent(void)
{
	size_t n;

	start_direct(true);
	n = add_message(wire, DATA, 60000);
	put(wire, 20000);
	settle();
	send(peer, "!", 1, MSG_OOB);
	put(wire + 20000, n - 20000);
	for (int i = 0; i < 200 && n_got + far_len < 60000; i++) {
		struct pollfd p = { .fd = tap_fd(tap, TAP_NET), .events = POLLIN };

		poll(&p, 1, 10);
		turn();
		read_far();
	}
	result_direct(all_came(), "an urgent byte in the middle is passed over");
}

static void test_direct(void)
{
	signal(SIGPIPE, SIG_IGN);
	direct_in_pieces(false, 13, "large messages are moved, in order with all others: pieces of 13 bytes");
	direct_in_pieces(false, 29, "pieces of 29 bytes");
	direct_in_pieces(false, 30, "pieces of 30 bytes");
	direct_in_pieces(false, 777, "pieces of 777 bytes");
	direct_in_pieces(false, 16384, "pieces of 16 KiB");
	direct_in_pieces(false, ROOM, "in one piece");
	direct_in_pieces(true, 777, "pieces of 777 bytes by TCP");
	direct_in_pieces(true, ROOM, "in one piece by TCP");
	test_sink_full();
	test_no_sink();
	test_not_begun();
	test_sink_closed();
	test_direct_ends(false, "a connection that ends in the middle of a message ends once");
	test_direct_ends(true, "by TCP, too");
	freed_in(BEGIN, 60000, "it can be freed from within begin()");
	freed_in(BEGIN, 300000, "also where that refuses, and nothing is given then");
	freed_in(MOVED, 60000, "from within moved()");
	freed_in(PART, 60000, "from within part()");
	freed_in(GIVEN, 300000, "from within data() of a large message");
	freed_in(HOLD, 60000, "from within hold()");
	test_held();
	test_large_then_migrate(777, "a migration after a large message");
	test_large_then_migrate(40000, "a migration after a large message in large pieces");
	test_urgent();
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
	test_direct();
	printf("1..%d\n", number);
	return failed != 0;
}
