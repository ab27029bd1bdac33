// SPDX-License-Identifier: GPL-2.0-only
/* What a medium is, by its content. */
#include <string.h>
#include <unistd.h>

#include "core.h"

#define SECTOR		2048
#define VRS_START	16	/* first sector of the volume recognition sequence */
#define VRS_MAX		32	/* sectors looked at; real sequences have three to six */

/* The identifiers of ECMA-119 and ECMA-167 at byte 1 of a descriptor. */
static bool is_id(const uint8_t *d, const char *id)
{
	return !memcmp(d + 1, id, 5);
}

uint16_t sniff_kind(int fd, uint64_t size)
{
	uint8_t d[8];

	for (int i = 0; i < VRS_MAX; i++) {
		off_t at = (off_t)(VRS_START + i) * SECTOR;

		if (at + SECTOR > size || pread(fd, d, sizeof(d), at) != sizeof(d))
			break;
		if (is_id(d, "CD001") || is_id(d, "NSR02") || is_id(d, "NSR03"))
			return FRAME_KIND_CDROM;
		if (!is_id(d, "BEA01") && !is_id(d, "BOOT2") && !is_id(d, "CDW02"))
			break;
	}
	return FRAME_KIND_DISK;
}
