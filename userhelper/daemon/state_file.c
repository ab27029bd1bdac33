// SPDX-License-Identifier: GPL-2.0-only
/* The file alone, without what it means. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib.h>

JsonNode *state_read_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	JsonParser *parser;
	JsonNode *n = NULL;
	struct stat st;
	size_t have = 0;
	char *text;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > STATE_MAX) {
		close(fd);
		return NULL;
	}
	text = g_malloc(st.st_size + 1);
	while (have < st.st_size) {
		ssize_t r = read(fd, text + have, st.st_size - have);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		have += r;
	}
	close(fd);
	parser = json_parser_new();
	if (g_utf8_validate(text, have, NULL) &&
	    json_parser_load_from_data(parser, text, have, NULL))
		n = json_parser_steal_root(parser);
	g_object_unref(parser);
	g_free(text);
	return n;
}
