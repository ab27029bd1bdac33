// SPDX-License-Identifier: GPL-2.0-only
/*
 * A local file, block device or folder, served by a spicebd-nbdkit of its own,
 * which outlives us and can fence its server.
 */
#include "source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hex.h"
#include "log.h"
#include "member.h"
#include "nbdkitproto.h"
#include "sock.h"

#define CTL_TIMEOUT_MS	10000
/* So that a request which ends its server does not do so for ever. */
#define RESTARTS_MAX	5
#define RESTART_WINDOW_MS	60000

struct source_file {
	struct source s;
	/*
	 * First what was given to us, then what the server serves: ours to keep,
	 * so that another server can be started on it when this one is killed.
	 * Guarded by fd_lock, as are the next two.
	 */
	int fd;
	bool served;			/* fd is that: a folder's image, not the folder */
	bool out;			/* the medium is: no more servers */
	int restarts;
	long long restarts_since;
	bool fd_read_only;
	bool folder;
	char id[NBDKIT_ID_LEN + 1];
	uint8_t incarnation[16];
	bool started;
};

/* The tasks that open and resume a source, and the main thread that ends it. */
static GMutex fd_lock;

/* Servers that are being ended: their files may not be opened anew before. */
static gint stopping;

static struct source_file *file_of(struct source *s)
{
	return (struct source_file *)s;
}

/* @medium: out: the descriptor that came with it, or -1; NULL: none is wanted */
static int wait_answer(int fd, struct nbdkit_answer *a, int *medium, struct task *t,
		       struct derr *e)
{
	ssize_t n;
	int r = task_poll(t, fd, POLLIN, "spicebd-nbdkit", e), got;

	if (r < 0)
		return r;
	n = sock_recv_fd(fd, a, sizeof(*a), &got);
	if (medium)
		*medium = got;
	else if (got >= 0)
		close(got);
	if (n != sizeof(*a) || a->magic != NBDKIT_PROTO_MAGIC)
		return derr_set(e, EPROTO, "spicebd-nbdkit ended without an answer: see its log");
	a->text[sizeof(a->text) - 1] = '\0';
	if (a->error)
		return derr_set(e, a->error > 0 && a->error < 4096 ? a->error : EIO, "%s",
				a->text[0] ? a->text : strerror(a->error));
	return 0;
}

static int start_server(struct source_file *f, int medium, struct task *t, struct derr *e)
{
	struct nbdkit_job job = {
		.magic = NBDKIT_PROTO_MAGIC,
		.mode = NBDKIT_FILE,
	};
	struct nbdkit_answer a;
	char path[108];
	int fd, r;

	if (f->folder && !f->served)
		job.mode = f->s.folder_as_disk ? NBDKIT_FOLDER_FAT : NBDKIT_FOLDER_ISO;
	if (f->fd_read_only || f->s.read_only || f->folder)
		job.flags |= NBDKIT_JOB_READ_ONLY;
	memcpy(job.id, f->id, sizeof(job.id));
	if (f->folder)
		g_strlcpy(job.label, f->s.name, sizeof(job.label));
	if (!run_path(path, sizeof(path), "nbdkit.sock"))
		return derr_set(e, ENAMETOOLONG, "the run directory's path is too long");
	fd = sock_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK);
	if (fd < 0)
		return derr_set(e, -fd, "cannot reach %s: %s: is spicebd-supervisor or "
				"spicebd-nbdkit.socket running?", path, strerror(-fd));
	r = sock_send_fd(fd, &job, sizeof(job), medium);
	r = r < 0 ? derr_set(e, -r, "spicebd-nbdkit: %s", strerror(-r)) :
		wait_answer(fd, &a, NULL, t, e);
	close(fd);
	if (r < 0)
		return r;
	memcpy(f->incarnation, a.incarnation, sizeof(f->incarnation));
	f->started = true;
	return 0;
}

