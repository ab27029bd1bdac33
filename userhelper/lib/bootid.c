// SPDX-License-Identifier: GPL-2.0-only
#include "bootid.h"

#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

#include "hex.h"
#include "sock.h"

void boot_id_read(uint8_t id[16])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char text[64], digits[33];
	ssize_t len = -1;
	size_t n = 0;

	if (fd >= 0) {
		len = read(fd, text, sizeof(text));
		close(fd);
	}
	/* A UUID as text, with dashes and a line feed. */
	for (ssize_t i = 0; i < len && n < 32; i++)
		if (text[i] != '-')
			digits[n++] = text[i];
	digits[n] = '\0';
	if (!hex_decode(digits, id, 16))
		random_bytes(id, 16);
}
