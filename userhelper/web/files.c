// SPDX-License-Identifier: GPL-2.0-only
/*
 * All files of the page are read before the first request, and a request names one of
 * them or nothing: no path of a request ever reaches the file system.
 */
#include "web.h"

#include <string.h>

#define FILES_MAX	32
#define FILE_SIZE_MAX	(64 << 10)	/* fits into a socket's buffer */

static struct web_file files[FILES_MAX];
static unsigned int nr_files;

static const char *type_of(const char *name)
{
	if (g_str_has_suffix(name, ".html"))
		return "text/html; charset=utf-8";
	if (g_str_has_suffix(name, ".css"))
		return "text/css; charset=utf-8";
	if (g_str_has_suffix(name, ".js"))
		return "text/javascript; charset=utf-8";
	return NULL;
}

static bool load(const char *dir, const char *name)
{
	g_autofree char *path = g_build_filename(dir, name, NULL);
	struct web_file *f = &files[nr_files];
	g_autoptr(GError) error = NULL;

	if (!type_of(name))
		return true;
	if (nr_files == FILES_MAX)
		return complain("%s: more than %d files", dir, FILES_MAX) == 0;
	if (!g_file_get_contents(path, &f->text, &f->length, &error))
		return complain("%s", error->message) == 0;
	if (f->length > FILE_SIZE_MAX)
		return complain("%s: more than %d KiB: it is not of this page", path,
				FILE_SIZE_MAX >> 10) == 0;
	f->type = type_of(name);
	f->path = g_strcmp0(name, "index.html") ? g_strconcat("/", name, NULL) : g_strdup("/");
	nr_files++;
	return true;
}

bool files_load(const char *dir)
{
	g_autoptr(GError) error = NULL;
	g_autoptr(GDir) d = g_dir_open(dir, 0, &error);
	const char *name;

	if (!d) {
		complain("the page: %s: install it, or say by --page where it is", error->message);
		return false;
	}
	while ((name = g_dir_read_name(d)))
		if (!load(dir, name))
			return false;
	if (files_find("/"))
		return true;
	complain("%s: there is no index.html: install the page, or say by --page where it is", dir);
	return false;
}

const struct web_file *files_find(const char *path)
{
	for (unsigned int i = 0; i < nr_files; i++)
		if (!strcmp(files[i].path, path))
			return &files[i];
	return NULL;
}
