// SPDX-License-Identifier: GPL-2.0-only
#include "name.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

/* Space characters beside U+0020, and characters that show as nothing. */
static bool is_invisible(uint32_t cp)
{
	return cp == 0xa0 || cp == 0xad || cp == 0x34f || cp == 0x61c || cp == 0x1680 ||
	       (cp >= 0x180b && cp <= 0x180e) || (cp >= 0x2000 && cp <= 0x200f) ||
	       (cp >= 0x2028 && cp <= 0x202f) || (cp >= 0x205f && cp <= 0x206f) ||
	       cp == 0x3000 || (cp >= 0xfe00 && cp <= 0xfe0f) || cp == 0xfeff ||
	       (cp >= 0xfff0 && cp <= 0xffff) || (cp >= 0xe0000 && cp <= 0xe0fff);
}

static bool is_meant_for_shells(uint32_t cp)
{
	return cp < 0x80 && strchr("/\\'\"`$&|;<>*?!()[]{}", (int)cp);
}

static size_t clean_name(const char *s, char *out, size_t size)
{
	size_t len = strlen(s), n = 0, step;
	uint32_t cp = 0;

	for (; len; s += step, len -= step) {
		bool bad;

		step = text_decode(s, len, &cp);
		bad = !step || text_is_control(cp) || is_invisible(cp) || is_meant_for_shells(cp);
		if (!step)
			step = 1;
		if (n + (bad ? 1 : step) >= size)
			break;
		if (!bad && cp == ' ' && (!n || out[n - 1] == ' '))
			continue;
		if (bad ||
		    (!n && strchr(".-~", (int)(cp < 0x80 ? cp : 'x')))) {
			if (!n || out[n - 1] != '_')
				out[n++] = '_';
			continue;
		}
		memcpy(out + n, s, step);
		n += step;
	}
	while (n && out[n - 1] == ' ')
		n--;
	out[n] = '\0';
	/* A name of nothing but replacements tells nothing. */
	if (strspn(out, "_") == n)
		n = 0;
	return n;
}

void mount_name(const struct found_signature *s, const char *device, char *out, size_t size)
{
	if (size > NAME_LEN_MAX + 1)
		size = NAME_LEN_MAX + 1;
	if (clean_name(s->label, out, size) || clean_name(s->uuid, out, size))
		return;
	snprintf(out, size, "%s", device);
}
