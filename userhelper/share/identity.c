// SPDX-License-Identifier: GPL-2.0-only
/*
 * The identity of a file beyond this process. If a share is killed and started
 * again, a drive that waits for the medium may go on only with the very same
 * content, so what is remembered is what can show that:
 *
 * - the inode, its birth and its size;
 * - read-only: the times of its last change, which must be the same still;
 * - read-write: until when at least a share was there whose servers wrote to it.
 *   The time of the record is that; it is set when data passes, and so at most
 *   STAMP_MS old when a server last wrote. A file that was changed later than
 *   that was changed by somebody else. The lock on the file, which its servers
 *   hold, shows that the old ones are gone.
 *
 * Block devices tell no time of change, and are another medium each time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core.h"
#include "file.h"
#include "hex.h"
#include "log.h"
#include "sock.h"

#define STAMP_MS	1000
#define SLACK_MS	3000	/* STAMP_MS, and a server's time for one write */
#define KEEP_S		(30 * 24 * 3600)
#define FORMAT		3
#define RECORD_MAX	1024

struct seen {
	uint64_t dev, ino, size;
	int64_t btime, mtime, ctime;	/* ns */
};

static int64_t ns_of(struct statx_timestamp t)
{
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static bool look(const struct offer *o, struct seen *s)
{
	struct statx x;

	if (!o->regular || !o->locked ||
	    statx(o->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &x) < 0)
		return false;
	*s = (struct seen){
		.dev = makedev(x.stx_dev_major, x.stx_dev_minor), .ino = x.stx_ino,
		.size = x.stx_size, .btime = x.stx_mask & STATX_BTIME ? ns_of(x.stx_btime) : 0,
		.mtime = ns_of(x.stx_mtime), .ctime = ns_of(x.stx_ctime),
	};
	return true;
}

/* Where they are kept; NULL: nowhere. */
static char *records_dir(void)
{
	const char *state = g_getenv("XDG_STATE_HOME"), *home = g_getenv("HOME");

	if (state && *state == '/')
		return g_build_filename(state, "spicebd", "media", NULL);
	if (home && *home == '/')
		return g_build_filename(home, ".local", "state", "spicebd", "media", NULL);
	return NULL;
}

static char *record_path(const struct seen *s)
{
	g_autofree char *dir = records_dir();
	char name[48];

	if (!dir || g_mkdir_with_parents(dir, 0700) < 0)
		return NULL;
	snprintf(name, sizeof(name), "%llx-%llx", (unsigned long long)s->dev,
		 (unsigned long long)s->ino);
	return g_build_filename(dir, name, NULL);
}

static int open_record(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
	    !(st.st_mode & 022))
		return fd;
	log_warn("%s: not a file of ours: not used", path);
	close(fd);
	return -1;
}

/* What a record says of who has the medium: of the first format nothing, of the second no move. */
struct owned {
	uint8_t medium_id[FRAME_UUID_LEN], by[FRAME_UUID_LEN];
	uint32_t epoch;
};

static bool parse(char *text, struct seen *s, bool *read_only, struct owned *w)
{
	char hex[2 * FRAME_UUID_LEN + 1], by[2 * FRAME_UUID_LEN + 1] = "";
	unsigned long long size, dev, ino;
	long long btime, mtime, ctime;
	int format, ro, end = 0, n;

	*w = (struct owned){ 0 };
	n = sscanf(text, "%d %32s %d %llu %llu %llu %lld %lld %lld %n%u %n%32s %n", &format, hex,
		   &ro, &dev, &ino, &size, &btime, &mtime, &ctime, &end, &w->epoch, &end, by, &end);
	if (n < 9 || format != n - 8 || text[end] ||
	    !hex_decode(hex, w->medium_id, FRAME_UUID_LEN) ||
	    (*by && !hex_decode(by, w->by, FRAME_UUID_LEN)))
		return false;
	*s = (struct seen){
		.dev = dev, .ino = ino, .size = size,
		.btime = btime, .mtime = mtime, .ctime = ctime,
	};
	*read_only = ro;
	return true;
}

