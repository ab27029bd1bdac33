// SPDX-License-Identifier: GPL-2.0-only
#include "text.h"

#include <string.h>

static size_t length_of(uint8_t first)
{
	if (first < 0x80)
		return 1;
	if ((first & 0xe0) == 0xc0)
		return 2;
	if ((first & 0xf0) == 0xe0)
		return 3;
	return (first & 0xf8) == 0xf0 ? 4 : 0;
}

size_t text_decode(const void *text, size_t len, uint32_t *cp)
{
	static const uint32_t lowest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const uint8_t *s = text;
	size_t n = length_of(s[0]), i;

	if (!n || len < n)
		return 0;
	*cp = n == 1 ? s[0] : s[0] & (0x7f >> n);
	for (i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		*cp = *cp << 6 | (s[i] & 0x3f);
	}
	if (*cp < lowest[n] || *cp > 0x10ffff || (*cp >= 0xd800 && *cp <= 0xdfff))
		return 0;
	return n;
}

bool text_is_control(uint32_t cp)
{
	return cp < 0x20 || (cp >= 0x7f && cp <= 0x9f) || cp == 0x61c ||
	       cp == 0x200e || cp == 0x200f || (cp >= 0x2028 && cp <= 0x202e) ||
	       (cp >= 0x2066 && cp <= 0x2069);
}

bool text_ok(const void *text, size_t len)
{
	const uint8_t *s = text;
	uint32_t cp;
	size_t n;

	for (; len; s += n, len -= n) {
		n = text_decode(s, len, &cp);
		if (!n || text_is_control(cp))
			return false;
	}
	return true;
}

size_t text_clean(char *out, size_t size, const void *text, size_t len)
{
	const uint8_t *s = text;
	size_t have = 0, n;
	uint32_t cp;

	for (; len; s += n, len -= n) {
		n = text_decode(s, len, &cp);
		if (n && !text_is_control(cp)) {
			if (have + n > size - 1)
				break;
			memmove(out + have, s, n);
			have += n;
			continue;
		}
		if (have + 1 > size - 1)
			break;
		out[have++] = '?';
		n = n ? n : 1;
	}
	out[have] = '\0';
	return have;
}