static int control(const char *id, uint32_t cmd, struct nbdkit_answer *a, int *medium,
		   struct task *t, struct derr *e)
{
	struct nbdkit_ctl c = { .magic = NBDKIT_PROTO_MAGIC, .cmd = cmd };
	char path[108];
	int fd, r;

	if (!run_path(path, sizeof(path), "nbdkit/%s.ctl", id))
		return derr_set(e, ENAMETOOLONG, "the run directory's path is too long");
	fd = sock_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK);
	if (fd < 0)
		return derr_set(e, -fd, "the file's server is gone: %s: %s", path, strerror(-fd));
	r = sock_send_fd(fd, &c, sizeof(c), -1);
	r = r < 0 ? derr_set(e, -r, "spicebd-nbdkit: %s", strerror(-r)) :
		wait_answer(fd, a, medium, t, e);
	close(fd);
	return r;
}

static void drop_medium(struct source_file *f, bool out)
{
	g_mutex_lock(&fd_lock);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	f->served = false;
	f->out |= out;
	g_mutex_unlock(&fd_lock);
}

/* Without it all goes well until the server is killed. */
static void get_medium(struct source_file *f, struct task *t)
{
	struct nbdkit_answer a;
	struct derr e;
	int fd = -1;

	if (f->served)
		return;
	if (control(f->id, NBDKIT_CTL_MEDIUM, &a, &fd, t, &e) < 0 || fd < 0) {
		log_warn("its server does not hand out the opened file '%s'; if it is killed, "
			 "the medium is lost", f->s.name);
		return;
	}
	g_mutex_lock(&fd_lock);
	if (f->out) {
		close(fd);
	} else {
		f->fd = fd;
		f->served = true;
		f->fd_read_only = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
	}
	g_mutex_unlock(&fd_lock);
}

static int file_open(struct source *s, struct task *t, struct derr *e)
{
	struct source_file *f = file_of(s);
	uint8_t raw[NBDKIT_ID_LEN / 2];
	int r;

	for (;;) {
		uint64_t seq = change_seq();

		if (!g_atomic_int_get(&stopping))
			break;
		r = task_wait(t, seq, "the server of a medium just ejected ends", e);
		if (r < 0)
			return r;
	}
	random_bytes(raw, sizeof(raw));
	hex_encode(raw, sizeof(raw), f->id);
	r = start_server(f, f->fd, t, e);
	if (r < 0)
		return r;
	if (f->folder)
		drop_medium(f, false);
	f->served = !f->folder;
	get_medium(f, t);
	return 0;
}

/* What a killed one left. Its lock says whether an nbdkit of it still lives. */
static void remove_leftovers(const char *id)
{
	static const char * const names[] = { "sock", "ctl", "lock" };
	char path[108];
	int fd;

	if (!run_path(path, sizeof(path), "nbdkit/%s.lock", id))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
			if (run_path(path, sizeof(path), "nbdkit/%s.%s", id, names[i]))
				unlink(path);
	close(fd);
}

static void stop_server(struct task *t, void *arg)
{
	struct nbdkit_answer a;
	struct derr e;
	char *id = arg;

	if (control(id, NBDKIT_CTL_STOP, &a, NULL, t, &e) < 0) {
		if (e.code == ECONNREFUSED)
			remove_leftovers(id);
		else if (e.code != ENOENT)
			log_warn("the server of an ejected file does not end: %s", e.text);
	}
	g_free(id);
	g_atomic_int_add(&stopping, -1);
	change_wake();
}

static void stop_by_id(const char *id)
{
	struct task *t;
	char *copy = g_strdup(id);

	g_atomic_int_inc(&stopping);
	t = task_new("nbdkit-stop", now_ms() + CTL_TIMEOUT_MS, stop_server, copy);
	if (!t || !task_run(t)) {
		g_atomic_int_add(&stopping, -1);
		g_free(copy);
	}
	task_unref(t);
}