static bool same(const struct seen *now, const struct seen *then, bool read_only, int64_t stamp)
{
	if (now->dev != then->dev || now->ino != then->ino || now->size != then->size ||
	    now->btime != then->btime)
		return false;
	if (read_only)
		return now->mtime == then->mtime && now->ctime == then->ctime;
	return now->ctime <= stamp + SLACK_MS * 1000000LL &&
	       now->mtime <= stamp + SLACK_MS * 1000000LL;
}

/* One file may be offered twice, under two names; their ids differ. */
static bool taken(const struct offer *o, const uint8_t *id)
{
	for (guint i = 0; i < o->share->offers->len; i++) {
		const struct offer *other = g_ptr_array_index(o->share->offers, i);

		if (!memcmp(other->medium_id, id, FRAME_UUID_LEN))
			return true;
	}
	return false;
}

void identity_recall(struct offer *o)
{
	static const uint8_t none[FRAME_UUID_LEN];
	g_autofree char *path = NULL;
	char text[RECORD_MAX];
	struct seen now, then;
	struct owned w;
	bool read_only;
	struct stat st;
	ssize_t n;
	int fd;

	path = look(o, &now) ? record_path(&now) : NULL;
	fd = path ? open_record(path) : -1;
	if (fd < 0)
		return;
	n = read(fd, text, sizeof(text) - 1);
	text[MAX(n, 0)] = '\0';
	if (n > 0 && fstat(fd, &st) == 0 && parse(text, &then, &read_only, &w) &&
	    memcmp(w.medium_id, none, sizeof(none)) && !taken(o, w.medium_id) &&
	    same(&now, &then, read_only,
		 st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec)) {
		log_debug("%s: the same medium as before", o->info.name);
		memcpy(o->medium_id, w.medium_id, sizeof(o->medium_id));
		memcpy(o->moved_by, w.by, sizeof(o->moved_by));
		o->owner_epoch = w.epoch;
	}
	close(fd);
}

/* Of files that nobody shares any more. */
static void prune(const char *path)
{
	g_autofree char *dir = g_path_get_dirname(path);
	GDir *d = g_dir_open(dir, 0, NULL);
	const char *name;
	struct stat st;

	while (d && (name = g_dir_read_name(d))) {
		g_autofree char *file = g_build_filename(dir, name, NULL);

		if (lstat(file, &st) == 0 && S_ISREG(st.st_mode) &&
		    st.st_mtime + KEEP_S < time(NULL))
			unlink(file);
	}
	if (d)
		g_dir_close(d);
}

bool identity_keep(struct offer *o)
{
	char hex[2 * FRAME_UUID_LEN + 1], by[2 * FRAME_UUID_LEN + 1], text[RECORD_MAX];
	g_autofree char *path = NULL;
	struct seen s;
	int n;

	if (o->record >= 0)
		close(o->record);
	o->record = -1;
	path = look(o, &s) ? record_path(&s) : NULL;
	if (!path)
		return true;
	hex_encode(o->medium_id, FRAME_UUID_LEN, hex);
	hex_encode(o->moved_by, FRAME_UUID_LEN, by);
	n = snprintf(text, sizeof(text), "%d %s %d %llu %llu %llu %lld %lld %lld %u %s\n", FORMAT, hex,
		     o->read_only, (unsigned long long)s.dev, (unsigned long long)s.ino,
		     (unsigned long long)s.size, (long long)s.btime, (long long)s.mtime,
		     (long long)s.ctime, o->owner_epoch, by);
	if (file_replace(path, text, n) < 0) {
		log_debug("%s cannot be written: should this program be killed, '%s' is another "
			  "medium then", path, o->info.name);
		return unlink(path) == 0 || errno == ENOENT;
	}
	prune(path);
	if (!o->read_only)
		o->record = open_record(path);
	o->stamped = now_ms();
	return true;
}

void identity_stamp(struct offer *o)
{
	long long now;

	if (o->record < 0)
		return;
	now = now_ms();
	if (now - o->stamped < STAMP_MS)
		return;
	o->stamped = now;
	futimens(o->record, NULL);
}
