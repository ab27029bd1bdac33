// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copy before write, and a snapshot's view: what a write waits for and for how
 * long, what ends a snapshot and that it ends nothing else, and, with writers and
 * readers at the same time, that no byte but an old one is ever read. The medium
 * is memory, its writes are slow and stop half-way now and then.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -Dpwrite=test_pwrite -Dsync_file_range=test_sync_file_range -pthread -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib -Iuserhelper/daemon -Iuserhelper/snapshot selftests/unit/cbw_test.c userhelper/daemon/cbw.c userhelper/snapshot/view.c userhelper/lib/snapmap.c userhelper/lib/sock.c userhelper/lib/log.c userhelper/lib/text.c $(pkg-config --cflags --libs glib-2.0 libsystemd)
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cbw.h"
#include "view.h"

#define CLUSTER		SNAPMAP_CLUSTER_MIN
#define WAIT_S		60

static int number, failed;

static void result(bool ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

static int cbw_fd = -1;

/* What everybody here waits on; also guards what follows. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long woken[32];
static int failures;

static void bump(void)
{
	pthread_cond_broadcast(&changed);
}

/* Waits, with its end, until @test; called and left with the lock held. */
static bool wait_for(bool (*test)(void *arg), void *arg)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += WAIT_S;
	while (!test(arg))
		if (pthread_cond_timedwait(&changed, &lock, &end))
			return test(arg);
	return true;
}

/* The scratch file's storage, which can be slow, full, or hang. */
static bool hangs;
static int store_error, stores, in_store;

ssize_t test_pwrite(int fd, const void *buf, size_t n, off_t offset)
{
	static int turn;
	int error;

	pthread_mutex_lock(&lock);
	in_store++;
	bump();
	while (hangs)
		pthread_cond_wait(&changed, &lock);
	in_store--;
	stores++;
	error = store_error;
	bump();
	pthread_mutex_unlock(&lock);
	if (error) {
		errno = error;
		return -1;
	}
	/* Interrupted, and short, in turn. */
	if (++turn % 5 == 0) {
		errno = EINTR;
		return -1;
	}
	if (turn % 5 == 1 && n > 1)
		n /= 2;
	return syscall(SYS_pwrite64, fd, buf, n, offset);
}

/* What it could not write back is told to each opening once: the lowest bit is of cbw's. */
static int lost_error;
static unsigned int lost_untold;

int test_sync_file_range(int fd, off64_t offset, off64_t n, unsigned int flags)
{
	unsigned int bit;

	pthread_mutex_lock(&lock);
	bit = 1u << (cbw_fd == fd ? 0 : fd % 31 + 1);
	errno = lost_error;
	n = lost_error && lost_untold & bit ? -1 : 0;
	lost_untold &= ~bit;
	pthread_mutex_unlock(&lock);
	return n;
}

/* A snapshot, and what its readers get. */
static struct cbw *c;
static int map_fd = -1, scratch = -1, life[2] = { -1, -1 };
static uint64_t size;

static void on_wake(unsigned int queue, void *arg)
{
	pthread_mutex_lock(&lock);
	woken[queue]++;
	bump();
	pthread_mutex_unlock(&lock);
}

static void on_failed(void *arg)
{
	pthread_mutex_lock(&lock);
	failures++;
	bump();
	pthread_mutex_unlock(&lock);
}

static void drop(void)
{
	if (c) {
		cbw_end(c, ESHUTDOWN, "over");
		cbw_attach(c, NULL, NULL);
	}
	cbw_unref(c);
	c = NULL;
	for (int i = 0; i < 2; i++)
		if (life[i] >= 0)
			close(life[i]);
	if (map_fd >= 0)
		close(map_fd);
	if (scratch >= 0)
		close(scratch);
	map_fd = scratch = life[0] = life[1] = -1;
}

