// SPDX-License-Identifier: GPL-2.0-only
/*
 * An insert is one task. What may take long (finding the source, connecting,
 * waiting for the kernel) it does itself; each look at drives and media is a
 * step on the main thread. The old medium stays until the new one is there.
 */
#include "insert.h"

#include <errno.h>
#include <string.h>

#include "drive.h"
#include "export.h"
#include "inuse.h"
#include "log.h"
#include "medium.h"
#include "room.h"
#include "sock.h"
#include "state.h"

#define GUARD_MS	2000
#define AGAIN_MS	10
#define TRIES		16

struct insert {
	struct insert_args a;
	insert_done_fn done;
	void *arg;
	struct task *task;
	guint guard;
	bool answered;

	struct drive *d;
	bool blocked;			/* our blocker is on the drive */
	bool made;			/* the drive was made for this insert */
	struct medium *m;		/* ours: a reference */
	bool placed;			/* ... and the drive's */
	bool again;			/* its tray was closed under us */
	struct nbd_handle *h[IO_QUEUES_MAX];
	unsigned int n;
	struct nbd_props props;
	enum medium_kind kind;
	bool read_only;
	unsigned int conns;
	bool ready;
	int r;
	struct derr e;
};

/* Drives. */

static bool fits(const struct drive *d, uint32_t personality)
{
	return d->k.personality == personality && !drive_has_medium(d) && !d->medium &&
	       !d->blockers && !(d->k.state & (SPICEBD_STATE_STALE | SPICEBD_STATE_FREEZING));
}

static uint32_t wanted_personality(const struct insert *in)
{
	if (in->a.personality >= 0)
		return in->a.personality;
	/* UDF may be written to, but not in a cdrom drive. */
	if (in->kind == KIND_CDROM && in->a.mode != RO_READ_WRITE)
		return SPICEBD_PERSONALITY_CDROM;
	return SPICEBD_PERSONALITY_DISK;
}

static int take_drive(struct insert *in, struct drive *d)
{
	int r = blockers_check(d, in->a.replace ? OP_CHANGE : OP_INSERT, in->a.force, &in->e);

	/* Of a tray that is to be open, and is full, room_check() knows QEMU's words. */
	if (r < 0 && !(r == -EEXIST && in->a.open_tray))
		return r;
	in->d = d;
	in->blocked = true;
	d->blockers |= BLOCK_INSERT;
	d->op = task_ref(in->task);
	return 0;
}

static int choose(struct insert *in)
{
	struct kernel_drive_new args = { .personality = wanted_personality(in) };
	struct drive *d;
	int r;

	if (in->d)
		return 0;
	for (d = drive_first(); d; d = drive_next(d))
		if (fits(d, args.personality))
			return take_drive(in, d);
	r = drive_add(&args, &d, &in->e);
	if (r < 0)
		return r;
	in->made = true;
	return take_drive(in, d);
}

static void step_choose(void *arg)
{
	struct insert *in = arg;

	in->r = choose(in);
	if (!in->r)
		in->a.source->drive = in->d->index;
}

/* The medium. */

static struct room room_of(const struct insert *in)
{
	return (struct room) {
		.d = in->d, .replace = in->a.replace, .force = in->a.force,
		.on_tray = in->a.open_tray, .patience = in->a.patience,
	};
}

static int check_room(struct insert *in)
{
	struct room room = room_of(in);
	int r = room_check(&room);

	/* Who has the old medium open may be gone when the new one is ready. */
	if (r == -EUCLEAN)
		return 0;
	if (r < 0)
		in->e = room.e;
	return r;
}

static int check_size(struct insert *in)
{
	uint32_t block = drive_has_tray(in->d) ? 2048 : 512;
	const struct nbd_props *p = &in->props;

	if (!p->size)
		return derr_set(&in->e, ENOMEDIUM, "the medium is empty (0 bytes)");
	if (p->size < block)
		return derr_set(&in->e, EINVAL, "the medium is smaller (%llu bytes) than one block "
				"of %u bytes", (unsigned long long)p->size, block);
	if (p->size % block && block == 2048 && !(p->size % 512))
		return derr_set(&in->e, EINVAL, "the medium's size, %llu bytes, is no multiple of "
				"a CD's block of 2048: insert it as a disk",
				(unsigned long long)p->size);
	if (p->size % block)
		return derr_set(&in->e, EINVAL, "the medium's size, %llu bytes, is no multiple of "
				"%u: enlarge it to %llu", (unsigned long long)p->size, block,
				(unsigned long long)(p->size / block + 1) * block);
	if (p->min_block > block)
		return derr_set(&in->e, EINVAL, "the server's smallest block is %u bytes, the "
				"drive's is %u: put 'nbdkit -U SOCKET --filter=blocksize nbd URI' "
				"before it, and insert nbd+unix:///?socket=SOCKET",
				p->min_block, block);
	return 0;
}

