// SPDX-License-Identifier: GPL-2.0-only
#include "export.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control.h"
#include "drive.h"
#include "export_impl.h"
#include "log.h"
#include "nodes.h"
#include "polite.h"
#include "snapshot.h"
#include "sock.h"
#include "state.h"
#include "text.h"

#define STREAM_MS	12000		/* spicebd-export waits a little longer */
#define EXPORT_ADD_MS	30000
/* Of a share's port's FRAME_STREAMS_MAX streams; the drive's own come first. */
#define SHARE_CLIENTS_MAX 8

GList *exports;
struct exportd *export_server;
uint32_t export_last;

struct export *export_by_number(uint32_t number)
{
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		if (x->number == number)
			return x;
	}
	return NULL;
}

static struct export *by_id(const char *id)
{
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		if (!strcmp(x->id, id))
			return x;
	}
	return NULL;
}

static void save(void)
{
	struct derr e;

	if (state_save(&e) < 0)
		log_err("%s", e.text);
}

void export_free(struct export *x)
{
	struct medium *m = x->m;

	exports = g_list_remove(exports, x);
	/* With the last of them nobody would tell. */
	if (x->snap)
		snapshot_clients(x->snap, 0);
	if (m)
		export_mark(m->drive);
	medium_unref(m);
	if (x->opened)
		x->source->ops->close(x->source, false);
	source_unref(x->source);
	g_free(x->id);
	g_free(x->node);
	g_free(x->name);
	g_free(x->description);
	g_free(x);
}

/* What blocks a drive. */

static void tell_snapshots(void)
{
	for (GList *i = exports; i; i = i->next) {
		const struct export *x = i->data;
		uint32_t n = 0;

		for (GList *j = exports; j && x->snap; j = j->next) {
			const struct export *y = j->data;

			n += y->snap == x->snap ? y->clients : 0;
		}
		if (x->snap)
			snapshot_clients(x->snap, n);
	}
}

void export_mark(struct drive *d)
{
	bool was = d->blockers & BLOCK_EXPORT;
	uint32_t n = 0;

	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		if (x->m && x->m == d->medium && !x->ending && !x->is_snapshot)
			n += x->clients;
	}
	tell_snapshots();
	if (n)
		d->blockers |= BLOCK_EXPORT;
	else
		d->blockers &= ~BLOCK_EXPORT;
	if (was && !n)
		polite_event_later(d);
	change_wake();
}

static const struct export *blocking(const struct drive *d)
{
	for (GList *i = exports; i; i = i->next) {
		const struct export *x = i->data;

		/* A snapshot blocks by itself. */
		if (x->m && x->m == d->medium && !x->ending && x->clients && !x->is_snapshot)
			return x;
	}
	return NULL;
}

void exports_reason(const struct drive *d, char *buf, size_t size)
{
	const struct export *x = blocking(d);

	if (!x)
		snprintf(buf, size, "its medium is exported");
	else
		snprintf(buf, size, "its medium is exported as '%.100s' to %u client%s", x->name,
			 x->clients, x->clients == 1 ? "" : "s");
}

const char *exports_owner(const struct drive *d)
{
	const struct export *x = blocking(d);

	return x ? x->id : "?";
}

bool exports_use_node(const char *node)
{
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		if (!strcmp(x->node, node))
			return true;
	}
	return false;
}

bool exports_use_server(const char *nbdkit_id)
{
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;
		const char *id = x->opened ? source_file_id(x->source) : NULL;

		if (id && !strcmp(id, nbdkit_id))
			return true;
	}
	return false;
}

static bool same_store(const struct source *a, const struct source *b)
{
	return a->type == b->type && a->store_len && a->store_len == b->store_len &&
	       !memcmp(a->store, b->store, a->store_len);
}

int exports_check_store(const struct source *s, struct derr *e)
{
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		if (x->writable && x->source && x->source != s && same_store(x->source, s))
			return derr_set(e, EBUSY, "the medium is exported writable as '%.100s': "
					"remove that export first", x->name);
	}
	return 0;
}

/* Streams. */

struct stream {
	uint32_t tag;
	struct source *source;
	struct task *task;
	char *name;
	int fd;
	struct derr e;
};

