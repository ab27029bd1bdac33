// SPDX-License-Identifier: GPL-2.0-only
/*
 * Making a snapshot: everything that can be wanting is there before the drive is
 * frozen; while it is, nothing is under way and all that was written is on the
 * store, and in that moment the copying begins.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control.h"
#include "drive.h"
#include "freeze.h"
#include "log.h"
#include "snapshot_impl.h"
#include "sock.h"
#include "stack.h"

#define HOLDER		"snapshot"
#define FREEZE_S	30
#define WATCH_MS	1000
/* The kernel takes the drive from a helper that is silent for longer. */
#define SCRATCH_MS	10000
#define CLIENTS_MAX	16
/* Of a share's port's streams, of which the drive and exports have some. */
#define SHARE_CLIENTS_MAX 4

/* ---- where its files lie */

/* Another drive's medium may be a file that lies on this one. */
static int below(const char *name)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (!strcmp(d->k.name, name))
			return d->medium ? source_file_opened(d->medium->source) : -1;
	return -1;
}

static int off_drive(const struct drive *d, int fd, const char *what, struct derr *e)
{
	char by[200];

	if (!stack_contains(fd, d->k.name, by, sizeof(by)))
		return 0;
	return derr_set(e, ELOOP, "drive %s: cannot make a snapshot: %s lies on the drive itself"
			"%s%s%s: put it somewhere else", d->k.name, what, by[0] ? " (by way of " : "",
			by, by[0] ? ")" : "");
}

static int path_off_drive(const struct drive *d, const char *path, const char *what,
			  struct derr *e)
{
	int fd = open(path, O_PATH | O_CLOEXEC), r;

	if (fd < 0)
		return 0;
	r = off_drive(d, fd, what, e);
	close(fd);
	return r;
}

/* What is logged while the drive waits for it must not wait for the drive. */
static int logs_off_drive(const struct drive *d, struct derr *e)
{
	struct stat st;

	if (fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode))
		return off_drive(d, STDERR_FILENO, "spicebdd's log", e);
	return path_off_drive(d, "/var/log/journal", "the journal", e);
}

static int check_places(const struct snapshot *s, struct derr *e)
{
	const struct drive *d = s->m->drive;
	char *dir = g_path_get_dirname(s->socket);
	int r;

	stack_on_below(below);
	r = off_drive(d, s->scratch, "the scratch file", e);
	if (!r)
		r = path_off_drive(d, dir, "the socket", e);
	if (!r)
		r = path_off_drive(d, run_dir(), "spicebdd's run directory", e);
	if (!r)
		r = logs_off_drive(d, e);
	g_free(dir);
	return r;
}

/* ---- its files */

static int open_scratch(struct snapshot *s, struct derr *e)
{
	char path[40];
	struct stat st;

	if (fstat(s->scratch, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (fcntl(s->scratch, F_GETFL) & O_ACCMODE) != O_RDWR)
		return derr_set(e, EINVAL, "the scratch file must be a file that can be read and "
				"written");
	/* One that QEMU's tools made has the medium's size, and nothing in it. */
	if (st.st_size && (st.st_size != (off_t)s->m->props.size ||
			   lseek(s->scratch, 0, SEEK_DATA) != -1 || errno != ENXIO))
		return derr_set(e, EEXIST, "the scratch file is not empty");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->scratch);
	/* Whom strangers talk to gets one with which nothing can be changed. */
	s->scratch_read = open(path, O_RDONLY | O_CLOEXEC);
	if (s->scratch_read < 0)
		return derr_set(e, errno, "the scratch file: %s", strerror(errno));
	if (ftruncate(s->scratch, s->m->props.size) < 0)
		return derr_set(e, errno, "the scratch file cannot be as large as the medium: %s",
				strerror(errno));
	return 0;
}

static int open_map(struct snapshot *s, struct derr *e)
{
	const struct nbd_props *p = &s->m->props;
	uint32_t cluster = snapmap_cluster(p->size);

	if (!cluster)
		return derr_set(e, EFBIG, "drive %s: the medium is too large for a snapshot",
				s->m->drive->k.name);
	if (p->max_payload < cluster || p->min_block > cluster)
		return derr_set(e, EOPNOTSUPP, "drive %s: the server takes no reads of %u bytes, "
				"which a snapshot needs", s->m->drive->k.name, cluster);
	s->map_fd = snapmap_create(&s->map, p->size, cluster);
	if (s->map_fd < 0)
		return derr_set(e, -s->map_fd, "no memory for a snapshot: %s",
				strerror(-s->map_fd));
	if (pipe2(s->life, O_CLOEXEC) < 0) {
		s->life[0] = s->life[1] = -1;
		return derr_set(e, errno, "no pipe for a snapshot: %s", strerror(errno));
	}
	return 0;
}