static int check_mode(struct insert *in)
{
	bool server_ro = in->props.read_only || in->a.source->offer_read_only;

	in->read_only = server_ro || in->a.mode == RO_READ_ONLY || drive_has_tray(in->d);
	if (in->a.far.cache > 0 && !in->read_only)
		return derr_set(&in->e, EINVAL, "only a read-only medium can have a cache: insert "
				"it read-only, or without one");
	if (in->a.mode != RO_READ_WRITE)
		return 0;
	if (drive_has_tray(in->d))
		return derr_set(&in->e, EROFS, "drive %s is a cdrom: it is read-only",
				in->d->k.name);
	if (server_ro)
		return derr_set(&in->e, EROFS, "the source is read-only: writing is not allowed "
				"there");
	return 0;
}

/* One store in two drives, one of them writing: its file system would break. */
static int check_shared(struct insert *in)
{
	const struct source *s = in->a.source;

	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		const struct medium *m = d->medium;

		if (!m || d == in->d || m->source->type != s->type || !s->store_len ||
		    m->source->store_len != s->store_len ||
		    memcmp(m->source->store, s->store, s->store_len))
			continue;
		if (!m->read_only || !in->read_only)
			return derr_set(&in->e, EBUSY, "the medium is in drive %s already, and "
					"one of the two would write to it", d->k.name);
	}
	return exports_check_store(s, &in->e);
}

static void step_check(void *arg)
{
	struct insert *in = arg;
	unsigned int most;

	in->r = check_room(in);
	if (!in->r)
		in->r = check_size(in);
	if (!in->r)
		in->r = check_mode(in);
	if (!in->r)
		in->r = check_shared(in);
	most = MIN(in->d->k.nr_queues, IO_QUEUES_MAX);
	in->conns = in->props.multi ? most : 1;
}

static void make_id(struct insert *in, struct medium *m)
{
	const struct source *s = in->a.source;

	m->id[0] = 1 + s->type;
	if (s->type == SOURCE_SPICE) {
		memcpy(m->id + 1, s->store, s->store_len);
		m->id_len = 1 + s->store_len;
	} else if (s->type == SOURCE_NBD) {
		memcpy(m->id + 1, in->props.digest, NBD_DIGEST_LEN);
		m->id_len = 1 + NBD_DIGEST_LEN;
	} else {
		random_bytes(m->id + 1, 16);
		m->id_len = 17;
	}
}

/*
 * Whoever opens an empty drive closes its tray, and it need not stay open from when
 * room was made, nor until the next system call.
 *
 * Return: 0 or -errno; with in->again set it is worth to ask again soon.
 */
static int put_on_tray(struct insert *in, const struct kernel_medium *km)
{
	struct drive *d = in->d;
	struct kernel_err ke;
	int r = 0;

	for (int i = 0; i < TRIES && !r; i++) {
		if (!kernel_medium_insert(drives_kernel, d->index, km, &in->m->generation, &ke))
			return 0;
		drive_err(d, &ke, "insert", &in->e);
		if (!drive_has_tray(d) || in->a.open_tray || in->e.code != EINVAL)
			return -in->e.code;
		r = kernel_tray_open(drives_kernel, d->index, in->a.force, &ke);
	}
	/* In use by who closed it, for a moment; or it was not the tray. */
	in->again = r < 0 || (!drive_refresh(d, NULL) && d->k.tray == SPICEBD_TRAY_CLOSED);
	return -in->e.code;
}

static int kernel_insert(struct insert *in)
{
	struct drive *d = in->d;
	struct kernel_medium km;
	struct kernel_err ke;
	int r;

	medium_for_kernel(in->m, &km);
	r = put_on_tray(in, &km);
	if (r < 0)
		return r;
	in->m->state = MEDIUM_IN;
	if (drive_has_tray(d) && !in->a.open_tray) {
		if (kernel_tray_close(drives_kernel, d->index, &ke) < 0)
			return drive_err(d, &ke, "close its tray", &in->e);
		d->keep = false;
	}
	return 0;
}

