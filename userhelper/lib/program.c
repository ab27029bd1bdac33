// SPDX-License-Identifier: GPL-2.0-only
#include "program.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void program_path(const char *name, char *path, size_t size)
{
	static const char * const places[] = { "", "../sbin/" };
	const char *dir = secure_getenv("SPICEBD_BIN_DIR");
	char self[PATH_MAX];
	ssize_t n;

	if (dir && *dir) {
		snprintf(path, size, "%s/%s", dir, name);
		return;
	}
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	for (int i = 0; n > 0 && i < 2; i++) {
		self[n] = '\0';
		snprintf(path, size, "%.*s/%s%s", (int)(strrchr(self, '/') - self), self,
			 places[i], name);
		if (access(path, X_OK) == 0)
			return;
	}
	snprintf(path, size, "%s", name);
}

void program_object_path(const char *name, char *path, size_t size)
{
	char self[PATH_MAX], *slash;
	ssize_t n;

	program_path(name, path, size);
	if (path[0] == '/' && access(path, R_OK) == 0)
		return;
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	snprintf(path, size, "%.*s/../lib/spicebd/%s", slash ? (int)(slash - self) : 0, self,
		 name);
}