static void stream_over(void *arg)
{
	struct stream *st = arg;

	exportd_stream(export_server, st->tag, &st->fd, st->fd >= 0, st->name, &st->e);
	source_unref(st->source);
	task_unref(st->task);
	g_free(st->name);
	g_free(st);
}

static void stream_run(struct task *t, void *arg)
{
	struct stream *st = arg;

	st->fd = st->source->ops->stream(st->source, &st->name, t, &st->e);
	main_post(stream_over, st);
}

static bool too_many(const struct export *x)
{
	uint32_t n = 0;

	if (x->source->type != SOURCE_SPICE)
		return false;
	for (GList *i = exports; i; i = i->next) {
		const struct export *y = i->data;

		n += y->source == x->source ? y->clients : 0;
	}
	return n >= SHARE_CLIENTS_MAX;
}

static void on_open(void *arg, uint32_t tag, uint32_t number)
{
	struct export *x = export_by_number(number);
	struct stream *st;
	struct derr e;

	if (!x || x->ending || (x->m && x->m->state != MEDIUM_IN)) {
		derr_set(&e, ENOENT, "it is gone");
		exportd_stream(export_server, tag, NULL, 0, NULL, &e);
		return;
	}
	if (x->is_snapshot && x->snap) {
		snapshot_stream(x->snap, export_server, tag);
		return;
	}
	if (x->is_snapshot) {
		derr_set(&e, ENOENT, "the snapshot has ended");
		exportd_stream(export_server, tag, NULL, 0, NULL, &e);
		return;
	}
	if (too_many(x)) {
		derr_set(&e, EBUSY, "a share serves %d clients at most", SHARE_CLIENTS_MAX);
		exportd_stream(export_server, tag, NULL, 0, NULL, &e);
		return;
	}
	st = g_new0(struct stream, 1);
	st->tag = tag;
	st->fd = -1;
	st->source = source_ref(x->source);
	st->task = task_new("export-open", now_ms() + STREAM_MS, stream_run, st);
	if (!st->task || !task_run(st->task)) {
		derr_set(&st->e, EAGAIN, "out of threads");
		stream_over(st);
	}
}

static void on_clients(void *arg, uint32_t number, uint32_t n)
{
	struct export *x = export_by_number(number);

	if (!x)
		return;
	x->clients = n;
	if (x->m)
		export_mark(x->m->drive);
}

/* Telling spicebd-export. */

static void tell(struct export *x, exportd_fn done, void *arg)
{
	struct export_ctl *c = g_new0(struct export_ctl, 1);

	c->cmd = EXPORT_CMD_ADD;
	c->number = x->number;
	c->flags = (x->writable ? EXPORT_CTL_WRITABLE : 0) |
		   (x->writethrough ? EXPORT_CTL_WRITETHROUGH : 0) |
		   (x->is_snapshot ? EXPORT_CTL_SNAPSHOT : 0);
	g_strlcpy(c->name, x->name, sizeof(c->name));
	g_strlcpy(c->text, x->description ?: "", sizeof(c->text));
	exportd_call(export_server, c, done, arg);
	g_free(c);
}

static void on_down(void *arg)
{
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		x->clients = 0;
		if (x->m)
			export_mark(x->m->drive);
	}
}

static void on_up(void *arg)
{
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		if (!x->coming && !x->ending)
			tell(x, NULL, NULL);
	}
}

static const struct exportd_ops export_ops = {
	.down = on_down,
	.up = on_up,
	.open = on_open,
	.clients = on_clients,
};

/* Adding. */

struct adding {
	struct export *x;
	struct task *task;
	bool writable, if_possible;
	bool opened, read_only;		/* found by the task */
	bool told;			/* spicebd-export was, and did not refuse */
	export_done_fn done;
	void *arg;
	int r;
	struct derr e;
};

static void remove_start(struct export *x, bool hard, export_done_fn done, void *arg);

static void add_over(struct adding *a)
{
	struct export *x = a->x;

	if (!a->r && x->gone)
		a->r = derr_set(&a->e, ECANCELED, "Export '%.200s' was removed meanwhile", x->id);
	x->coming = false;
	x->gone = a->r < 0;
	/* It has it, or may have. */
	if (a->r < 0 && a->told && exportd_wanted(export_server))
		remove_start(x, true, NULL, NULL);
	else if (a->r < 0)
		export_free(x);
	else
		log_info("export '%.100s' of %s", x->id, x->node);
	save();
	a->done(a->r, &a->e, a->arg);
	task_unref(a->task);
	g_free(a);
}

