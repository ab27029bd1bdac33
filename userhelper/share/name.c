// SPDX-License-Identifier: GPL-2.0-only
/* Names of media: what the other side shows and its user types. */
#include <string.h>

#include "core.h"

#define NAME_BASE_MAX	(FRAME_NAME_MAX - 8)	/* leaves room for a number */

bool name_taken(struct spicebd_share *share, const char *name)
{
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (!strcmp(o->info.name, name))
			return true;
	}
	return false;
}

/*
 * Whether one character may stand in a name is asked of the frame layer, so
 * that there is one rule. A letter before it keeps "." and ".." out of it.
 */
static bool char_ok(const char *c, size_t n)
{
	char probe[8] = "a";

	memcpy(probe + 1, c, n);
	return frame_name_ok(probe, n + 1);
}

static char *clean(const char *base)
{
	g_autofree char *valid = g_utf8_make_valid(base, -1);
	GString *s = g_string_new(NULL);

	for (const char *c = valid; *c; c = g_utf8_next_char(c)) {
		size_t n = g_utf8_next_char(c) - c;

		if (s->len + n > NAME_BASE_MAX)
			break;
		if (char_ok(c, n))
			g_string_append_len(s, c, n);
		else
			g_string_append_c(s, '_');
	}
	if (!frame_name_ok(s->str, s->len))
		g_string_assign(s, "medium");
	return g_string_free(s, FALSE);
}

char *name_make(struct spicebd_share *share, const char *path)
{
	g_autofree char *base = g_path_get_basename(path);
	g_autofree char *name = clean(base);

	if (!name_taken(share, name))
		return g_steal_pointer(&name);
	for (int i = 2;; i++) {
		g_autofree char *other = g_strdup_printf("%s (%d)", name, i);

		if (!name_taken(share, other))
			return g_steal_pointer(&other);
	}
}

/* The label goes through a shell inside nbdkit's iso plugin: [A-Z0-9_] only. */
void name_label(const char *name, char *label, size_t size)
{
	size_t n = 0;

	for (const char *c = name; *c && n + 1 < size; c++) {
		char u = g_ascii_toupper(*c);

		if (g_ascii_isalnum(u))
			label[n++] = u;
		else if (!((unsigned char)*c >= 0x80 && n && label[n - 1] == '_'))
			label[n++] = '_';
	}
	label[n] = '\0';
}
