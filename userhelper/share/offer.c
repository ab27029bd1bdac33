// SPDX-License-Identifier: GPL-2.0-only
/* The media that are offered: files, block devices, folders, addresses; their identity. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core.h"
#include "disc.h"
#include "estimate.h"
#include "sock.h"
#include "url.h"

#define LOCK_WAIT_MS	3000
/* What a file's size is rounded up to in an image. */
#define ISO_BLOCK	2048
#define FAT_BLOCK	16384

static char *why(const char *path, const char *what)
{
	return g_strdup_printf("%s: %s", path, what);
}

static char *why_errno(const char *path, const char *what, int err)
{
	const char *hint = "";

	if (err == EACCES || err == EPERM || err == EROFS)
		hint = "; check its permissions, or share it read-only";
	return g_strdup_printf("%s: %s: %s%s", path, what, g_strerror(err), hint);
}

static void note_mtime(struct offer *o, const struct stat *st)
{
	o->mtime_s = st->st_mtim.tv_sec;
	o->mtime_ns = st->st_mtim.tv_nsec;
}

static int64_t file_size(int fd, const struct stat *st)
{
	uint64_t size;

	if (S_ISREG(st->st_mode))
		return st->st_size;
	return ioctl(fd, BLKGETSIZE64, &size) < 0 || size > INT64_MAX ? -1 : (int64_t)size;
}

static char *locked(const struct offer *o, const char *path)
{
	return why(path, o->read_only ?
		   "is being shared read-write already; end that share first" :
		   "is being shared already; end that share first, or share it read-only");
}

/*
 * The lock belongs to the open file, which every server of it inherits: it is
 * held until the last of them has ended, even if this process was killed. So
 * two shares, or a share and a server that its dead owner left behind, never
 * have one file open for writing.
 */