static void told(int r, const struct derr *e, void *arg)
{
	struct adding *a = arg;

	a->r = r;
	a->told = !r || r == -ETIMEDOUT;
	if (r < 0)
		a->e = *e;
	add_over(a);
}

static void announce(struct adding *a)
{
	if (!exportd_wanted(export_server)) {
		a->r = derr_set(&a->e, EINVAL, "NBD server not running");
		add_over(a);
	} else if (a->x->gone) {
		a->r = derr_set(&a->e, ENOMEDIUM, "the medium is gone");
		add_over(a);
	} else {
		tell(a->x, told, a);
	}
}

static int take_writable(struct adding *a)
{
	a->x->writable = a->writable && !a->read_only;
	if (a->writable && a->read_only && !a->if_possible)
		return derr_set(&a->e, EPERM, "Cannot export read-only node as writable");
	return 0;
}

/* A node that is in no drive: its source is opened, and looked at once. */
static int look(struct adding *a, struct task *t)
{
	struct source *s = a->x->source;
	struct nbd_props p;
	struct nbd_handle *h;
	int r = s->ops->open(s, t, &a->e);

	if (r < 0)
		return r;
	a->opened = true;
	h = s->ops->connect(s, t, &a->e);
	if (!h)
		return -a->e.code ?: -EIO;
	r = nbdconn_props(h, &p, t, &a->e);
	nbd_close(h);
	a->read_only = p.read_only || s->read_only || s->offer_read_only;
	return r;
}

static void looked(void *arg)
{
	struct adding *a = arg;

	a->x->opened = a->opened;
	if (!a->r)
		a->r = take_writable(a);
	if (a->r < 0)
		add_over(a);
	else
		announce(a);
}

static void look_run(struct task *t, void *arg)
{
	struct adding *a = arg;

	a->r = look(a, t);
	main_post(looked, a);
}

static void add_node(struct adding *a)
{
	a->task = task_new("export-add", now_ms() + EXPORT_ADD_MS, look_run, a);
	if (!a->task || !task_run(a->task)) {
		a->r = derr_set(&a->e, EAGAIN, "out of threads");
		add_over(a);
	}
}

static void add_medium(struct adding *a)
{
	struct medium *m = a->x->m;

	/* Its file system is the drive's user's, who counts on being alone. */
	if (a->writable && !m->read_only && !a->x->is_snapshot)
		a->r = derr_set(&a->e, EPERM, "Conflicts with use by %s as 'root', which does "
				"not allow 'write' on %s", m->drive->k.name, a->x->node);
	a->read_only = true;
	if (!a->r)
		a->r = take_writable(a);
	if (a->r < 0)
		add_over(a);
	else
		announce(a);
}

static struct medium *find_medium(const char *node)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		struct medium *m = d->medium;

		if (!m || m->state != MEDIUM_IN)
			continue;
		if (!strcmp(d->k.name, node) ||
		    (m->source->node_name && !strcmp(m->source->node_name, node)))
			return m;
	}
	return NULL;
}

static int check_drives(const struct export_args *a, const struct source *s, struct derr *e)
{
	if (s->type == SOURCE_SPICE)
		return derr_set(e, EOPNOTSUPP, "a medium of a share can be exported while it is "
				"in a drive: insert it first");
	if (s->type == SOURCE_NBD && source_nbd_check_plain(s, e) < 0)
		return -e->code;
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (a->writable && d->medium && same_store(d->medium->source, s))
			return derr_set(e, EPERM, "Conflicts with use by %s as 'root', which does "
					"not allow 'write' on %s", d->k.name, a->node);
	return 0;
}

