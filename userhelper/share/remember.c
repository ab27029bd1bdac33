// SPDX-License-Identifier: GPL-2.0-only
#include "remember.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib.h>

#include "file.h"
#include "hex.h"
#include "log.h"

static char *path_of(const char *uri)
{
	g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, uri, -1);

	return g_build_filename(g_get_user_state_dir(), "spicebd", "sessions", sum, NULL);
}

/* Somebody else's file, or one that others can read, is no secret. */
static int open_own(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
	    !(st.st_mode & 077))
		return fd;
	close(fd);
	errno = EPERM;
	return -1;
}

char *remember_load(const char *uri)
{
	g_autofree char *path = path_of(uri);
	char text[REMEMBER_DIGITS + 1] = "";
	unsigned char bytes[REMEMBER_DIGITS / 2];
	int fd = open_own(path);
	ssize_t n;

	if (fd < 0) {
		if (errno != ENOENT)
			log_warn("%s: %s: the secret in it is not used", path, strerror(errno));
		return NULL;
	}
	n = read(fd, text, REMEMBER_DIGITS);
	close(fd);
	if (n == REMEMBER_DIGITS && hex_decode(text, bytes, sizeof(bytes)))
		return g_strdup(text);
	log_warn("%s: no secret in it: it is not used", path);
	return NULL;
}

void remember_save(const char *uri, const char *ticket)
{
	g_autofree char *path = path_of(uri), *dir = g_path_get_dirname(path);
	g_autofree char *line = g_strdup_printf("%s\n%s\n", ticket, uri);
	int r = g_mkdir_with_parents(dir, 0700) < 0 ? -errno : 0;

	if (r == 0)
		r = file_replace(path, line, strlen(line));
	if (r < 0)
		log_warn("cannot keep the session's secret in %s: %s: started again, this program would need a new password",
			 path, strerror(-r));
}
