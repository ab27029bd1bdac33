// SPDX-License-Identifier: GPL-2.0-only
#include "marker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "file.h"

#define CONTENT_MAX	65536

/* The services of several partitions change one file. */
static int take_lock(void)
{
	int fd = open(MARKER_DIR "/.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd >= 0 && flock(fd, LOCK_EX) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void file_name(const struct device *d, char *out, size_t size)
{
	snprintf(out, size, MARKER_DIR "/%s", d->drive);
}

static size_t content(const struct device *d, char *buf, size_t size)
{
	char path[128];
	size_t n;
	FILE *f;

	buf[0] = '\0';
	file_name(d, path, sizeof(path));
	f = fopen(path, "re");
	if (!f)
		return 0;
	n = fread(buf, 1, size - 1, f);
	fclose(f);
	buf[n] = '\0';
	return n;
}

/* The line of a device, and where the next one begins. */
static char *own_line(const struct device *d, char *buf, char **next)
{
	size_t n = strlen(d->name);

	for (char *line = buf; *line; line = *next) {
		*next = line + strcspn(line, "\n");
		*next += **next == '\n';
		if (!strncmp(line, d->name, n) && line[n] == ' ')
			return line;
	}
	return NULL;
}

static int replace(const struct device *d, const char *path)
{
	static char buf[CONTENT_MAX];
	char name[128], *line, *next;
	size_t len = content(d, buf, sizeof(buf));

	line = own_line(d, buf, &next);
	if (line) {
		memmove(line, next, strlen(next) + 1);
		len = strlen(buf);
	}
	file_name(d, name, sizeof(name));
	if (path) {
		int n = snprintf(buf + len, sizeof(buf) - len, "%s %s\n", d->name, path);

		if (n < 0 || (size_t)n >= sizeof(buf) - len)
			return -E2BIG;
		len += n;
	}
	if (len)
		return file_replace(name, buf, len);
	return unlink(name) < 0 && errno != ENOENT ? -errno : 0;
}

int marker_set(const struct device *d, const char *path)
{
	int lock = take_lock(), ret;

	if (lock < 0)
		return -errno;
	ret = replace(d, path);
	close(lock);
	return ret;
}

bool marker_get(const struct device *d, char *path, size_t size)
{
	char buf[4096], *line, *next;

	content(d, buf, sizeof(buf));
	line = own_line(d, buf, &next);
	if (!line)
		return false;
	line += strlen(d->name) + 1;
	line[strcspn(line, "\n")] = '\0';
	return (size_t)snprintf(path, size, "%s", line) < size;
}
