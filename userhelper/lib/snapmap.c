// SPDX-License-Identifier: GPL-2.0-only
#include "snapmap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC	0x70616e73u
#define HEAD	4096u		/* the bits begin there */
#define NOWHERE	(1ll << 62)	/* nothing of any file is there, and so nothing to wait for */

/**
 * struct snapmap_head - the first page
 * @over: errno value; set once, after @why
 */
struct snapmap_head {
	uint32_t magic;
	uint32_t cluster;
	uint64_t size;
	uint32_t over;
	char why[SNAPMAP_WHY_MAX];
};

uint32_t snapmap_cluster(uint64_t size)
{
	uint32_t cluster = SNAPMAP_CLUSTER_MIN;

	while (cluster <= SNAPMAP_CLUSTER_MAX && size / cluster >= SNAPMAP_CLUSTERS_MAX)
		cluster *= 2;
	return cluster <= SNAPMAP_CLUSTER_MAX ? cluster : 0;
}

static bool set_sizes(struct snapmap *m, uint64_t size, uint32_t cluster)
{
	memset(m, 0, sizeof(*m));
	if (!size || cluster < SNAPMAP_CLUSTER_MIN || cluster > SNAPMAP_CLUSTER_MAX ||
	    cluster & (cluster - 1) || size / cluster >= SNAPMAP_CLUSTERS_MAX)
		return false;
	m->size = size;
	m->cluster = cluster;
	m->nr = size / cluster + (size % cluster != 0);
	m->len = HEAD + (m->nr + 63) / 64 * sizeof(uint64_t);
	return true;
}

static int map(struct snapmap *m, int fd, int prot)
{
	void *p = mmap(NULL, m->len, prot, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	m->head = p;
	m->bits = (uint64_t *)((char *)p + HEAD);
	return 0;
}

int snapmap_create(struct snapmap *m, uint64_t size, uint32_t cluster)
{
	int fd, r;

	if (!set_sizes(m, size, cluster))
		return -EINVAL;
	fd = memfd_create("spicebd-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	r = ftruncate(fd, m->len) < 0 ? -errno : map(m, fd, PROT_READ | PROT_WRITE);
	/* Ours, which is there, stays writable; nobody gets another that is. */
	if (!r && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE |
			F_SEAL_SEAL) < 0) {
		r = -errno;
		snapmap_close(m);
	}
	if (r < 0) {
		close(fd);
		return r;
	}
	m->head->magic = MAGIC;
	m->head->cluster = cluster;
	m->head->size = size;
	return fd;
}

int snapmap_open(struct snapmap *m, int fd)
{
	struct snapmap_head h;
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	memset(m, 0, sizeof(*m));
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 ||
	    pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != MAGIC ||
	    !set_sizes(m, h.size, h.cluster) || (uint64_t)st.st_size != m->len)
		return -EPROTO;
	return map(m, fd, PROT_READ);
}

void snapmap_close(struct snapmap *m)
{
	if (m->head)
		munmap(m->head, m->len);
	memset(m, 0, sizeof(*m));
}

bool snapmap_copied(const struct snapmap *m, uint64_t cluster)
{
	return __atomic_load_n(&m->bits[cluster / 64], __ATOMIC_SEQ_CST) >> cluster % 64 & 1;
}

void snapmap_set(struct snapmap *m, uint64_t cluster)
{
	__atomic_fetch_or(&m->bits[cluster / 64], 1ull << cluster % 64, __ATOMIC_SEQ_CST);
}

void snapmap_end(struct snapmap *m, int error, const char *why)
{
	size_t n = strlen(why);

	if (__atomic_load_n(&m->head->over, __ATOMIC_SEQ_CST))
		return;
	memcpy(m->head->why, why, n < SNAPMAP_WHY_MAX ? n : SNAPMAP_WHY_MAX - 1);
	__atomic_store_n(&m->head->over, error ? error : EIO, __ATOMIC_SEQ_CST);
}

int snapmap_over(const struct snapmap *m, char *why)
{
	uint32_t over = __atomic_load_n(&m->head->over, __ATOMIC_SEQ_CST);

	if (over && why) {
		memcpy(why, m->head->why, SNAPMAP_WHY_MAX);
		why[SNAPMAP_WHY_MAX - 1] = '\0';
	}
	return over < 4096 ? (int)over : EIO;
}

int snapmap_lost(int scratch)
{
	return sync_file_range(scratch, NOWHERE, 1, SYNC_FILE_RANGE_WAIT_BEFORE) < 0 ? errno : 0;
}