static void fresh(uint64_t bytes)
{
	struct cbw_params p = { .limit_ms = 5000, .failed = on_failed };

	drop();
	size = bytes;
	failures = store_error = stores = lost_error = 0;
	memset(woken, 0, sizeof(woken));
	map_fd = snapmap_create(&p.map, bytes, CLUSTER);
	scratch = memfd_create("scratch", MFD_CLOEXEC);
	p.scratch = cbw_fd = fcntl(scratch, F_DUPFD_CLOEXEC, 0);
	if (map_fd < 0 || scratch < 0 || ftruncate(scratch, bytes) < 0 || pipe2(life, O_CLOEXEC) < 0)
		exit(1);
	c = cbw_new(&p);
	if (!c)
		exit(1);
	cbw_attach(c, on_wake, NULL);
}

static struct view *view(void)
{
	int fd[VIEW_FDS] = {
		fcntl(scratch, F_DUPFD_CLOEXEC, 0), fcntl(map_fd, F_DUPFD_CLOEXEC, 0),
		fcntl(life[0], F_DUPFD_CLOEXEC, 0),
	};

	return view_open(fd, size);
}

static bool was_woken(void *arg)
{
	unsigned long *w = arg;

	return woken[w[0]] != w[1];
}

static unsigned long wakes(unsigned int queue)
{
	unsigned long n;

	pthread_mutex_lock(&lock);
	n = woken[queue];
	pthread_mutex_unlock(&lock);
	return n;
}

/* As an I/O thread does it: read what it is given, until it may write. */
static unsigned int gain(unsigned int queue, uint64_t offset, uint64_t len,
			 void (*fill)(struct cbw_copy *copy))
{
	unsigned int copies = 0;

	for (;;) {
		unsigned long w[2] = { queue, wakes(queue) };
		struct cbw_copy *copy;
		bool woke;

		if (cbw_begin(c, queue, offset, len, &copy))
			return copies;
		if (copy) {
			fill(copy);
			copies++;
			cbw_read_done(copy, 0);
			continue;
		}
		pthread_mutex_lock(&lock);
		woke = wait_for(was_woken, w);
		pthread_mutex_unlock(&lock);
		if (!woke) {
			printf("# nobody woke queue %u\n", queue);
			exit(1);
		}
	}
}

static void fill_by_cluster(struct cbw_copy *copy)
{
	memset(copy->buf, 'a' + copy->cluster % 20, copy->len);
}

static void fill_zero(struct cbw_copy *copy)
{
	memset(copy->buf, 0, copy->len);
}

static bool scratch_has(uint64_t offset, uint64_t len, int byte)
{
	uint8_t *p = malloc(len);
	bool good = pread(scratch, p, len, offset) == (ssize_t)len;

	for (uint64_t i = 0; i < len && good; i++)
		good = p[i] == byte;
	free(p);
	return good;
}

/* ---- one after the other */

static void test_sizes(void)
{
	struct snapmap m, other;
	int fd = snapmap_create(&m, 5 * CLUSTER + 512, CLUSTER);

	result(fd >= 0 && m.nr == 6 && snapmap_len(&m, 4) == CLUSTER && snapmap_len(&m, 5) == 512,
	       "the last cluster is as long as the medium leaves it");
	snapmap_set(&m, 5);
	result(snapmap_open(&other, fd) == 0 && other.nr == 6 && snapmap_copied(&other, 5) &&
	       !snapmap_copied(&other, 4), "another process sees the same");
	result(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED &&
	       write(fd, "x", 1) < 0, "and cannot change it");
	snapmap_end(&m, ENOSPC, "no room");
	snapmap_end(&m, EIO, "something else");
	char why[SNAPMAP_WHY_MAX];
	result(snapmap_over(&other, why) == ENOSPC && !strcmp(why, "no room"),
	       "the first reason of its end counts");
	snapmap_close(&other);
	snapmap_close(&m);
	close(fd);
	fd = memfd_create("x", MFD_CLOEXEC);
	result(ftruncate(fd, 8192) == 0 && snapmap_open(&other, fd) < 0,
	       "what could shrink, or has no header, is no map");
	close(fd);
	result(snapmap_cluster(1) == CLUSTER && snapmap_cluster(1ull << 45) == 128 << 10 &&
	       !snapmap_cluster(INT64_MAX), "larger media have larger clusters, to an end");
}