static int restart_allowed(struct source_file *f, struct derr *e)
{
	if (now_ms() - f->restarts_since > RESTART_WINDOW_MS) {
		f->restarts = 0;
		f->restarts_since = now_ms();
	}
	if (f->restarts++ < RESTARTS_MAX)
		return 0;
	return derr_set(e, ESTALE, "its server was killed more than %d times in %d s",
			RESTARTS_MAX, RESTART_WINDOW_MS / 1000);
}

/*
 * It was killed, and its nbdkit with it. Another one of the same id starts only
 * if it can take the lock that both held: that is the fence.
 */
static int restart_server(struct source_file *f, struct source_resume *out, struct task *t,
			  struct derr *e)
{
	bool gone;
	int fd, r;

	g_mutex_lock(&fd_lock);
	fd = f->served ? fcntl(f->fd, F_DUPFD_CLOEXEC, 0) : -1;
	g_mutex_unlock(&fd_lock);
	if (fd < 0)
		return derr_set(e, ESTALE, "its server is gone, and the descriptor of the file "
				"with it");
	r = restart_allowed(f, e);
	if (!r)
		r = start_server(f, fd, t, e);
	close(fd);
	if (r < 0)
		return r;
	log_notice("the server of '%s' was killed: another one serves it", f->s.name);
	g_mutex_lock(&fd_lock);
	gone = f->out;
	g_mutex_unlock(&fd_lock);
	if (gone) {
		stop_by_id(f->id);
		return derr_set(e, ECANCELED, "the medium is out");
	}
	out->fenced = true;
	return 0;
}

static int file_resume(struct source *s, bool need_fence, struct source_resume *out,
		       struct task *t, struct derr *e)
{
	struct source_file *f = file_of(s);
	struct nbdkit_answer a;
	int r;

	r = control(f->id, need_fence ? NBDKIT_CTL_FENCE : NBDKIT_CTL_STATUS, &a, NULL, t, e);
	if (r == -ECONNREFUSED)
		return restart_server(f, out, t, e);
	if (r == -ENOENT)
		return derr_set(e, ESTALE, "its server gave up: see the log of spicebd-nbdkit");
	if (r < 0)
		return r;
	get_medium(f, t);
	/*
	 * The descriptor is the same, so the file, or the folder's image, is; what
	 * the page cache took is not lost with the server.
	 */
	memcpy(f->incarnation, a.incarnation, sizeof(f->incarnation));
	out->fenced = need_fence;
	return 0;
}

static int file_stream(struct source *s, char **name, struct task *t, struct derr *e)
{
	struct source_file *f = file_of(s);
	char path[108];
	int fd;

	if (!run_path(path, sizeof(path), "nbdkit/%s.sock", f->id))
		return derr_set(e, ENAMETOOLONG, "the run directory's path is too long");
	fd = sock_connect(path, SOCK_STREAM);
	if (fd < 0)
		return derr_set(e, -fd, "the file's server does not listen: %s", strerror(-fd));
	*name = g_strdup("");
	return fd;
}

static struct nbd_handle *file_connect(struct source *s, struct task *t, struct derr *e)
{
	g_autofree char *name = NULL;
	int fd = file_stream(s, &name, t, e);

	return fd < 0 ? NULL : nbdconn_socket(fd, t, e);
}

static void file_notice(struct source *s, enum source_notice what, const char *text)
{
}

static void file_out(struct source *s, bool unanswered)
{
	struct source_file *f = file_of(s);

	if (f->started)
		stop_by_id(f->id);
	f->started = false;
	drop_medium(f, true);
}

static void file_save(struct source *s, JsonObject *o)
{
	struct source_file *f = file_of(s);
	char hex[2 * sizeof(f->incarnation) + 1];

	hex_encode(f->incarnation, sizeof(f->incarnation), hex);
	json_object_set_string_member(o, "nbdkit-id", f->id);
	json_object_set_string_member(o, "incarnation", hex);
	json_object_set_boolean_member(o, "folder", f->folder);
}