static int find_node(const struct export_args *a, struct export *x, struct derr *e)
{
	struct medium *m = find_medium(a->node);
	enum read_only_mode mode;

	x->snap = m ? NULL : snapshot_by_node(a->node);
	if (x->snap) {
		m = snapshot_medium(x->snap);
		x->is_snapshot = true;
	}

	if (m) {
		x->m = medium_ref(m);
		x->source = source_ref(m->source);
		return m->source->type == SOURCE_NBD ? source_nbd_check_plain(m->source, e) : 0;
	}
	x->source = node_source(a->node, &mode, e);
	/* An export could also have been asked for of a device. */
	if (!x->source && e->code == ENOENT)
		return derr_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'", a->node,
				a->node);
	if (!x->source)
		return -e->code;
	x->source->read_only = mode == RO_READ_ONLY;
	return check_drives(a, x->source, e);
}

static int check_id(const char *id, struct derr *e)
{
	bool good = g_ascii_isalpha(*id) && strlen(id) <= EXPORT_NAME_MAX;

	for (const char *p = id; *p; p++)
		good = good && (g_ascii_isalnum(*p) || strchr("-._", *p));
	if (!good)
		return derr_set(e, EINVAL, "Invalid block export id");
	if (by_id(id))
		return derr_set(e, EEXIST, "Block export id '%.200s' is already in use", id);
	return 0;
}

static int check_text(const char *what, const char *s, struct derr *e)
{
	if (strlen(s) > EXPORT_NAME_MAX)
		return derr_set(e, EINVAL, "%s '%.100s…' too long", what, s);
	if (!text_ok(s, strlen(s)))
		return derr_set(e, EINVAL, "%s has control characters", what);
	return 0;
}

static int check_name(const char *name, struct derr *e)
{
	int r = check_text("export name", name, e);

	for (GList *i = exports; i && !r; i = i->next) {
		struct export *x = i->data;

		if (!strcmp(x->name, name))
			r = derr_set(e, EEXIST, "NBD server already has export named '%.200s'",
				     name);
	}
	if (!r && g_list_length(exports) >= EXPORTS_MAX)
		r = derr_set(e, ENOSPC, "too many exports: there are %d", EXPORTS_MAX);
	return r;
}

/* In QEMU's order, so that of several errors the same one is told. */
static int check_add(const struct export_args *a, struct export *x, struct derr *e)
{
	int r = check_id(x->id, e);

	if (!r)
		r = find_node(a, x, e);
	if (!r && !exportd_wanted(export_server))
		r = derr_set(e, EINVAL, "NBD server not running");
	if (!r)
		r = check_name(x->name, e);
	if (!r && x->description)
		r = check_text("description", x->description, e);
	return r;
}

void export_add(const struct export_args *args, export_done_fn done, void *arg)
{
	struct export *x = g_new0(struct export, 1);
	struct adding *a;
	struct derr e;
	int r;

	x->node = g_strdup(args->node);
	x->name = g_strdup(args->name ?: args->node);
	x->id = g_strdup(args->id ?: x->name);
	x->description = g_strdup(args->description);
	x->writethrough = args->writethrough;
	r = check_add(args, x, &e);
	if (r < 0) {
		export_free(x);
		done(r, &e, arg);
		return;
	}
	x->number = ++export_last;
	x->coming = true;
	/* Until it is known better: nobody else may write meanwhile. */
	x->writable = args->writable;
	exports = g_list_append(exports, x);
	a = g_new0(struct adding, 1);
	a->x = x;
	a->writable = args->writable;
	a->if_possible = args->if_possible;
	a->done = done;
	a->arg = arg;
	if (x->m)
		add_medium(a);
	else
		add_node(a);
}

/* Removing. */

struct removing {
	uint32_t number;
	export_done_fn done;
	void *arg;
};

/* The end, however it came. */
static void remove_it(struct export *x)
{
	log_info("export '%.100s' is removed", x->id);
	if (!x->gone)
		control_export_deleted(x->id);
	export_free(x);
	save();
}

static void removed(int r, const struct derr *e, void *arg)
{
	struct removing *d = arg;
	struct export *x = export_by_number(d->number);
	struct derr mine;

	if (x && r == -EBUSY) {
		x->ending = false;
		if (x->m)
			export_mark(x->m->drive);
		r = derr_set(&mine, EBUSY, "export '%s' still in use", x->id);
		e = &mine;
	} else if (x) {
		/*
		 * Also without an answer: one that is not known is ended by the
		 * next SYNC.
		 */
		if (r == -ETIMEDOUT)
			log_warn("export '%s': %s", x->id, e->text);
		remove_it(x);
		r = 0;
	}
	if (d->done)
		d->done(r, e, d->arg);
	g_free(d);
}

