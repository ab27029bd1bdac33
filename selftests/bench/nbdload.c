// SPDX-License-Identifier: GPL-2.0-only
/*
 * Load for one NBD connection, through libnbd's asynchronous calls.
 *
 *   nbdload (--fd N | --unix PATH) --op read|write --size BYTES --depth N
 *           [--random] [--secs S] [--whole] --file FILE
 *
 * FILE is what the server serves: every answer to a read is compared with it at
 * both ends and in the middle (--whole: all of it), and what was written last is
 * found in it afterwards.
 * One line of JSON: requests, bytes, seconds, latencies. "go" on standard output
 * and a line on standard input come between the connecting and the load, and
 * after the load, so that the starter can read the counters of the others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <libnbd.h>

#define DEPTH_MAX	256
#define SIZE_MAX_	(32u << 20)
#define SAMPLES		(1u << 20)
#define CHECK		64	/* bytes of an answer that are compared, three times */

struct slot {
	uint8_t *buf;
	uint64_t offset;
	long long began;
	bool busy;
};

static struct nbd_handle *nbd;
static struct slot slots[DEPTH_MAX];
static const uint8_t *content;
static uint64_t file_size, next_offset, seed = 88172645463325252ULL;
static size_t size = 65536;
static unsigned int depth = 1, in_flight;
static bool writing, at_random, whole;
static double secs = 1;
static uint64_t requests;
static uint32_t *latencies;

static void fail(const char *what)
{
	const char *why = nbd_get_error();

	fprintf(stderr, "nbdload: %s: %s\n", what, why ? why : strerror(errno));
	exit(1);
}

static long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static uint64_t random_number(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* ---- what is right */

static bool same(const struct slot *s, const uint8_t *with, size_t at)
{
	return !memcmp(s->buf + at, with + at, CHECK);
}

static void check(const struct slot *s)
{
	const uint8_t *with = content + s->offset;

	if (whole ? !memcmp(s->buf, with, size) : same(s, with, 0) &&
	    same(s, with, size / 2 - CHECK) && same(s, with, size - CHECK))
		return;
	fprintf(stderr, "nbdload: wrong data at %llu\n", (unsigned long long)s->offset);
	exit(1);
}

/* Each block says where it is and when it was written. */
static void mark(struct slot *s)
{
	uint64_t words[2] = { s->offset, requests };

	for (size_t at = 0; at < size; at += 4096)
		memcpy(s->buf + at, words, sizeof(words));
}

/* ---- the load */

static int on_done(void *data, int *error)
{
	struct slot *s = data;

	if (*error) {
		errno = *error;
		fail("a request failed");
	}
	if (!writing)
		check(s);
	latencies[requests % SAMPLES] = (now_ns() - s->began) / 1000;
	requests++;
	s->busy = false;
	in_flight--;
	return 1;	/* libnbd forgets it */
}

static void submit(struct slot *s)
{
	nbd_completion_callback done = { .callback = on_done, .user_data = s };
	int64_t r;

	s->offset = at_random ? random_number() % (file_size / size) * size : next_offset;
	next_offset += size;
	if (next_offset + size > file_size)
		next_offset = 0;
	s->began = now_ns();
	s->busy = true;
	in_flight++;
	if (writing) {
		mark(s);
		r = nbd_aio_pwrite(nbd, s->buf, size, s->offset, done, 0);
	} else {
		r = nbd_aio_pread(nbd, s->buf, size, s->offset, done, 0);
	}
	if (r < 0)
		fail("cannot send a request");
}

static double run(void)
{
	long long began = now_ns(), end = began + secs * 1e9;
	bool over;

	do {
		over = now_ns() >= end;
		for (unsigned int i = 0; i < depth && !over; i++)
			if (!slots[i].busy)
				submit(&slots[i]);
		if (in_flight && nbd_poll(nbd, 10000) <= 0)
			fail("no answer in 10 s");
	} while (!over || in_flight);
	return (now_ns() - began) / 1e9;
}

/* The last block that each slot wrote is in the file, and comes back. */
static void check_written(void)
{
	uint8_t *back = malloc(size);

	for (unsigned int i = 0; i < depth && requests; i++) {
		struct slot *s = &slots[i];

		if (memcmp(content + s->offset, s->buf, size) ||
		    nbd_pread(nbd, back, size, s->offset, 0) < 0 ||
		    memcmp(back, s->buf, size)) {
			fprintf(stderr, "nbdload: what was written is not there\n");
			exit(1);
		}
	}
	free(back);
}

/* ---- start */

static void map(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail(path);
	file_size = st.st_size;
	content = mmap(NULL, file_size, PROT_READ, MAP_SHARED, fd, 0);
	if (content == MAP_FAILED)
		fail("mmap");
	close(fd);
}

static void say_and_wait(const char *word)
{
	char line[16];

	printf("%s\n", word);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		exit(1);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void report(double took)
{
	size_t n = requests < SAMPLES ? requests : SAMPLES;

	qsort(latencies, n, sizeof(*latencies), compare);
	printf("{\"requests\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"p50_us\": %u, \"p99_us\": %u}\n",
	       (unsigned long long)requests, (unsigned long long)(requests * size), took,
	       n ? latencies[n / 2] : 0, n ? latencies[n - 1 - n / 100] : 0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "fd", required_argument, NULL, 'f' },
		{ "unix", required_argument, NULL, 'u' },
		{ "op", required_argument, NULL, 'o' },
		{ "size", required_argument, NULL, 's' },
		{ "depth", required_argument, NULL, 'd' },
		{ "random", no_argument, NULL, 'r' },
		{ "whole", no_argument, NULL, 'w' },
		{ "secs", required_argument, NULL, 't' },
		{ "file", required_argument, NULL, 'F' },
		{ 0 },
	};
	const char *path = NULL, *file = NULL;
	int fd = -1, o;
	double took;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 'f':
			fd = atoi(optarg);
			break;
		case 'u':
			path = optarg;
			break;
		case 'o':
			writing = !strcmp(optarg, "write");
			break;
		case 's':
			size = strtoul(optarg, NULL, 0);
			break;
		case 'd':
			depth = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			at_random = true;
			break;
		case 'w':
			whole = true;
			break;
		case 't':
			secs = atof(optarg);
			break;
		case 'F':
			file = optarg;
			break;
		default:
			return 2;
		}
	}
	if ((fd < 0) == !path || !file || !depth || depth > DEPTH_MAX || size < 512 ||
	    size > SIZE_MAX_) {
		fprintf(stderr, "nbdload: bad arguments; see its source\n");
		return 2;
	}
	map(file);
	if (file_size < (uint64_t)size * depth) {
		fprintf(stderr, "nbdload: the file is too small\n");
		return 2;
	}
	latencies = calloc(SAMPLES, sizeof(*latencies));
	nbd = nbd_create();
	if (!nbd || !latencies)
		fail("memory");
	if ((path ? nbd_connect_unix(nbd, path) : nbd_connect_socket(nbd, fd)) < 0)
		fail("cannot connect");
	if (nbd_get_size(nbd) != (int64_t)file_size)
		fail("the server serves something else");
	for (unsigned int i = 0; i < depth; i++) {
		slots[i].buf = malloc(size);
		memcpy(slots[i].buf, content + i * size, size);
	}
	say_and_wait("go");
	took = run();
	say_and_wait("done");
	if (writing)
		check_written();
	report(took);
	nbd_shutdown(nbd, 0);
	nbd_close(nbd);
	return 0;
}
