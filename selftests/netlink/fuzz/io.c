// SPDX-License-Identifier: GPL-2.0-only
/*
 * Traffic that is verified: blocks are written directly, in an order of the
 * seed's, and read again later. Every error and every wrong byte is told.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"

#define BLOCK	16384
#define BLOCKS	256
#define PAUSE_US	5000

static volatile sig_atomic_t over;

static void end(int signal)
{
	(void)signal;
	over = 1;
}

static void pattern(uint64_t *buf, uint64_t round, uint64_t block)
{
	for (size_t i = 0; i < BLOCK / 8; i++)
		buf[i] = round * 0x9e3779b97f4a7c15ULL ^ block << 32 ^ i;
}

static int check(int fd, uint64_t *buf, uint64_t *want, uint64_t round, int block)
{
	if (pread(fd, buf, BLOCK, (off_t)block * BLOCK) != BLOCK) {
		printf("read of block %d: %s\n", block, strerror(errno));
		return 1;
	}
	pattern(want, round, block);
	if (!memcmp(buf, want, BLOCK))
		return 0;
	printf("block %d is not what was written\n", block);
	return 1;
}

static int traffic(const char *device, uint64_t seed, uint64_t *blocks)
{
	struct knows k = { .rnd = seed ? seed : 1 };
	static uint64_t rounds[BLOCKS];
	uint64_t *buf, *want, n = 0;
	int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC), bad = 0;

	if (fd < 0 || posix_memalign((void **)&buf, 4096, BLOCK) ||
	    posix_memalign((void **)&want, 4096, BLOCK)) {
		printf("%s: %s\n", device, strerror(errno));
		return 1;
	}
	while (!over && !bad) {
		int block = fuzz_below(&k, BLOCKS);

		if (rounds[block])
			bad = check(fd, buf, want, rounds[block], block);
		rounds[block] = ++n;
		pattern(buf, n, block);
		if (!bad && pwrite(fd, buf, BLOCK, (off_t)block * BLOCK) != BLOCK) {
			printf("write of block %d: %s\n", block, strerror(errno));
			bad = 1;
		}
		block = fuzz_below(&k, BLOCKS);
		if (!bad && rounds[block])
			bad = check(fd, buf, want, rounds[block], block);
		/* it is to be there, not to take all the time there is */
		usleep(PAUSE_US);
	}
	for (int i = 0; i < BLOCKS && !bad; i++)
		if (rounds[i])
			bad = check(fd, buf, want, rounds[i], i);
	if (fsync(fd) < 0) {
		printf("fsync: %s\n", strerror(errno));
		bad = 1;
	}
	close(fd);
	*blocks = n;
	return bad;
}

int fuzz_io(int nr, char **devices, uint64_t seed)
{
	struct sigaction sa = { .sa_handler = end };
	uint64_t blocks = 0;
	int bad;

	if (nr != 1) {
		fprintf(stderr, "netlink_fuzz: one device\n");
		return 2;
	}
	sigaction(SIGTERM, &sa, NULL);
	bad = traffic(devices[0], seed, &blocks);
	printf("%s: %llu blocks, %s\n", devices[0], (unsigned long long)blocks,
	       bad ? "WRONG" : "good");
	return bad;
}