static char *lock_file(struct offer *o, const char *path)
{
	const int op = (o->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB;
	long long until = now_ms() + LOCK_WAIT_MS;

	/* The servers of a share that was killed just now need a moment to go. */
	while (flock(o->fd, op) < 0) {
		if (errno != EWOULDBLOCK)
			return NULL;	/* a file system without locks */
		if (now_ms() > until)
			return locked(o, path);
		g_usleep(20000);
	}
	o->locked = true;
	return NULL;
}

static char *open_file(struct offer *o, const char *path, const struct stat *st)
{
	/* O_NONBLOCK: a fifo put there since the stat must not hold us. */
	int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	struct stat now;
	int64_t size;

	flags |= o->read_only ? O_RDONLY : O_RDWR;
	/* For a block device: not while it is mounted here. */
	if (S_ISBLK(st->st_mode) && !o->read_only)
		flags |= O_EXCL;
	o->fd = open(path, flags);
	if (o->fd < 0 && errno == EBUSY)
		return why(path, "is in use on this machine; unmount it first, or share it "
			   "read-only");
	if (o->fd < 0)
		return why_errno(path, o->read_only ? "cannot be read" : "cannot be written",
				 errno);
	if (fstat(o->fd, &now) < 0 || now.st_dev != st->st_dev || now.st_ino != st->st_ino)
		return why(path, "changed while it was opened; try again");
	o->regular = S_ISREG(now.st_mode);
	size = file_size(o->fd, &now);
	if (size < 0)
		return why(path, "its size cannot be found out");
	if (!size)
		return why(path, "is empty; a medium needs content");
	o->info.size = size;
	note_mtime(o, &now);
	return lock_file(o, path);
}

/* The kind decides whether writing is possible, so it is looked for first. */
static char *find_kind(struct offer *o, const char *path, enum spicebd_share_kind as)
{
	int fd;

	if (as != SPICEBD_SHARE_AUTO) {
		o->kind = as == SPICEBD_SHARE_CDROM ? FRAME_KIND_CDROM : FRAME_KIND_DISK;
		return NULL;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return why_errno(path, "cannot be read", errno);
	o->kind = disc_on_fd(fd) ? FRAME_KIND_CDROM : FRAME_KIND_DISK;
	close(fd);
	return NULL;
}

static char *take_file(struct offer *o, const char *path, const struct stat *st,
		       const struct spicebd_share_medium *m)
{
	char *error = find_kind(o, path, m->as);

	if (error)
		return error;
	o->source = OFFER_FILE;
	o->durable = true;
	o->read_only = !m->read_write || o->kind == FRAME_KIND_CDROM;
	return open_file(o, path, st);
}

static char *take_folder(struct offer *o, const char *path,
			 const struct spicebd_share_medium *m)
{
	struct estimate e;

	if (access(path, R_OK | X_OK) < 0)
		return why_errno(path, "cannot be read", errno);
	o->source = m->as == SPICEBD_SHARE_DISK ? OFFER_FAT : OFFER_ISO;
	o->kind = m->as == SPICEBD_SHARE_DISK ? FRAME_KIND_DISK : FRAME_KIND_CDROM;
	o->read_only = true;
	o->info.folder = true;
	estimate_folder(path, o->source == OFFER_ISO ? ISO_BLOCK : FAT_BLOCK, &e);
	o->info.size = e.bytes;
	o->info.files = e.files;
	return o->source == OFFER_ISO ? estimate_room(path, e.bytes) : NULL;
}

static char *take_url(struct offer *o, const struct spicebd_share_medium *m)
{
	o->source = OFFER_URL;
	o->ask_kind = m->as == SPICEBD_SHARE_AUTO;
	o->kind = m->as == SPICEBD_SHARE_CDROM ? FRAME_KIND_CDROM : FRAME_KIND_DISK;
	o->read_only = true;
	o->info.url = true;
	return NULL;
}

static char *take(struct offer *o, const struct spicebd_share_medium *m)
{
	const char *path = o->info.path;
	struct stat st;

	if (url_is(m->path))
		return take_url(o, m);
	if (stat(path, &st) < 0)
		return why_errno(path, "cannot be shared", errno);
	if (S_ISDIR(st.st_mode))
		return take_folder(o, path, m);
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		return take_file(o, path, &st, m);
	return why(path, "is no file, block device or folder; nothing else can be shared");
}

static void set_info(struct offer *o)
{
	o->info.cdrom = o->kind == FRAME_KIND_CDROM;
	o->info.read_only = o->read_only;
}

void offer_set_kind(struct offer *o, bool cdrom)
{
	o->kind = cdrom ? FRAME_KIND_CDROM : FRAME_KIND_DISK;
	set_info(o);
}

void offer_new_incarnation(struct offer *o)
{
	random_bytes(o->incarnation, sizeof(o->incarnation));
}

static void renew(struct offer *o)
{
	struct stat st;

	o->info.id = ++o->share->last_offer;
	memset(o->inserted, 0, sizeof(o->inserted));
	random_bytes(o->medium_id, sizeof(o->medium_id));
	o->owner_epoch = 0;
	memset(o->moved_by, 0, sizeof(o->moved_by));
	offer_new_incarnation(o);
	if (o->fd < 0 || fstat(o->fd, &st) < 0)
		return;
	note_mtime(o, &st);
	o->info.size = MAX(file_size(o->fd, &st), 0);
}

void offer_renew(struct offer *o)
{
	renew(o);
	identity_keep(o);
}

/* As the user wrote it, but for "." and its like. */
static char *name_of(struct offer *o, const char *path)
{
	g_autofree char *base = url_is(path) ? url_base(path) : g_path_get_basename(path);

	if (url_is(path))
		return name_make(o->share, base);
	if (frame_name_ok(base, strlen(base)))
		return name_make(o->share, path);
	return name_make(o->share, o->info.path);
}

struct offer *offer_new(struct spicebd_share *share, const struct spicebd_share_medium *m,
			char **error)
{
	struct offer *o = g_new0(struct offer, 1);

	o->share = share;
	o->who = g_hash_table_new_full(NULL, NULL, NULL, g_free);
	o->fd = -1;
	o->record = -1;
	o->writer = -1;
	o->owner = -1;
	*error = url_is(m->path) ? url_check(m->path) : NULL;
	/* A folder's server runs elsewhere than the shell that gave the path. */
	if (!*error)
		o->info.path = url_is(m->path) ? strdup(m->path) : realpath(m->path, NULL);
	if (!*error && !o->info.path)
		*error = why_errno(m->path, "cannot be shared", errno);
	if (*error) {
		offer_free(o);
		return NULL;
	}
	o->info.name = m->name ? g_strdup(m->name) : name_of(o, m->path);
	*error = take(o, m);
	if (*error) {
		offer_free(o);
		return NULL;
	}
	renew(o);
	identity_recall(o);
	identity_keep(o);
	set_info(o);
	o->info.ready = o->source == OFFER_FILE;
	return o;
}

void offer_free(struct offer *o)
{
	if (o->folder)
		folder_stop(o->folder);
	if (o->record >= 0)
		close(o->record);
	if (o->fd >= 0)
		close(o->fd);
	free((char *)o->info.path);	/* realpath's */
	g_free((char *)o->info.name);
	g_hash_table_destroy(o->who);
	g_free(o);
}

void offer_set_inserted(struct offer *o, unsigned int drive, bool inserted)
{
	uint8_t bit = 1u << drive % 8;

	o->info.ever_inserted |= inserted;
	if (inserted)
		o->inserted[drive / 8] |= bit;
	else
		o->inserted[drive / 8] &= ~bit;
	offer_set_locked(o, drive, false, "");
}

void offer_set_locked(struct offer *o, unsigned int drive, bool locked, const char *text)
{
	uint8_t bit = 1u << drive % 8;

	if (locked && *text)
		g_hash_table_insert(o->who, GUINT_TO_POINTER(drive), g_strdup(text));
	else
		g_hash_table_remove(o->who, GUINT_TO_POINTER(drive));

	if (locked)
		o->users[drive / 8] |= bit;
	else
		o->users[drive / 8] &= ~bit;
}

void offers_sweep(struct spicebd_share *share)
{
	for (GList *l = share->withdrawn, *next; l; l = next) {
		struct offer *o = l->data;

		next = l->next;
		if (offer_has_streams(o) || server_count(share, -1, o))
			continue;
		share->withdrawn = g_list_delete_link(share->withdrawn, l);
		offer_free(o);
	}
}

static gboolean on_sweep(gpointer data)
{
	struct spicebd_share *share = data;

	share->sweep = 0;
	offers_sweep(share);
	return G_SOURCE_REMOVE;
}

void offers_sweep_later(struct spicebd_share *share)
{
	if (share->withdrawn && !share->sweep && !share->freed)
		share->sweep = g_idle_add(on_sweep, share);
}

bool offer_inserted(const struct offer *o, int drive)
{
	static const uint8_t none[sizeof(o->inserted)];

	if (drive < 0)
		return memcmp(o->inserted, none, sizeof(none));
	return o->inserted[drive / 8] & 1u << drive % 8;
}

struct offer *offer_find(struct spicebd_share *share, uint32_t id)
{
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (o->info.id == id && o->info.ready)
			return o;
	}
	return NULL;
}

/*
 * A medium that others write is not the one that was offered: what the drive
 * has cached of it is wrong. Our own writes move the time of a writable one, so
 * there only the size can tell.
 */
bool offer_unchanged(struct offer *o)
{
	struct stat st;

	if (o->source != OFFER_FILE)
		return true;
	if (fstat(o->fd, &st) < 0 || file_size(o->fd, &st) != (int64_t)o->info.size)
		return false;
	return !o->regular || !o->read_only ||
	       (st.st_mtim.tv_sec == o->mtime_s && st.st_mtim.tv_nsec == o->mtime_ns);
}

void offer_to_frame(const struct offer *o, unsigned int drive, struct frame_offer *f)
{
	memset(f, 0, sizeof(*f));
	f->id = o->info.id;
	f->size = o->info.size;
	f->kind = o->kind;
	f->flags = FRAME_OFFER_MULTI;	/* the servers of a file meet in its page cache */
	if (o->read_only)
		f->flags |= FRAME_OFFER_READ_ONLY;
	if (o->durable)
		f->flags |= FRAME_OFFER_DURABLE;
	if (o->writer >= 0 && o->writer != drive)
		f->flags |= FRAME_OFFER_BUSY;
	if (o->owner >= 0 && o->owner != site_of(drive))
		f->flags |= FRAME_OFFER_AWAY;
	f->owner_epoch = o->owner_epoch;
	memcpy(f->medium_id, o->medium_id, sizeof(f->medium_id));
	memcpy(f->incarnation, o->incarnation, sizeof(f->incarnation));
	f->name_len = strlen(o->info.name);
	memcpy(f->name, o->info.name, f->name_len);
}
