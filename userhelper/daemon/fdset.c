// SPDX-License-Identifier: GPL-2.0-only
#include "fdset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct member {
	const void *owner;
	int set;
	int fd;
};

static struct member members[FDSETS_MAX];
static unsigned int nr_members;
static int next_set;

static void drop(unsigned int i)
{
	close(members[i].fd);
	members[i] = members[--nr_members];
}

int fdset_add(const void *owner, int set, int fd, int *set_out, int *fd_out, struct derr *e)
{
	if (fd < 0)
		return derr_set(e, EINVAL, "No file descriptor supplied via SCM_RIGHTS");
	if (nr_members >= FDSETS_MAX) {
		close(fd);
		return derr_set(e, EMFILE, "too many file descriptors: remove-fd some");
	}
	if (set < 0)
		set = next_set++ & 0x3fffffff;
	members[nr_members++] = (struct member){ owner, set, fd };
	*set_out = set;
	*fd_out = fd;
	return 0;
}

int fdset_remove(const void *owner, int set, int fd, struct derr *e)
{
	unsigned int found = 0;

	for (unsigned int i = 0; i < nr_members;) {
		if (members[i].set == set && members[i].owner == owner &&
		    (fd < 0 || members[i].fd == fd)) {
			drop(i);
			found++;
		} else {
			i++;
		}
	}
	if (!found)
		return derr_set(e, ENOENT, "File descriptor set or descriptor %d not found", set);
	return 0;
}

void fdset_owner_gone(const void *owner)
{
	for (unsigned int i = 0; i < nr_members;) {
		if (members[i].owner == owner)
			drop(i);
		else
			i++;
	}
}

int fdset_dup(const char *path, struct derr *e)
{
	const char *digits = path + strlen("/dev/fdset/");
	const struct member *best = NULL;
	char *end;
	long set = strtol(digits, &end, 10);
	int fd;

	for (unsigned int i = 0; i < nr_members && end != digits && !*end; i++) {
		if (members[i].set != set)
			continue;
		if (!best || (fcntl(members[i].fd, F_GETFL) & O_ACCMODE) == O_RDWR)
			best = &members[i];
	}
	if (!best)
		return derr_set(e, ENOENT, "no such file descriptor set: '%s'", path);
	fd = fcntl(best->fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? derr_set(e, errno, "%s: %s", path, strerror(errno)) : fd;
}
