// SPDX-License-Identifier: GPL-2.0-only
#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

#define TAKEN_MAX	99
#define OPEN_DIR	(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Only root may say what is there. */
static bool trusted(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_uid == 0 && !(st.st_mode & (S_IWGRP | S_IWOTH));
}

/* Takes @at; the next component of the path. */
static int step(int at, const char *name)
{
	int fd = openat(at, name, OPEN_DIR), e;

	if (fd < 0 && errno == ENOENT && (mkdirat(at, name, 0755) == 0 || errno == EEXIST))
		fd = openat(at, name, OPEN_DIR);
	e = errno;
	close(at);
	if (fd < 0)
		return -e;
	if (trusted(fd))
		return fd;
	close(fd);
	return -EPERM;
}

int place_open(const char *path, char *err, size_t size)
{
	int fd = open("/", OPEN_DIR), ret;
	const char *p = path;
	char name[256];

	ret = fd < 0 ? -errno : fd;
	while (ret >= 0) {
		size_t n;

		p += strspn(p, "/");
		n = strcspn(p, "/");
		if (!n)
			return fd;
		if (n >= sizeof(name)) {
			close(fd);
			ret = -ENAMETOOLONG;
			break;
		}
		memcpy(name, p, n);
		name[n] = '\0';
		p += n;
		ret = fd = step(fd, name);
	}
	if (ret == -EPERM || ret == -ELOOP || ret == -ENOTDIR)
		snprintf(err, size, "%s: a part of it (%.*s) is no directory that root alone can "
			 "write: choose another place=", path, (int)(p - path), path);
	else
		snprintf(err, size, "%s: %s", path, strerror(-ret));
	return ret;
}

int place_make(int place, char *name, size_t size)
{
	size_t len = strlen(name);
	int fd;

	for (int i = 1; mkdirat(place, name, 0755) < 0; ) {
		if (errno != EEXIST)
			return -errno;
		if (++i > TAKEN_MAX || len + 4 >= size)
			return -EEXIST;
		snprintf(name + len, size - len, "-%d", i);
	}
	fd = openat(place, name, OPEN_DIR);
	return fd < 0 ? -errno : fd;
}

void place_remove(int place, const char *name)
{
	if (unlinkat(place, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		log_warn("the mount point %s is left: %s", name, strerror(errno));
}