static void test_one(void)
{
	struct cbw_copy *copy, *second;

	fresh(4 * CLUSTER + 512);
	result(!cbw_begin(c, 0, CLUSTER - 1, 2, &copy) && copy && copy->cluster == 0 &&
	       copy->len == CLUSTER && !cbw_begin(c, 1, 0, 1, &second) && !second,
	       "a cluster is given to one");
	result(!cbw_begin(c, 0, CLUSTER, 1, NULL) && !cbw_begin(c, 0, CLUSTER, 1, &second) && second,
	       "and to none that cannot read");
	fill_by_cluster(copy);
	fill_by_cluster(second);
	cbw_read_done(copy, 0);
	cbw_read_done(second, 0);
	result(gain(1, 0, 1, fill_by_cluster) == 0 && gain(0, CLUSTER - 1, 2, fill_by_cluster) == 0,
	       "who waited for another's copy is woken");
	result(scratch_has(0, CLUSTER, 'a') && scratch_has(CLUSTER, CLUSTER, 'b'),
	       "the scratch file has them, at their places");
	result(gain(0, 4 * CLUSTER, 512, fill_by_cluster) == 1 &&
	       scratch_has(4 * CLUSTER, 512, 'e') && lseek(scratch, 0, SEEK_END) == (off_t)size,
	       "the last one is short");
	stores = 0;
	result(gain(0, 2 * CLUSTER, CLUSTER, fill_zero) == 1 && !stores &&
	       cbw_copied(c) == 3 * CLUSTER + 512, "zeroes stay a hole");
	result(cbw_begin(c, 0, 0, 3 * CLUSTER, &copy) && !copy, "nothing is copied twice");
}

static void test_lost(void)
{
	struct cbw_copy *copy, *second;
	unsigned long w[2] = { 1 };

	fresh(4 * CLUSTER);
	cbw_begin(c, 0, 0, 1, &copy);
	cbw_begin(c, 1, 0, 1, &second);
	w[1] = wakes(1);
	cbw_read_lost(copy);
	result(was_woken(w) && gain(1, 0, 1, fill_by_cluster) == 1 &&
	       scratch_has(0, CLUSTER, 'a'), "what one could not read another does");
}

static void test_many(void)
{
	static struct cbw_copy *copy[200];
	unsigned int n = 0;

	fresh(200 * CLUSTER);
	while (n < 200 && !cbw_begin(c, 0, 0, size, &copy[n]) && copy[n])
		n++;
	result(n && n * CLUSTER <= 4 << 20, "memory for copies has a bound");
	for (unsigned int i = 0; i < n; i++) {
		fill_by_cluster(copy[i]);
		cbw_read_done(copy[i], 0);
	}
	result(gain(0, 0, size, fill_by_cluster) == 200 - n && cbw_copied(c) == size,
	       "a request that is larger goes on as it is given back");
}

/* ---- the end */

static bool has_failed(void *arg)
{
	return failures;
}

static bool is_storing(void *arg)
{
	return in_store;
}

static bool fails_once(void)
{
	bool ok;

	pthread_mutex_lock(&lock);
	ok = wait_for(has_failed, NULL) && failures == 1;
	pthread_mutex_unlock(&lock);
	return ok;
}

static bool over_with(int error, const char *words)
{
	char why[SNAPMAP_WHY_MAX] = "";

	return cbw_over(c, why) == error && strstr(why, words);
}

static void test_full(void)
{
	struct cbw_copy *copy, *second;
	struct view *v;
	char byte;

	fresh(4 * CLUSTER);
	v = view();
	store_error = ENOSPC;
	cbw_begin(c, 0, 0, 1, &copy);
	cbw_begin(c, 0, CLUSTER, 1, &second);
	fill_by_cluster(copy);
	cbw_read_done(copy, 0);
	result(fails_once() && over_with(ENOSPC, "scratch file: No space"),
	       "a full scratch file ends the snapshot");
	result(wakes(0) && cbw_begin(c, 0, 0, size, &copy) && !copy, "and no write waits for it");
	cbw_read_done(second, EIO);
	result(view_pread(v, &byte, 0, 0, NULL, NULL) == ENOSPC, "its readers are told");
	pthread_mutex_lock(&lock);
	result(failures == 1, "once");
	pthread_mutex_unlock(&lock);
	view_close(v);
}