/* All that can fail for want of something does so while the old medium is in. */
static void step_prepare(void *arg)
{
	struct insert *in = arg;
	struct medium *m;

	if (!in->d->present) {
		in->r = derr_set(&in->e, ENODEV, "the drive was deleted meanwhile");
		return;
	}
	m = in->m = medium_new(in->d, in->a.source, &in->props);
	m->kind = in->kind;
	m->read_only = in->read_only;
	m->conns = in->conns;
	m->far = faropts_resolve(&in->a.far);
	make_id(in, m);
	in->r = medium_prepare(m, &in->e);
	if (!in->r)
		in->r = state_save(&in->e);
}

static void step_insert(void *arg)
{
	struct insert *in = arg;
	struct drive *d = in->d;
	struct medium *m = in->m;

	if (!d->present || d->medium != (in->placed ? m : NULL)) {
		in->r = derr_set(&in->e, ENODEV, "the drive was %s meanwhile",
				 d->present ? "filled" : "deleted");
		return;
	}
	if (!in->placed) {
		d->medium = medium_ref(m);
		in->placed = true;
		in->r = state_save(&in->e);
		if (in->r < 0)
			return;
		in->n = 0;		/* they are the medium's now */
		in->r = medium_attach(m, in->h, &in->e);
	}
	if (!in->r)
		in->r = kernel_insert(in);
}

static void step_ready(void *arg)
{
	struct insert *in = arg;
	struct drive *d = in->d;

	in->ready = false;
	in->r = 0;
	if (!d->present || d->medium != in->m || in->m->state != MEDIUM_IN) {
		in->r = derr_set(&in->e, ECANCELED, "it was ejected before it was readable%s%s",
				 d->failed ? ": " : "", d->failed ?: "");
		return;
	}
	/* In a drive that is held it can be read when that is released. */
	in->ready = (in->a.open_tray && drive_has_tray(d)) ||
		    d->k.state & SPICEBD_STATE_FREEZING;
	if (d->k.state & SPICEBD_STATE_READY && d->k.generation >= in->m->generation)
		in->ready = true;
}

/* The end, either way. */

static void answer(struct insert *in)
{
	if (in->guard)
		g_source_remove(in->guard);
	in->guard = 0;
	if (!in->answered)
		in->done(in->r, in->d, &in->e, in->arg);
	in->answered = true;
}

static void undo(struct insert *in)
{
	struct drive *d = in->d;
	struct kernel_err ke;

	for (unsigned int i = 0; i < in->n; i++)
		nbd_close(in->h[i]);
	if (in->placed && d->present && d->medium == in->m) {
		bool shown = in->m->state == MEDIUM_IN;

		if (shown && kernel_eject(drives_kernel, d->index, true, &ke) < 0)
			log_warn("drive %s: %s", d->k.name, ke.text);
		medium_out(in->m);
		/* Not a cdrom's tray left open by an insert that failed. */
		if (drive_has_tray(d) && !in->a.open_tray)
			kernel_tray_close(drives_kernel, d->index, NULL);
		drive_refresh(d, NULL);
	} else if (!in->placed) {
		in->a.source->ops->close(in->a.source, false);
	}
	if (in->made && d->present && kernel_del(drives_kernel, d->index, true, &ke) < 0)
		log_warn("drive %s: %s", d->k.name, ke.text);
}

static void step_over(void *arg)
{
	struct insert *in = arg;
	struct drive *d = in->d;

	if (in->r < 0)
		undo(in);
	if (in->blocked && d->op == in->task) {
		d->blockers &= ~BLOCK_INSERT;
		task_unref(d->op);
		d->op = NULL;
	}
	if (!in->r) {
		g_clear_pointer(&d->failed, g_free);
		g_clear_pointer(&d->moved, g_free);
		log_info("drive %s: medium '%s' inserted", d->k.name, in->m->name);
		in->m->source->ops->notice(in->m->source, SOURCE_INSERTED, NULL);
		inuse_again(in->d);
	}
	answer(in);
	change_wake();
	medium_unref(in->m);
	source_unref(in->a.source);
	task_unref(in->task);
	g_free(in);
}

/* The task. */

static int connect_one(struct insert *in, struct task *t)
{
	struct source *s = in->a.source;
	struct nbd_handle *h = s->ops->connect(s, t, &in->e);

	if (!h)
		return in->e.code ? -in->e.code : -EIO;
	in->h[in->n++] = h;
	return 0;
}