/* ---- what goes wrong later */

static void on_failed(void *arg)
{
	struct snapshot *s = arg;

	/* It may be gone, or another one by now. */
	if (!g_list_find(snapshots, s) || s->state != SNAPSHOT_STANDS || !cbw_over(s->c, s->why))
		return;
	log_err("snapshot '%s' of drive %s has failed: %s", s->name, s->m->drive->k.name, s->why);
	s->state = SNAPSHOT_FAILED;
	if (s->node)
		control_job_event(s->name, s->m->props.size, cbw_copied(s->c), s->why);
	if (s->m->io)
		io_set_cbw(s->m->io, NULL);
	snapshot_changed(s);
	control_snapshot_event(s->m->drive->k.name, s->name, "failed", s->why);
	/* Nobody dismisses a job that was completed. */
	if (s->node)
		snapshot_end(s, s->why);
}

void snapshot_failed(void *arg)
{
	main_post(on_failed, arg);
}

static gboolean watch(gpointer arg)
{
	struct snapshot *s = arg;

	if (s->state == SNAPSHOT_STANDS)
		cbw_watch(s->c, now_ms());
	return G_SOURCE_CONTINUE;
}

/* ---- the steps */

static void given_up(int r, const struct derr *e, void *arg)
{
	snapshot_free(arg);
}

static void give_up(struct snapshot *s, const struct derr *e)
{
	snapshot_made_fn made = s->made;
	void *arg = s->made_arg;

	log_notice("snapshot '%s': %s", s->name, e->text);
	s->state = SNAPSHOT_ENDING;
	snapshot_changed(s);
	if (s->server)
		exportd_stop(s->server, given_up, s);
	else
		snapshot_free(s);
	made(-e->code, NULL, e, arg);
}

static int still_there(const struct snapshot *s, struct derr *e)
{
	if (s->gone || s->m->state != MEDIUM_IN)
		return derr_set(e, ENOMEDIUM, "drive %s: the medium is gone", s->m->drive->k.name);
	if (!s->m->io || !s->m->link_up)
		return derr_set(e, ENOTCONN, "drive %s: the far end is lost", s->m->drive->k.name);
	return 0;
}

static int limit_ms(const struct drive *d)
{
	if (!d->k.stall_timeout)
		return SCRATCH_MS;
	return MIN(SCRATCH_MS, (int)MIN(d->k.stall_timeout, 1000u) * 1000 / 3);
}

/* From here until the thaw it is that moment. */
static int begin(struct snapshot *s, struct derr *e)
{
	const struct cbw_params p = {
		.map = s->map, .scratch = s->scratch, .limit_ms = limit_ms(s->m->drive),
		.failed = snapshot_failed, .arg = s,
	};

	s->c = cbw_new(&p);
	if (!s->c)
		return derr_set(e, ENOMEM, "no memory, or no thread, for a snapshot");
	s->scratch = -1;
	io_set_cbw(s->m->io, s->c);
	/* Who is no holder any more may have let writes pass before that. */
	if (freeze_release(s->m->drive, HOLDER) == 0)
		return 0;
	cbw_end(s->c, ETIMEDOUT, "it was never complete");
	io_set_cbw(s->m->io, NULL);
	return derr_set(e, ETIMEDOUT, "drive %s: it did not stay frozen long enough",
			s->m->drive->k.name);
}

static void frozen(int r, const struct derr *why, void *arg)
{
	struct snapshot *s = arg;
	struct derr e;

	if (r < 0) {
		give_up(s, why);
		return;
	}
	r = still_there(s, &e);
	if (r < 0)
		freeze_release(s->m->drive, HOLDER);
	else
		r = begin(s, &e);
	if (r < 0) {
		give_up(s, &e);
		return;
	}
	s->state = SNAPSHOT_STANDS;
	s->since = now_ms();
	s->watch = g_timeout_add(WATCH_MS, watch, s);
	log_info("snapshot '%s' of drive %s stands", s->name, s->m->drive->k.name);
	control_snapshot_event(s->m->drive->k.name, s->name, "created", NULL);
	s->made(0, snapshot_object(s, true), NULL, s->made_arg);
}

