// SPDX-License-Identifier: GPL-2.0-only
/*
 * netlink_fuzz: sends the family messages that are nearly right
 *
 *	netlink_fuzz SEED MESSAGES SECONDS	until the kernel has answered so many
 *	netlink_fuzz io SEED DEVICE		verified traffic, until SIGTERM
 *
 * The last line of the first is an object in JSON: what was sent, answered, and
 * came of it. Only what the kernel answered counts as a message. It also goes on
 * until one of DEEP messages was an answer that ended a request, in a message of
 * its own, and in a list.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/cdrom.h>
#include <linux/spicebd.h>

#include "fuzz.h"

static const enum role cast[] = {
	ROLE_MANAGER, ROLE_MANAGER, ROLE_SCOPED, ROLE_NOBODY, ROLE_NAMESPACE,
};
#define NR_ACTORS	(sizeof(cast) / sizeof(cast[0]))
#define DEEP		1000
/* Each waits for one request at a time, and some read ahead. */
#define NR_USERS	8

static const char *const role_names[ROLES] = { "manager", "scoped", "nobody", "namespace" };

struct shared {
	int stop;
	uint64_t opened;
	struct counts counts[NR_ACTORS];
};

/* Somebody who uses the wild drives, whatever becomes of them. */
static void user(struct shared *s, uint64_t seed)
{
	struct knows k = { .rnd = seed ? seed : 1 };
	void *buf;

	if (posix_memalign(&buf, 4096, 65536))
		_exit(1);
	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
		struct timespec moment = { .tv_nsec = 2000000 };
		char name[32];
		int fd;

		snprintf(name, sizeof(name), "/dev/spicebd%u",
			 WILD_FIRST + fuzz_below(&k, WILD_NR));
		fd = open(name, (fuzz_one_in(&k, 2) ? O_RDWR : O_RDONLY) | O_CLOEXEC |
			  (fuzz_one_in(&k, 3) ? O_NONBLOCK : 0) |
			  (fuzz_one_in(&k, 2) ? O_DIRECT : 0));
		if (fd < 0) {
			/* nothing there to wait for: it comes and goes at random */
			nanosleep(&moment, NULL);
			continue;
		}
		__atomic_add_fetch(&s->opened, 1, __ATOMIC_RELAXED);
		for (int i = fuzz_below(&k, 4); i >= 0; i--)
			(void)!pread(fd, buf, 4096U << fuzz_below(&k, 5), 0);
		if (fuzz_one_in(&k, 4))
			(void)!pwrite(fd, buf, 4096, 4096);
		if (fuzz_one_in(&k, 8))
			(void)ioctl(fd, CDROMEJECT);
		if (fuzz_one_in(&k, 8))
			(void)ioctl(fd, CDROMCLOSETRAY);
		close(fd);
	}
	_exit(0);
}

/* None outlives us; a user may sit in a read until its drive is deleted. */
static pid_t start(struct shared *s, int i, uint64_t seed)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (i < 0)
		user(s, seed);
	/* before those who use drives: these would have all the time there is */
	if (setpriority(PRIO_PROCESS, 0, -5) < 0)
		_exit(1);
	_exit(fuzz_actor(cast[i], i, seed, &s->counts[i], &s->stop));
}

static uint64_t answered(const struct shared *s)
{
	uint64_t n = 0;

	for (size_t i = 0; i < NR_ACTORS; i++)
		n += __atomic_load_n(&s->counts[i].answered, __ATOMIC_RELAXED);
	return n;
}

static uint64_t succeeded(const struct shared *s, uint8_t cmd)
{
	uint64_t n = 0;

	for (int c = 0; c < fuzz_nr_commands; c++)
		for (size_t i = 0; fuzz_commands[c].cmd == cmd && i < NR_ACTORS; i++)
			n += __atomic_load_n(&s->counts[i].done[c], __ATOMIC_RELAXED);
	return n;
}

static bool enough(const struct shared *s, uint64_t messages)
{
	return answered(s) >= messages &&
	       succeeded(s, SPICEBD_CMD_IO_COMPLETE) >= messages / DEEP &&
	       succeeded(s, SPICEBD_CMD_IO_ANSWERS) >= messages / DEEP;
}

static void print_counts(const struct counts *c, int actor)
{
	const char *comma = "";

	printf("{\"role\":\"%s\",\"sent\":%llu,\"answered\":%llu,\"requests\":%llu,\"errors\":{",
	       role_names[cast[actor]], (unsigned long long)c->sent,
	       (unsigned long long)c->answered, (unsigned long long)c->requests);
	for (int i = 0; i < MAX_ERRNO; i++) {
		if (!c->error[i])
			continue;
		printf("%s\"%d\":%llu", comma, i, (unsigned long long)c->error[i]);
		comma = ",";
	}
	printf("},\"done\":{");
	comma = "";
	for (int i = 0; i < fuzz_nr_commands; i++) {
		if (!c->done[i])
			continue;
		printf("%s\"%s\":%llu", comma, fuzz_commands[i].name,
		       (unsigned long long)c->done[i]);
		comma = ",";
	}
	printf("}}");
}

static int fuzz(uint64_t seed, uint64_t messages, unsigned int seconds)
{
	struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pids[NR_ACTORS];
	int bad = 0;

	if (s == MAP_FAILED)
		return 1;
	for (int i = 0; i < NR_USERS; i++)
		if (start(s, -1, seed ^ (0xabcdefULL << i)) < 0)
			return 1;
	for (size_t i = 0; i < NR_ACTORS; i++) {
		pids[i] = start(s, i, seed + i * 0x9e3779b97f4a7c15ULL);
		if (pids[i] < 0)
			return 1;
	}
	for (unsigned int t = 0; t < 4 * seconds && !enough(s, messages); t++)
		poll(NULL, 0, 250);
	__atomic_store_n(&s->stop, 1, __ATOMIC_RELAXED);
	for (size_t i = 0; i < NR_ACTORS; i++) {
		int status;

		if (waitpid(pids[i], &status, 0) != pids[i] || status)
			bad = 1;
	}
	printf("{\"seed\":%llu,\"messages\":%llu,\"opened\":%llu,\"actors\":[",
	       (unsigned long long)seed, (unsigned long long)answered(s),
	       (unsigned long long)s->opened);
	for (size_t i = 0; i < NR_ACTORS; i++) {
		print_counts(&s->counts[i], i);
		printf("%s", i + 1 < NR_ACTORS ? "," : "");
	}
	printf("]}\n");
	return bad;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 4 && !strcmp(argv[1], "io"))
		return fuzz_io(1, argv + 3, strtoull(argv[2], NULL, 0));
	if (argc != 4) {
		fprintf(stderr, "usage: netlink_fuzz SEED MESSAGES SECONDS | io SEED DEVICE\n");
		return 2;
	}
	return fuzz(strtoull(argv[1], NULL, 0), strtoull(argv[2], NULL, 0), atoi(argv[3]));
}