/* A Spice share's media are known by what it says; others have to be looked at. */
static int look(struct insert *in, struct task *t)
{
	struct source *s = in->a.source;
	int r = s->ops->open(s, t, &in->e);

	in->kind = s->kind;
	if (r < 0 || s->type == SOURCE_SPICE)
		return r;
	r = connect_one(in, t);
	if (!r)
		r = nbdconn_props(in->h[0], &in->props, t, &in->e);
	if (!r && in->kind == KIND_UNKNOWN)
		r = nbdconn_kind(in->h[0], in->props.size, &in->kind, t, &in->e);
	return r;
}

static int step(void (*fn)(void *arg), struct insert *in)
{
	in->r = 0;
	main_call(fn, in);
	return in->r;
}

static int make_room(struct insert *in, struct task *t)
{
	struct room room = room_of(in);
	int r = room_make(&room, t);

	if (r < 0)
		in->e = room.e;
	return r;
}

static int put_in(struct insert *in, struct task *t)
{
	int r;

	do {
		in->again = false;
		r = step(step_insert, in);
	} while (in->again && task_pause(t, AGAIN_MS) == 0);
	return r;
}

static int run_steps(struct insert *in, struct task *t)
{
	int r = look(in, t);

	if (!r)
		r = step(step_choose, in);
	if (!r && !in->n) {
		r = connect_one(in, t);
		if (!r)
			r = nbdconn_props(in->h[0], &in->props, t, &in->e);
	}
	if (!r)
		r = step(step_check, in);
	while (!r && in->n < in->conns)
		r = connect_one(in, t);
	if (!r && task_cancelled(t))
		r = derr_set(&in->e, ECANCELED, "ended by an eject");
	if (!r)
		r = step(step_prepare, in);
	if (!r)
		r = make_room(in, t);
	if (!r)
		r = put_in(in, t);
	while (!r) {
		uint64_t seq = change_seq();

		r = step(step_ready, in);
		if (r || in->ready)
			break;
		r = task_wait(t, seq, "the medium does not become readable", &in->e);
	}
	return r;
}

static void run(struct task *t, void *arg)
{
	struct insert *in = arg;

	in->r = run_steps(in, t);
	main_call(step_over, in);
}

/* A name server that hangs keeps the task, but not who asked. */
static gboolean guard(gpointer arg)
{
	struct insert *in = arg;
	struct derr e;

	in->guard = 0;
	if (!in->answered) {
		task_cancel(in->task);
		derr_set(&e, ETIMEDOUT, "the source did not answer in %d s", in->a.timeout);
		in->answered = true;
		in->done(-ETIMEDOUT, NULL, &e, in->arg);
	}
	return G_SOURCE_REMOVE;
}

int insert_mode(const char *s, const struct drive *d, enum read_only_mode *mode, struct derr *e)
{
	const struct medium *old = d ? d->medium : NULL;

	*mode = RO_AUTO;
	if (!strcmp(s, "read-only") || (!strcmp(s, "retain") && old && old->read_only))
		*mode = RO_READ_ONLY;
	else if (!strcmp(s, "read-write") || (!strcmp(s, "retain") && old))
		*mode = RO_READ_WRITE;
	else if (strcmp(s, "auto") && strcmp(s, "retain"))
		return derr_set(e, EINVAL, "Parameter 'read-only-mode' does not accept value "
				"'%s'", s);
	return 0;
}

void insert_start(const struct insert_args *a, insert_done_fn done, void *arg)
{
	struct insert *in = g_new0(struct insert, 1);
	struct task *t;

	in->a = *a;
	in->done = done;
	in->arg = arg;
	a->source->read_only = a->mode == RO_READ_ONLY;
	a->source->folder_as_disk = a->personality == SPICEBD_PERSONALITY_DISK ||
		(a->drive && !drive_has_tray(a->drive));
	t = task_new("insert", now_ms() + a->timeout * 1000LL, run, in);
	if (!t) {
		derr_set(&in->e, ENOMEM, "out of memory");
		in->r = -ENOMEM;
	} else {
		in->task = t;
		if (a->drive)
			in->r = take_drive(in, a->drive);
		if (!in->r && a->drive)
			in->r = check_room(in);
		if (!in->r && !task_run(t)) {
			derr_set(&in->e, EAGAIN, "out of threads");
			in->r = -EAGAIN;
		}
	}
	if (in->r < 0) {
		step_over(in);
		return;
	}
	in->guard = g_timeout_add(a->timeout * 1000 + GUARD_MS, guard, in);
}