static void remove_start(struct export *x, bool hard, export_done_fn done, void *arg)
{
	struct removing *d = g_new0(struct removing, 1);
	struct export_ctl *c = g_new0(struct export_ctl, 1);

	d->number = x->number;
	d->done = done;
	d->arg = arg;
	x->ending = true;
	if (x->m)
		export_mark(x->m->drive);
	c->cmd = EXPORT_CMD_DEL;
	c->number = x->number;
	c->flags = hard ? EXPORT_CTL_HARD : 0;
	exportd_call(export_server, c, removed, d);
	g_free(c);
}

void export_del(const char *id, bool hard, export_done_fn done, void *arg)
{
	struct export *x = by_id(id);
	struct derr e;

	if (!x)
		derr_set(&e, ENOENT, "Export '%.200s' is not found", id);
	else if (x->ending || x->gone)
		derr_set(&e, EBUSY, "Export '%.200s' is already shutting down", id);
	else if (x->coming)
		derr_set(&e, EBUSY, "export '%.200s' still in use", id);
	else {
		remove_start(x, hard, done, arg);
		return;
	}
	done(-e.code, &e, arg);
}

static void end_now(struct export *x)
{
	if (x->ending)
		return;
	if (x->coming)
		x->gone = true;
	else
		remove_start(x, true, NULL, NULL);
}

void exports_medium_out(const struct medium *m)
{
	GList *copy = g_list_copy(exports);

	for (GList *i = copy; i; i = i->next) {
		struct export *x = i->data;

		if (g_list_find(exports, x) && x->m == m)
			end_now(x);
	}
	g_list_free(copy);
}

/* The server. */

struct starting {
	export_done_fn done;
	void *arg;
};

static void started(int r, const struct derr *e, void *arg)
{
	struct starting *s = arg;

	if (!r)
		save();
	s->done(r, e, s->arg);
	g_free(s);
}

void exports_start(const struct export_job *job, export_done_fn done, void *arg)
{
	struct starting *s;
	struct derr e;

	if (exportd_job(export_server)->magic) {
		done(derr_set(&e, EINVAL, "NBD server already running"), &e, arg);
		return;
	}
	s = g_new0(struct starting, 1);
	s->done = done;
	s->arg = arg;
	exportd_start(export_server, job, started, s);
}

static void stopped(int r, const struct derr *e, void *arg)
{
	struct starting *s = arg;
	GList *copy = g_list_copy(exports);

	for (GList *i = copy; i; i = i->next) {
		struct export *x = i->data;

		if (x->coming)
			x->gone = true;
		else if (g_list_find(exports, x))
			remove_it(x);
	}
	g_list_free(copy);
	save();
	s->done(r, e, s->arg);
	g_free(s);
}

void exports_stop(export_done_fn done, void *arg)
{
	struct starting *s;
	struct derr e;

	if (!exportd_wanted(export_server)) {
		done(derr_set(&e, EINVAL, "NBD server not running"), &e, arg);
		return;
	}
	s = g_new0(struct starting, 1);
	s->done = done;
	s->arg = arg;
	exportd_stop(export_server, stopped, s);
}

JsonArray *exports_query(void)
{
	JsonArray *a = json_array_new();

	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;
		JsonObject *o;

		if (x->coming)
			continue;
		o = json_object_new();
		json_object_set_string_member(o, "id", x->id);
		json_object_set_string_member(o, "type", "nbd");
		json_object_set_string_member(o, "node-name", x->node);
		json_object_set_boolean_member(o, "shutting-down", x->ending);
		json_array_add_object_element(a, o);
	}
	return a;
}

/* Whoever reads one is told so by its map. */
static void on_snapshot_end(const struct snapshot *s)
{
	GList *copy = g_list_copy(exports);

	for (GList *i = copy; i; i = i->next) {
		struct export *x = i->data;

		if (!g_list_find(exports, x) || x->snap != s)
			continue;
		x->snap = NULL;
		end_now(x);
	}
	g_list_free(copy);
}

void exports_init(void)
{
	snapshots_on_end(on_snapshot_end);
	export_server = exportd_new(&export_ops, NULL);
}

void exports_leave(void)
{
	exportd_leave(export_server);
}
