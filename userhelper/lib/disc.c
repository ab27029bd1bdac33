// SPDX-License-Identifier: GPL-2.0-only
#include "disc.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum verdict { DISC, NO_DISC, GO_ON };

/* The identifiers of ECMA-119 and ECMA-167, behind the type in byte 0. */
static enum verdict judge(const uint8_t descriptor[6])
{
	static const char * const disc[] = { "CD001", "NSR02", "NSR03" };
	static const char * const before[] = { "BEA01", "BOOT2", "CDW02" };

	for (int i = 0; i < 3; i++)
		if (!memcmp(descriptor + 1, disc[i], 5))
			return DISC;
	for (int i = 0; i < 3; i++)
		if (!memcmp(descriptor + 1, before[i], 5))
			return GO_ON;
	return NO_DISC;
}

bool disc_in_memory(const void *data, size_t len)
{
	enum verdict v = GO_ON;

	for (size_t at = 0; v == GO_ON && at < DISC_LEN && at + DISC_SECTOR <= len;
	     at += DISC_SECTOR)
		v = judge((const uint8_t *)data + at);
	return v == DISC;
}

bool disc_on_fd(int fd)
{
	enum verdict v = GO_ON;
	uint8_t d[6], last;

	for (off_t at = DISC_START; v == GO_ON && at < DISC_START + DISC_LEN; at += DISC_SECTOR) {
		if (pread(fd, d, sizeof(d), at) != sizeof(d) ||
		    pread(fd, &last, 1, at + DISC_SECTOR - 1) != 1)
			return false;
		v = judge(d);
	}
	return v == DISC;
}