static void test_unreadable(void)
{
	struct cbw_copy *copy;

	fresh(4 * CLUSTER);
	cbw_begin(c, 3, CLUSTER, 1, &copy);
	cbw_read_done(copy, EIO);
	result(fails_once() && over_with(EIO, "the medium cannot be read at 65536") && wakes(3) &&
	       cbw_begin(c, 3, CLUSTER, 1, &copy), "so does a medium that cannot be read there");
}

/* What was written may be gone before anybody here hears of it. */
static void test_lost_later(void)
{
	struct cbw_copy *copy;
	struct view *v, *w;
	char byte, why[SNAPMAP_WHY_MAX];

	fresh(4 * CLUSTER);
	v = view();
	w = view();
	result(gain(0, 0, 1, fill_by_cluster) == 1 && view_pread(v, &byte, 1, 0, NULL, NULL) == 0 &&
	       view_pread(w, &byte, 1, 0, NULL, NULL) == 0, "what was copied can be read");
	pthread_mutex_lock(&lock);
	lost_error = EIO;
	lost_untold = ~1u;
	pthread_mutex_unlock(&lock);
	result(view_pread(v, &byte, 1, 0, NULL, NULL) == EIO, "and not any more when the file has lost some");
	result(view_pread(v, &byte, 1, 0, NULL, NULL) == EIO && view_pread(w, &byte, 1, 0, NULL, NULL) == EIO,
	       "by nobody, as often as they try");
	result(!cbw_over(c, why), "which the snapshot does not know yet");
	pthread_mutex_lock(&lock);
	lost_untold = ~0u;
	pthread_mutex_unlock(&lock);
	cbw_watch(c, 0);
	result(fails_once() && over_with(EIO, "scratch file: Input/output error"), "it looks, and ends");
	view_close(v);
	view_close(w);
	fresh(4 * CLUSTER);
	lost_error = ENOSPC;
	lost_untold = 1;
	cbw_begin(c, 0, 0, 1, &copy);
	fill_by_cluster(copy);
	cbw_read_done(copy, 0);
	result(fails_once() && over_with(ENOSPC, "scratch file: No space") && cbw_begin(c, 0, 0, 1, NULL),
	       "whoever writes to the file looks, too");
}

static void test_hangs(void)
{
	struct cbw_copy *copy;

	fresh(4 * CLUSTER);
	hangs = true;
	cbw_begin(c, 0, 0, 1, &copy);
	fill_by_cluster(copy);
	cbw_read_done(copy, 0);
	pthread_mutex_lock(&lock);
	wait_for(is_storing, NULL);
	pthread_mutex_unlock(&lock);
	cbw_watch(c, copy->since + 4999);
	result(!cbw_begin(c, 0, 0, 1, NULL), "storage may take its time");
	cbw_watch(c, copy->since + 5001);
	result(fails_once() && over_with(ETIMEDOUT, "does not answer") &&
	       cbw_begin(c, 0, 0, 1, NULL), "but not all of it");
	/* While it hangs everybody else has gone. */
	drop();
	pthread_mutex_lock(&lock);
	hangs = false;
	bump();
	pthread_mutex_unlock(&lock);
}

static int no_read(void *arg, void *buf, uint32_t count, uint64_t offset)
{
	memset(buf, 'x', count);
	return 0;
}

static void test_orphan(void)
{
	char byte, why[SNAPMAP_WHY_MAX];
	struct view *v;

	fresh(4 * CLUSTER);
	v = view();
	result(v && view_pread(v, &byte, 1, 0, no_read, NULL) == 0 && byte == 'x' &&
	       !view_over(v, why), "what was not copied is the medium's");
	close(life[1]);
	life[1] = -1;
	result(view_pread(v, &byte, 1, 0, no_read, NULL) == ESHUTDOWN &&
	       view_over(v, why) && strstr(why, "spicebdd has ended"),
	       "when nobody copies any more nothing can be read");
	view_close(v);
}

/* The bit is set while the medium is being read: what came is new. */
static int read_late(void *arg, void *buf, uint32_t count, uint64_t offset)
{
	memset(buf, 'n', count);
	gain(0, offset, count, fill_by_cluster);
	return 0;
}

