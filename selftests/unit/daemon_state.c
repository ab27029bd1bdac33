// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state file: replaced as a whole, readable by its owner alone, and no file
 * that was tampered with harms its reader.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib -Iuserhelper/daemon selftests/unit/daemon_state.c userhelper/daemon/state_file.c userhelper/lib/file.c $(pkg-config --cflags --libs json-glib-1.0 gio-unix-2.0)
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "state.h"

#define TESTS	8

static int number, failed;

static void result(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

static bool reads_null(const char *path)
{
	JsonNode *n = state_read_file(path);

	if (n)
		json_node_unref(n);
	return !n;
}

int main(void)
{
	char dir[] = "/tmp/daemon_state.XXXXXX", path[64], other[64];
	static const char text[] = "{\"version\":1,\"media\":[]}";
	JsonNode *n;
	struct stat st;
	char *big;
	int fd;

	printf("KTAP version 1\n1..%d\n", TESTS);
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/state.json", dir);
	snprintf(other, sizeof(other), "%s/other", dir);

	result(reads_null(path), "no file");
	result(file_replace(path, text, strlen(text)) == 0 && stat(path, &st) == 0 &&
	       (st.st_mode & 0777) == 0600, "written, mode 0600");
	n = state_read_file(path);
	result(n && JSON_NODE_HOLDS_OBJECT(n), "read back");
	if (n)
		json_node_unref(n);

	/* A link where the new file is to be made must not be followed. */
	fd = open(other, O_CREAT | O_WRONLY, 0644);
	close(fd);
	snprintf(path, sizeof(path), "%s/state.json.new", dir);
	if (symlink(other, path) < 0)
		return 1;
	snprintf(path, sizeof(path), "%s/state.json", dir);
	result(file_replace(path, text, strlen(text)) == 0 && stat(other, &st) == 0 &&
	       st.st_size == 0, "a link in the way is not written through");

	unlink(path);
	if (symlink(other, path) < 0)
		return 1;
	result(reads_null(path), "a link is not read");
	unlink(path);
	file_replace(path, "{\"a\":", 5);
	result(reads_null(path), "half a file");
	big = calloc(1, STATE_MAX + 2);
	memset(big, ' ', STATE_MAX + 1);
	file_replace(path, big, STATE_MAX + 1);
	result(reads_null(path), "too large a file");
	free(big);
	unlink(path);
	result(file_replace("/nonexistent/dir/state", text, 2) < 0, "a folder that is not "
	       "there");
	unlink(other);
	rmdir(dir);
	return failed || number != TESTS;
}
