// SPDX-License-Identifier: GPL-2.0-only
/* The nbdkit process. */
#include "server.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "log.h"
#include "program.h"
#include "sock.h"

enum { CHILD_LISTEN = 3, CHILD_MEDIUM, CHILD_LOCK };

/*
 * The file plugin resolves a file name to its real path and opens that again
 * for each connection, so by then it may be another file, or none. Of a folder
 * it opens entries as they are: /proc/self/fd is a folder, and its entry is the
 * descriptor that was passed. The exportname filter admits no other entry.
 */
int child_start(struct server *s)
{
	const struct childproc_fd fds[] = {
		{ s->listen_fd, CHILD_LISTEN },
		{ s->medium_fd, CHILD_MEDIUM },
		{ s->lock_fd, CHILD_LOCK },
	};
	const char *nbdkit = secure_getenv("SPICEBD_NBDKIT");
	char entry[32], allowed[32], threads[16];
	char memlock[PATH_MAX + 64];
	char *argv[20];
	int n = 0;

	program_object_path("spicebd-memlock.so", memlock, sizeof(memlock));

	snprintf(entry, sizeof(entry), "default-export=%d", CHILD_MEDIUM);
	snprintf(allowed, sizeof(allowed), "exportname=%d", CHILD_MEDIUM);
	snprintf(threads, sizeof(threads), "%u", s->job.threads);
	argv[n++] = (char *)(nbdkit && *nbdkit ? nbdkit : "nbdkit");
	argv[n++] = "-f";
	if (s->job.flags & NBDKIT_JOB_READ_ONLY)
		argv[n++] = "-r";
	if (s->job.threads) {
		argv[n++] = "-t";
		argv[n++] = threads;
	}
	argv[n++] = "--filter=exportname";
	argv[n++] = "file";
	argv[n++] = "dir=/proc/self/fd";
	argv[n++] = entry;
	argv[n++] = "exportname=";
	argv[n++] = allowed;
	argv[n++] = "exportname-strict=true";
	argv[n++] = "exportname-list=empty";
	argv[n++] = "exportdesc=none";
	argv[n] = NULL;

	random_bytes(s->incarnation, sizeof(s->incarnation));
	if (s->locked && access(memlock, R_OK) == 0)
		setenv("LD_PRELOAD", memlock, 1);
	else if (s->locked)
		log_warn("nbdkit's memory is not locked: there is no %s", memlock);
	s->pid = childproc_spawn(argv, fds, 3, -1, true, &s->err);
	unsetenv("LD_PRELOAD");
	return s->pid < 0 ? (int)s->pid : 0;
}
