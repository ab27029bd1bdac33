// SPDX-License-Identifier: GPL-2.0-only
/*
 * A filter for nbdkit that holds one write on command, in the directory that is
 * HOLD_DIR in its environment: the first write that finds the file "arm" takes it
 * away, makes the file "held.PID", waits until there is a file "release", writes,
 * and makes "done.PID". Every other write passes.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <nbdkit-filter.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static char dir[200];

static const char *in_dir(char *buf, size_t size, const char *name, int pid)
{
	if (pid)
		snprintf(buf, size, "%s/%s.%d", dir, name, pid);
	else
		snprintf(buf, size, "%s/%s", dir, name);
	return buf;
}

static void mark(const char *name)
{
	char path[256];
	int fd = open(in_dir(path, sizeof(path), name, getpid()),
		      O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
}

static void hold_load(void)
{
	const char *d = getenv("HOLD_DIR");

	snprintf(dir, sizeof(dir), "%s", d ? d : "/nonexistent");
}

static int hold_pwrite(nbdkit_next *next, void *handle, const void *buf, uint32_t count,
		       uint64_t offset, uint32_t flags, int *err)
{
	char path[256];
	int r;

	if (unlink(in_dir(path, sizeof(path), "arm", 0)) < 0)
		return next->pwrite(next, buf, count, offset, flags, err);
	mark("held");
	while (access(in_dir(path, sizeof(path), "release", 0), F_OK) < 0)
		usleep(10000);
	r = next->pwrite(next, buf, count, offset, flags, err);
	mark("done");
	return r;
}

static struct nbdkit_filter filter = {
	.name = "hold",
	.longname = "hold one write on command",
	.load = hold_load,
	.pwrite = hold_pwrite,
};

NBDKIT_REGISTER_FILTER(filter)
