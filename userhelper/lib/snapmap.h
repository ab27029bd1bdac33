/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which clusters of a medium were copied since its snapshot was made: memory that
 * spicebdd shares, read-only, with whoever serves the snapshot.
 *
 * The order is everything. spicebdd puts a cluster's old bytes into the scratch
 * file, then sets its bit, then sends the write that it belongs to. A reader reads
 * the medium, then looks at the bit: as long as it is not set no write to that
 * cluster had been sent, so what was read is old. Else the scratch file has it.
 * When spicebdd gives a snapshot up it says so here before it sends what it did
 * not copy for, so a reader looks for that last.
 */
#ifndef SPICEBD_SNAPMAP_H
#define SPICEBD_SNAPMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPMAP_CLUSTER_MIN	(64u << 10)
#define SNAPMAP_CLUSTER_MAX	(1u << 20)
#define SNAPMAP_CLUSTERS_MAX	(1ull << 29)	/* 64 MiB of bits */
#define SNAPMAP_WHY_MAX		200

struct snapmap_head;

/**
 * struct snapmap - the shared memory, as one process sees it
 * @size: of the medium, bytes
 * @cluster: bytes, a power of two; the last one may be shorter
 * @nr: clusters
 */
struct snapmap {
	struct snapmap_head *head;
	uint64_t *bits;
	size_t len;
	uint64_t size, nr;
	uint32_t cluster;
};

/* Bytes of a cluster for a medium; 0: it is too large. */
uint32_t snapmap_cluster(uint64_t size);

/**
 * snapmap_create() - an empty one
 * @cluster: of snapmap_cluster(), or larger
 * Return: descriptor to pass on, on which nobody can write; or -errno
 */
int snapmap_create(struct snapmap *m, uint64_t size, uint32_t cluster);

/* Another process's, read-only. @fd stays the caller's. Return: 0 or -errno */
int snapmap_open(struct snapmap *m, int fd);

void snapmap_close(struct snapmap *m);

/* The cluster's old bytes are in the scratch file. */
bool snapmap_copied(const struct snapmap *m, uint64_t cluster);
void snapmap_set(struct snapmap *m, uint64_t cluster);

/* The snapshot is no more; the first reason counts. */
void snapmap_end(struct snapmap *m, int error, const char *why);

/* Return: 0 as long as it stands; errno value. @why: SNAPMAP_WHY_MAX bytes, or NULL */
int snapmap_over(const struct snapmap *m, char *why);

/**
 * snapmap_lost() - did the scratch file's storage refuse what had been written to it?
 *
 * What was written waits in the page cache. If it cannot be written back the kernel
 * may forget it, and what is read then is whatever the storage has there; but it
 * remembers that before, and tells each opening of the file once. So this is to be
 * asked after what was read is there.
 *
 * Return: 0 or errno value; does not wait
 */
int snapmap_lost(int scratch);

static inline uint32_t snapmap_len(const struct snapmap *m, uint64_t cluster)
{
	uint64_t left = m->size - cluster * m->cluster;

	return left < m->cluster ? (uint32_t)left : m->cluster;
}

#endif /* SPICEBD_SNAPMAP_H */
