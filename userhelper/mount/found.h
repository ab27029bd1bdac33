/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is on a device, as the confined prober tells it: plain data of a fixed
 * size, since the prober's answer is not trusted either.
 */
#ifndef SPICEBD_MOUNT_FOUND_H
#define SPICEBD_MOUNT_FOUND_H

#include <stdbool.h>
#include <stdint.h>

#define FOUND_SIGNATURES_MAX	8

/**
 * struct found_signature - one file system, or other use, that blkid sees
 */
struct found_signature {
	char type[24];
	char label[192];
	char uuid[48];
};

/**
 * struct found - all that is on a device
 * @error: errno of the prober, or 0
 * @n: signatures; FOUND_SIGNATURES_MAX may mean more
 * @table: the type of the partition table, or ""
 */
struct found {
	uint32_t error;
	uint32_t n;
	char table[16];
	struct found_signature sig[FOUND_SIGNATURES_MAX];
};

/**
 * found_valid() - is every string one, and every number in its range?
 */
bool found_valid(const struct found *f);

#endif /* SPICEBD_MOUNT_FOUND_H */