static void announced(int r, const struct derr *why, void *arg)
{
	struct snapshot *s = arg;
	struct derr e;

	if (r < 0) {
		give_up(s, why);
		return;
	}
	if (still_there(s, &e) < 0) {
		give_up(s, &e);
		return;
	}
	freeze_for(s->m->drive, HOLDER, FREEZE_S, frozen, s);
}

static void started(int r, const struct derr *e, void *arg)
{
	struct snapshot *s = arg;

	if (r < 0)
		give_up(s, e);
	else
		snapshot_announce(s, announced);
}

static int set_name(struct snapshot *s, const char *name, struct derr *e)
{
	bool good = name && *name && strlen(name) <= SNAPSHOT_NAME_MAX && g_ascii_isalnum(*name);
	char first[16];

	for (unsigned int i = 0; !name && i <= SNAPSHOTS_MAX && !s->name; i++) {
		snprintf(first, sizeof(first), "s%u", i);
		if (!snapshot_find(first))
			s->name = g_strdup(first);
	}
	if (s->name)
		return 0;
	for (const char *p = name; good && *p; p++)
		good = g_ascii_isalnum(*p) || strchr("-._", *p);
	if (!good)
		return derr_set(e, EINVAL, "a snapshot's name is 1 to %d letters, digits or . _ -",
				SNAPSHOT_NAME_MAX);
	if (snapshot_find(name))
		return derr_set(e, EEXIST, "snapshot '%s' exists already", name);
	s->name = g_strdup(name);
	return 0;
}

static int set_socket(struct snapshot *s, const char *path, struct derr *e)
{
	char own[108];

	if (!path) {
		if (!run_path(own, sizeof(own), "snapshot") ||
		    (mkdir(own, 0755) < 0 && errno != EEXIST) ||
		    !run_path(own, sizeof(own), "snapshot/%s.sock", s->name))
			return derr_set(e, errno, "no place for the socket below %s: %s",
					run_dir(), strerror(errno));
		path = own;
	}
	if (path[0] != '/' || strlen(path) >= sizeof(own))
		return derr_set(e, EINVAL, "the socket's path is absolute, and of %zu bytes at "
				"most", sizeof(own) - 1);
	s->socket = g_strdup(path);
	return 0;
}

static int check_drive(struct drive *d, struct derr *e)
{
	int r = drive_refresh(d, e);

	if (!r)
		r = blockers_check(d, OP_SNAPSHOT, false, e);
	if (r < 0)
		return r;
	if (g_list_length(snapshots) >= SNAPSHOTS_MAX)
		return derr_set(e, ENOSPC, "there are %d snapshots: delete one", SNAPSHOTS_MAX);
	return d->medium->source->type == SOURCE_NBD ?
	       source_nbd_check_plain(d->medium->source, e) : 0;
}

static int prepare(struct snapshot *s, const struct snapshot_args *a, struct derr *e)
{
	int r = set_name(s, a->name, e);

	if (!r)
		r = set_socket(s, a->socket, e);
	if (!r)
		r = check_places(s, e);
	if (!r)
		r = open_scratch(s, e);
	return r ? r : open_map(s, e);
}

void snapshot_create(const struct snapshot_args *a, snapshot_made_fn done, void *arg)
{
	struct export_job job = { .family = EXPORT_UNIX };
	struct snapshot *s;
	struct derr e;

	if (check_drive(a->d, &e) < 0) {
		close(a->scratch);
		done(-e.code, NULL, &e, arg);
		return;
	}
	s = g_new0(struct snapshot, 1);
	s->m = medium_ref(a->d->medium);
	s->map_fd = s->scratch_read = s->life[0] = s->life[1] = -1;
	s->scratch = a->scratch;
	s->scratch_name = g_strdup(a->scratch_name ?: "");
	s->node = g_strdup(a->node);
	s->made = done;
	s->made_arg = arg;
	if (prepare(s, a, &e) < 0) {
		snapshot_free(s);
		done(-e.code, NULL, &e, arg);
		return;
	}
	snapshots = g_list_append(snapshots, s);
	s->server = exportd_new(&snapshot_ops, s);
	g_strlcpy(job.path, s->socket, sizeof(job.path));
	job.max_clients = s->m->source->type == SOURCE_SPICE ? SHARE_CLIENTS_MAX : CLIENTS_MAX;
	exportd_start(s->server, &job, started, s);
}
