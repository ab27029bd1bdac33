// SPDX-License-Identifier: GPL-2.0-only
#include "url.h"

#include <string.h>
#include <time.h>

#include <glib.h>

#define URL_MAX	2000

bool url_is(const char *text)
{
	return !g_ascii_strncasecmp(text, "http://", 7) ||
	       !g_ascii_strncasecmp(text, "https://", 8);
}

/* The list of processes shows what nbdkit was started with, so no secret goes there. */
char *url_check(const char *text)
{
	g_autoptr(GUri) u = NULL;

	if (strlen(text) > URL_MAX)
		return g_strdup_printf("the address is longer than %d bytes", URL_MAX);
	for (const char *c = text; *c; c++)
		if (!g_ascii_isgraph(*c))
			return g_strdup_printf("%s: an address has no spaces, control characters "
					       "or letters beyond ASCII: write them as %%20",
					       text);
	u = g_uri_parse(text, G_URI_FLAGS_HAS_PASSWORD | G_URI_FLAGS_ENCODED, NULL);
	if (!u || !g_uri_get_host(u) || !*g_uri_get_host(u))
		return g_strdup_printf("%s: that is no address", text);
	if (g_uri_get_userinfo(u))
		return g_strdup("a password in an address would be seen by all users of this "
				"machine: fetch the file, and share that");
	return NULL;
}

char *url_base(const char *text)
{
	g_autoptr(GUri) u = g_uri_parse(text, G_URI_FLAGS_ENCODED, NULL);
	g_autofree char *path = u ? g_uri_unescape_string(g_uri_get_path(u), "/") : NULL;
	size_t len = path ? strlen(path) : 0;

	while (len && path[len - 1] == '/')
		path[--len] = '\0';
	return len ? g_path_get_basename(path) : g_strdup(u ? g_uri_get_host(u) : "medium");
}

char *url_unless_changed(void)
{
	static const char * const days[] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
	static const char * const months[] = {
		"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"
	};
	time_t now = time(NULL);
	struct tm t;

	gmtime_r(&now, &t);	/* strftime() would speak the user's language */
	return g_strdup_printf("If-Unmodified-Since: %s, %02d %s %d %02d:%02d:%02d GMT",
			       days[t.tm_wday], t.tm_mday, months[t.tm_mon], t.tm_year + 1900,
			       t.tm_hour, t.tm_min, t.tm_sec);
}