static int file_load(struct source *s, JsonObject *o)
{
	struct source_file *f = file_of(s);
	const char *id = member_str(o, "nbdkit-id", "");
	const char *inc = member_str(o, "incarnation", "");
	uint8_t raw[NBDKIT_ID_LEN / 2];

	if (!hex_decode(id, raw, sizeof(raw)) ||
	    !hex_decode(inc, f->incarnation, sizeof(f->incarnation)))
		return -EINVAL;
	g_strlcpy(f->id, id, sizeof(f->id));
	f->folder = member_bool(o, "folder", TRUE);
	f->started = true;
	return 0;
}

static void file_free(struct source *s)
{
	struct source_file *f = file_of(s);

	if (f->fd >= 0)
		close(f->fd);
	g_free(f);
}

static const struct source_ops file_ops = {
	.open = file_open,
	.resume = file_resume,
	.connect = file_connect,
	.stream = file_stream,
	.notice = file_notice,
	.close = file_out,
	.save = file_save,
	.load = file_load,
	.free = file_free,
};

/* Two media on one file would write under each other's feet: the file is the store. */
static int look_at(struct source_file *f, struct derr *e)
{
	uint64_t key[4] = { 0 };
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return derr_set(e, errno, "%s: %s", f->s.uri, strerror(errno));
	f->folder = S_ISDIR(st.st_mode);
	if (!f->folder && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return derr_set(e, EINVAL, "'%s' is not a file, block device or folder: "
				"it cannot be a medium", f->s.uri);
	f->fd_read_only = (fcntl(f->fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
	key[0] = S_ISBLK(st.st_mode) ? 1 : 2;
	key[1] = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	key[2] = S_ISBLK(st.st_mode) ? 0 : st.st_ino;
	f->s.store_len = sizeof(key);
	memcpy(f->s.store, key, sizeof(key));
	f->s.offer_read_only = f->fd_read_only || f->folder;
	if (f->folder)
		f->s.kind = KIND_CDROM;
	return 0;
}

struct source *source_file_new(int fd, const char *filename, struct derr *e)
{
	struct source_file *f = g_new0(struct source_file, 1);
	char *base = g_path_get_basename(filename);

	f->s.refs = 1;
	f->s.ops = &file_ops;
	f->s.type = SOURCE_FILE;
	f->s.uri = g_strdup(filename);
	f->s.name = source_clean_name(base);
	f->s.drive = -1;
	f->fd = fd;
	g_free(base);
	if (fd >= 0 && look_at(f, e) < 0) {
		source_unref(&f->s);
		return NULL;
	}
	return &f->s;
}

int source_file_opened(const struct source *s)
{
	const struct source_file *f = (const struct source_file *)s;
	int fd = -1;

	if (s->type != SOURCE_FILE)
		return -1;
	g_mutex_lock(&fd_lock);
	if (f->fd >= 0)
		fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	g_mutex_unlock(&fd_lock);
	return fd;
}

const char *source_file_id(const struct source *s)
{
	return s->type == SOURCE_FILE ? ((const struct source_file *)s)->id : NULL;
}

void source_file_reap(bool (*keep)(const char *id))
{
	char path[108];
	struct dirent *d;
	DIR *dir;

	if (!run_path(path, sizeof(path), "nbdkit") || !(dir = opendir(path)))
		return;
	while ((d = readdir(dir))) {
		uint8_t raw[NBDKIT_ID_LEN / 2];
		char id[NBDKIT_ID_LEN + 1];

		if (strlen(d->d_name) != NBDKIT_ID_LEN + 4 ||
		    strcmp(d->d_name + NBDKIT_ID_LEN, ".ctl"))
			continue;
		g_strlcpy(id, d->d_name, sizeof(id));
		if (hex_decode(id, raw, sizeof(raw)) && !keep(id)) {
			log_notice("ending a file server that no medium uses");
			stop_by_id(id);
		}
	}
	closedir(dir);
}
