// SPDX-License-Identifier: GPL-2.0-only
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Digits without a leading zero; their number, 0 if there are none or many. */
static size_t digits(const char *s)
{
	size_t n = strspn(s, "0123456789");

	return n > 9 || (n > 1 && *s == '0') ? 0 : n;
}

bool device_name(struct device *d, const char *name)
{
	size_t n, m = 0;

	memset(d, 0, sizeof(*d));
	if (strncmp(name, "spicebd", 7))
		return false;
	n = digits(name + 7);
	if (!n)
		return false;
	n += 7;
	if (name[n] == 'p') {
		m = digits(name + n + 1);
		if (!m)
			return false;
		m++;
	}
	if (name[n + m] || n + m >= sizeof(d->name))
		return false;
	memcpy(d->drive, name, n);
	memcpy(d->name, name, n + m);
	d->partition = m;
	return true;
}

/* One line of an attribute; "" if it cannot be read. */
static void attribute(const char *dev, const char *name, char *out, size_t size)
{
	char path[128];
	ssize_t n;
	int fd;

	out[0] = '\0';
	snprintf(path, sizeof(path), "/sys/class/block/%s/%s", dev, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	n = read(fd, out, size - 1);
	close(fd);
	out[n > 0 ? n : 0] = '\0';
	out[strcspn(out, "\n")] = '\0';
}

static bool has_size(const char *name)
{
	char size[32];

	attribute(name, "size", size, sizeof(size));
	return size[0] && strcmp(size, "0");
}

/* A partition that is in use outlives its medium until it is let go. */
bool device_present(const struct device *d)
{
	return has_size(d->drive) && has_size(d->name);
}

bool device_is_cdrom(const struct device *d)
{
	char word[32];

	attribute(d->drive, "spicebd/personality", word, sizeof(word));
	return !strcmp(word, "cdrom");
}

bool device_read_only(const struct device *d)
{
	char word[8];

	attribute(d->name, "ro", word, sizeof(word));
	return strcmp(word, "0");
}

uint64_t device_diskseq(const struct device *d)
{
	char word[32];
	uint64_t n;

	attribute(d->drive, "diskseq", word, sizeof(word));
	return sscanf(word, "%" SCNu64, &n) == 1 ? n : 0;
}

int device_open(const struct device *d, bool whole, dev_t *rdev)
{
	const char *name = whole ? d->drive : d->name;
	char path[64], want[32], have[32];
	struct stat st;
	int fd, e;

	snprintf(path, sizeof(path), "/dev/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY);
	if (fd < 0)
		return -errno;
	attribute(name, "dev", want, sizeof(want));
	if (fstat(fd, &st) < 0) {
		e = errno;
		close(fd);
		return -e;
	}
	snprintf(have, sizeof(have), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	if (!S_ISBLK(st.st_mode) || strcmp(have, want)) {
		close(fd);
		return -ENODEV;
	}
	*rdev = st.st_rdev;
	return fd;
}
