// SPDX-License-Identifier: GPL-2.0-only
#include "password.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Not by stdio, whose buffer would keep a copy. -1 or how many bytes. */
static ssize_t read_start(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), saved;
	size_t have = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -1;
	while (have < size) {
		n = read(fd, buf + have, size - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		have += n;
	}
	saved = errno;
	close(fd);
	errno = saved;
	return n < 0 ? -1 : have;
}

int password_read(const char *path, char out[PASSWORD_MAX + 1], char *err, size_t errlen)
{
	char line[PASSWORD_MAX + 1];	/* one byte more than a password */
	ssize_t n = read_start(path, line, sizeof(line));
	size_t len = 0;
	int r = -EINVAL;

	out[0] = '\0';
	if (n < 0) {
		r = -errno;
		snprintf(err, errlen, "cannot read the password file %s: %s", path, strerror(errno));
		return r;
	}
	while (len < n && line[len] != '\n' && line[len] != '\r' && line[len])
		len++;
	if (!len) {
		snprintf(err, errlen,
			 "password file %s: its first line is empty: write the password there", path);
	} else if (len > PASSWORD_MAX) {
		snprintf(err, errlen,
			 "password file %s: longer than %d bytes, which is Spice's limit: shorten it",
			 path, PASSWORD_MAX);
	} else {
		memcpy(out, line, len);
		out[len] = '\0';
		r = 0;
	}
	explicit_bzero(line, sizeof(line));
	return r;
}