static void test_overtaken(void)
{
	uint8_t buf[600];
	struct view *v;
	bool good;

	fresh(4 * CLUSTER);
	v = view();
	good = view_pread(v, buf, sizeof(buf), CLUSTER - 300, read_late, NULL) == 0;
	for (int i = 0; i < 600 && good; i++)
		good = buf[i] == (i < 300 ? 'a' : 'b');
	result(good, "a read that a write overtakes gives the old bytes");
	view_close(v);
}

/* ---- at the same time */

#define MEDIUM		(24 * CLUSTER + 1536)
#define WRITERS		4
#define READERS		3
#define WRITES		20

static uint8_t *medium, *old;
static bool storm_over;
static unsigned long reads, wrong, mixed;

static void fill_from_medium(struct cbw_copy *copy)
{
	memcpy(copy->buf, medium + copy->offset, copy->len);
}

static int read_from_medium(void *arg, void *buf, uint32_t count, uint64_t offset)
{
	/* In two pieces, as it may come. */
	memcpy(buf, medium + offset, count / 2);
	sched_yield();
	memcpy((uint8_t *)buf + count / 2, medium + offset + count / 2, count - count / 2);
	return 0;
}

static void *writes(void *arg)
{
	unsigned int queue = (uintptr_t)arg, seed = queue + 1;

	for (int i = 0; i < WRITES; i++) {
		uint64_t offset = (uint64_t)rand_r(&seed) % (MEDIUM / 512) * 512;
		uint64_t len = (uint64_t)(1 + rand_r(&seed) % 400) * 512;

		len = len < MEDIUM - offset ? len : MEDIUM - offset;
		gain(queue, offset, len, fill_from_medium);
		memset(medium + offset, 0x80 | queue, len / 2);
		sched_yield();
		/* Now and then it fails half-way. */
		if (i % 4)
			memset(medium + offset + len / 2, 0x80 | queue, len - len / 2);
	}
	return NULL;
}

static void *reading(void *arg)
{
	static __thread uint8_t buf[300 * 512];
	unsigned int seed = 100 + (uintptr_t)arg;
	struct view *v = view();

	while (!__atomic_load_n(&storm_over, __ATOMIC_SEQ_CST)) {
		uint64_t offset = (uint64_t)rand_r(&seed) % MEDIUM;
		uint32_t len = 1 + rand_r(&seed) % sizeof(buf);

		len = len < MEDIUM - offset ? len : MEDIUM - offset;
		if (view_pread(v, buf, len, offset, read_from_medium, NULL) ||
		    memcmp(buf, old + offset, len))
			__atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
		if (memcmp(medium + offset, old + offset, len))
			__atomic_add_fetch(&mixed, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&reads, 1, __ATOMIC_SEQ_CST);
	}
	view_close(v);
	return NULL;
}

static void test_storm(void)
{
	pthread_t w[WRITERS], r[READERS];

	medium = malloc(MEDIUM);
	old = malloc(MEDIUM);
	for (int round = 0; round < 8; round++) {
		fresh(MEDIUM);
		for (uint64_t i = 0; i < MEDIUM; i++)
			old[i] = (i / 512 * 7 + round) & 0x7f;
		memcpy(medium, old, MEDIUM);
		storm_over = false;
		for (uintptr_t i = 0; i < READERS; i++)
			pthread_create(&r[i], NULL, reading, (void *)i);
		for (uintptr_t i = 0; i < WRITERS; i++)
			pthread_create(&w[i], NULL, writes, (void *)i);
		for (int i = 0; i < WRITERS; i++)
			pthread_join(w[i], NULL);
		__atomic_store_n(&storm_over, true, __ATOMIC_SEQ_CST);
		for (int i = 0; i < READERS; i++)
			pthread_join(r[i], NULL);
	}
	printf("# %lu reads, %lu of them of what had been written meanwhile\n", reads, mixed);
	result(reads && mixed && !wrong, "readers beside writers read the old bytes");
	drop();
	free(medium);
	free(old);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("TAP version 13\n");
	test_sizes();
	test_one();
	test_lost();
	test_many();
	test_full();
	test_unreadable();
	test_lost_later();
	test_hangs();
	test_orphan();
	test_overtaken();
	test_storm();
	printf("1..%d\n", number);
	return failed ? 1 : 0;
}
