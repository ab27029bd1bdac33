// SPDX-License-Identifier: GPL-2.0-only
/*
 * A filter for nbdkit that counts what is served, in a file that others map or
 * read at any time: five native 64-bit numbers, bytes read, bytes written, reads,
 * writes, other requests. Only what succeeded counts.
 *
 *   nbdkit --filter=.../nbdkit-count-filter.so memory 64M countfile=PATH
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <nbdkit-filter.h>

struct counts {
	uint64_t read_bytes, write_bytes, reads, writes, others;
};

static struct counts *counts;

static void add(uint64_t *to, uint64_t n)
{
	__atomic_add_fetch(to, n, __ATOMIC_RELAXED);
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	void *p = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof(*counts)) == 0)
		p = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		nbdkit_error("%s: %s", path, strerror(errno));
	else
		counts = p;
	if (fd >= 0)
		close(fd);
	return counts ? 0 : -1;
}

static int count_config(nbdkit_next_config *next, nbdkit_backend *nxdata, const char *key,
			const char *value)
{
	if (strcmp(key, "countfile") == 0)
		return open_file(value);
	return next(nxdata, key, value);
}

static int count_config_complete(nbdkit_next_config_complete *next, nbdkit_backend *nxdata)
{
	if (!counts) {
		nbdkit_error("countfile=PATH is missing");
		return -1;
	}
	return next(nxdata);
}

static int count_pread(nbdkit_next *next, void *handle, void *buf, uint32_t count,
		       uint64_t offset, uint32_t flags, int *err)
{
	int r = next->pread(next, buf, count, offset, flags, err);

	if (!r) {
		add(&counts->read_bytes, count);
		add(&counts->reads, 1);
	}
	return r;
}

static int count_pwrite(nbdkit_next *next, void *handle, const void *buf, uint32_t count,
			uint64_t offset, uint32_t flags, int *err)
{
	int r = next->pwrite(next, buf, count, offset, flags, err);

	if (!r) {
		add(&counts->write_bytes, count);
		add(&counts->writes, 1);
	}
	return r;
}

static int count_flush(nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
	add(&counts->others, 1);
	return next->flush(next, flags, err);
}

static int count_trim(nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
		      uint32_t flags, int *err)
{
	add(&counts->others, 1);
	return next->trim(next, count, offset, flags, err);
}

static int count_zero(nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
		      uint32_t flags, int *err)
{
	add(&counts->others, 1);
	return next->zero(next, count, offset, flags, err);
}

static struct nbdkit_filter filter = {
	.name = "count",
	.longname = "count what is served",
	.config = count_config,
	.config_complete = count_config_complete,
	.config_help = "countfile=PATH  where the numbers go",
	.pread = count_pread,
	.pwrite = count_pwrite,
	.flush = count_flush,
	.trim = count_trim,
	.zero = count_zero,
};

NBDKIT_REGISTER_FILTER(filter)
