// SPDX-License-Identifier: GPL-2.0-only
#include "hex.h"

#include <stdint.h>
#include <string.h>

void hex_encode(const void *data, size_t len, char *out)
{
	static const char digit[] = "0123456789abcdef";

	for (const uint8_t *p = data; len--; p++) {
		*out++ = digit[*p >> 4];
		*out++ = digit[*p & 15];
	}
	*out = '\0';
}

static int value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool hex_decode(const char *text, void *out, size_t len)
{
	uint8_t *p = out;

	if (strlen(text) != 2 * len)
		return false;
	for (; len--; text += 2) {
		int hi = value(text[0]), lo = value(text[1]);

		if (hi < 0 || lo < 0)
			return false;
		*p++ = hi << 4 | lo;
	}
	return true;
}
