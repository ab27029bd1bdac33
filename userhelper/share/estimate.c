// SPDX-License-Identifier: GPL-2.0-only
#include "estimate.h"

#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <glib.h>

#define ENTRIES_MAX	200000	/* that a person is made to wait for */
#define EMPTY_BYTES	(384 << 10)	/* an image of nothing */

static uint64_t rounded(uint64_t n, unsigned int block)
{
	return (n + block - 1) / block * block;
}

void estimate_folder(const char *path, unsigned int block, struct estimate *e)
{
	char *const paths[] = { (char *)path, NULL };
	unsigned int entries = 0;
	FTSENT *f;
	FTS *fts;

	*e = (struct estimate){ .bytes = EMPTY_BYTES };
	fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	while (fts && (f = fts_read(fts))) {
		if (++entries > ENTRIES_MAX) {
			e->more = true;
			break;
		}
		if (f->fts_info == FTS_D)
			e->bytes += block;
		if (f->fts_info != FTS_F)
			continue;
		e->bytes += rounded(f->fts_statp->st_size, block);
		e->files++;
	}
	if (fts)
		fts_close(fts);
}

/* Where nbdkit's iso plugin makes it. */
char *estimate_room(const char *path, uint64_t bytes)
{
	const char *dir = getenv("TMPDIR");
	g_autofree char *need = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
	g_autofree char *have = NULL;
	struct statvfs s;
	uint64_t room;

	dir = dir && *dir ? dir : "/var/tmp";
	if (statvfs(dir, &s) < 0)
		return NULL;
	room = (uint64_t)s.f_bavail * s.f_frsize;
	if (room >= bytes)
		return NULL;
	have = g_format_size_full(room, G_FORMAT_SIZE_IEC_UNITS);
	return g_strdup_printf("%s: its image needs about %s in %s, where %s are free: set TMPDIR "
			       "to a folder with more room, or share less", path, need, dir, have);
}
