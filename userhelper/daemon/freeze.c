// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's events carry no names of holders, and replace what we know of a
 * drive: names are kept here, from the answers that have them.
 */
#include "freeze.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control.h"
#include "drive.h"
#include "freezing.h"
#include "log.h"
#include "sock.h"

#define LOOK_MS		1000	/* events can be lost */

/**
 * struct known - holders of a drive, as last told with names
 * @since, @end: now_ms() clock; no end: 0
 */
static struct known {
	unsigned int n;
	struct {
		char name[SPICEBD_HOLDER_NAME_MAX + 1];
		long long since, end;
	} of[SPICEBD_MAX_HOLDERS];
} known[SPICEBD_MAX_DRIVES];

/*
 * A freeze command that waits for its drives, at most one of a peer; or, with
 * @done instead of @c, a part of spicebdd that does.
 */
struct freeze {
	struct cmd *c;
	freeze_done_fn done;
	void *arg;
	uint32_t limit;
	unsigned int n;
	struct freezing of[SPICEBD_MAX_DRIVES];
	guint timer;
};

static GList *freezes;

bool freeze_held(const struct drive *d)
{
	return d->k.state & SPICEBD_STATE_FREEZING;
}

bool freeze_at_start(const struct drive *d)
{
	const struct known *n = &known[d->index];

	return n->n == 1 && !strcmp(n->of[0].name, SPICEBD_DEFAULT_HOLDER);
}

/* The kernel's word of now, with the names that it gives to us alone. */
static void with_names(const struct drive *d, struct kernel_drive *k)
{
	const struct known *n = &known[d->index];

	*k = d->k;
	k->nr_holders = n->n;
	for (unsigned int i = 0; i < n->n; i++) {
		struct kernel_holder *h = &k->holders[i];

		g_strlcpy(h->name, n->of[i].name, sizeof(h->name));
		h->since_ms = MAX(now_ms() - n->of[i].since, 0);
		h->limited = n->of[i].end;
		h->left_ms = MAX(n->of[i].end - now_ms(), 0);
	}
}

const char *freeze_first_holder(const struct drive *d)
{
	return known[d->index].n ? known[d->index].of[0].name : "?";
}

const char *freeze_reason(const struct drive *d, char *out, size_t size)
{
	struct kernel_drive k;
	char by[400];

	with_names(d, &k);
	snprintf(out, size, "frozen by %s", freezing_by(&k, by, sizeof(by)));
	return out;
}

/* ---- following the kernel */

/*
 * While it is frozen the kernel's clock of the reconnect limit stands, and so
 * does ours; afterwards what is left of the kernel's is ours.
 */
static void follow_clock(struct drive *d)
{
	struct medium *m = d->medium;

	if (m && m->state == MEDIUM_IN && !m->link_up)
		medium_set_deadline(m, d->k.reconnect_timeout ?
				    medium_hold_deadline(&d->k) : now_ms());
}

static bool is_freeze_event(const struct kernel_drive *k)
{
	return k->event == SPICEBD_EVENT_FREEZE || k->event == SPICEBD_EVENT_FREEZE_EXPIRED;
}

void freeze_take(struct drive *d, const struct kernel_drive *k)
{
	struct known *n = &known[k->index];

	/* What an event does not tell is asked for, by freeze_event(). */
	if (is_freeze_event(k) || (k->nr_holders && !k->holders[0].name[0]))
		return;
	n->n = k->nr_holders;
	for (unsigned int i = 0; i < n->n; i++) {
		const struct kernel_holder *h = &k->holders[i];

		g_strlcpy(n->of[i].name, h->name, sizeof(n->of[i].name));
		n->of[i].since = now_ms() - (long long)h->since_ms;
		n->of[i].end = h->limited ? now_ms() + h->left_ms : 0;
	}
}

static bool is_holder(const struct known *n, const char *name)
{
	for (unsigned int i = 0; i < n->n; i++)
		if (!strcmp(n->of[i].name, name))
			return true;
	return false;
}

/* Whose limit came: of those who have gone the one whose came first, or NULL. */
static const char *expired(const struct known *before, const struct known *now)
{
	int first = -1;

	for (unsigned int i = 0; i < before->n; i++)
		if (before->of[i].end && !is_holder(now, before->of[i].name) &&
		    (first < 0 || before->of[i].end < before->of[first].end))
			first = i;
	return first < 0 ? NULL : before->of[first].name;
}

static void tell(struct drive *d, const struct kernel_drive *k, const struct known *before)
{
	struct kernel_drive now;

	if (k->event == SPICEBD_EVENT_FREEZE_EXPIRED) {
		const char *who = expired(before, &known[d->index]);

		log_notice("drive %s: the limit of its holder %s has come: %s", d->k.name,
			   who ?: "?", freeze_held(d) ? "others still keep it frozen" : "thawed");
		control_freeze_expired(d->k.name, who);
	}
	with_names(d, &now);
	now.freeze = k->freeze;
	control_freeze_event(&now);
}

static void look(struct freeze *f);

static void look_all(void)
{
	GList *now = g_list_copy(freezes);

	/* One that ends may end others. */
	for (GList *i = now; i; i = i->next)
		if (g_list_find(freezes, i->data))
			look(i->data);
	g_list_free(now);
}

void freeze_event(struct drive *d, const struct kernel_drive *k)
{
	struct known before = known[d->index];

	if (k->event == SPICEBD_EVENT_DRIVE_REMOVED) {
		memset(&known[d->index], 0, sizeof(known[d->index]));
	} else if (is_freeze_event(k)) {
		drive_refresh(d, NULL);
		follow_clock(d);
		tell(d, k, &before);
	} else if (k->nr_holders != known[d->index].n) {
		drive_refresh(d, NULL);
	}
	if (freezes)
		look_all();
}

void freeze_look_again(void)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		follow_clock(d);
	look_all();
}

/* ---- freeze */

static void let_go(struct freeze *f)
{
	for (unsigned int i = 0; i < f->n; i++) {
		struct kernel_drive k;
		struct kernel_err ke;

		if (kernel_thaw(drives_kernel, f->of[i].index, f->of[i].holder, &k, &ke) < 0 &&
		    ke.code != ENOENT && ke.code != ENODEV)
			log_warn("drive %s: %s", f->of[i].name, ke.text);
	}
}

static void end(struct freeze *f)
{
	freezes = g_list_remove(freezes, f);
	if (f->timer)
		g_source_remove(f->timer);
	g_free(f);
}

static void give_up(struct freeze *f, const struct derr *e)
{
	freeze_done_fn done = f->done;
	void *arg = f->arg;

	let_go(f);
	if (f->c)
		cmd_fail(f->c, e);
	end(f);
	if (done)
		done(-e->code, e, arg);
}

static void succeed(struct freeze *f)
{
	freeze_done_fn done = f->done;
	void *arg = f->arg;

	end(f);
	done(0, NULL, arg);
}

/* Nobody will thaw what nobody knows of: its holder may have no limit. */
static bool asker_gone(struct freeze *f)
{
	if (!qmp_peer_gone(f->c->peer))
		return false;
	log_notice("drive %s%s: thawed: who asked for the freeze has gone", f->of[0].name,
		   f->n > 1 ? " and others" : "");
	return true;
}

static JsonArray *answer(struct freeze *f, struct derr *e)
{
	JsonArray *a = json_array_new();

	for (unsigned int i = 0; i < f->n; i++) {
		JsonObject *o = json_object_new();
		const struct kernel_holder *h;
		struct kernel_drive k;
		struct kernel_err ke;

		json_array_add_object_element(a, o);
		/* It had a limit to become frozen, and has none from now on. */
		if (!f->limit && kernel_freeze(drives_kernel, f->of[i].index, f->of[i].holder, 0,
					       &k, &ke) < 0) {
			derr_set(e, ke.code, "drive %s: cannot keep it frozen: %s", f->of[i].name,
				 ke.text);
			json_array_unref(a);
			return NULL;
		}
		with_names(drive_at(f->of[i].index), &k);
		h = freezing_find(&k, f->of[i].holder);
		json_object_set_string_member(o, "drive", f->of[i].name);
		if (f->limit && h)
			json_object_set_int_member(o, "left-ms", h->left_ms);
	}
	return a;
}

static int look_one(struct freezing *f)
{
	struct drive *d = drive_at(f->index);
	struct kernel_drive k;

	if (!d || drive_refresh(d, NULL) < 0)
		return freezing_look(f, NULL);
	with_names(d, &k);
	return freezing_look(f, &k);
}

static void look(struct freeze *f)
{
	unsigned int done = 0;
	int r[SPICEBD_MAX_DRIVES];
	bool failed = false;
	JsonArray *a;
	struct derr e;

	for (unsigned int i = 0; i < f->n; i++) {
		r[i] = look_one(&f->of[i]);
		failed |= r[i] < 0;
		done += r[i] > 0;
	}
	if (failed) {
		unsigned int i = freezing_culprit(f->of, r, f->n);

		derr_set(&e, -r[i], "drive %s: not frozen: %s", f->of[i].name, f->of[i].why);
		give_up(f, &e);
		return;
	}
	if (done < f->n)
		return;
	if (f->done) {
		succeed(f);
		return;
	}
	if (asker_gone(f)) {
		derr_set(&e, EPIPE, "nobody waits for the answer");
		give_up(f, &e);
		return;
	}
	a = answer(f, &e);
	if (!a) {
		give_up(f, &e);
		return;
	}
	cmd_return_array(f->c, a);
	end(f);
}

static gboolean tick(gpointer arg)
{
	struct freeze *f = arg;

	/* It may be freed in there, and its timer with it. */
	look(f);
	return g_list_find(freezes, f) ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

void freeze_leave(void)
{
	struct derr e;

	derr_set(&e, ESHUTDOWN, "spicebdd is ending");
	while (freezes)
		give_up(freezes->data, &e);
}

/* ---- commands */

static const char *arg_holder(struct cmd *c, struct derr *e)
{
	const char *name = arg_str(c, "holder") ?: FREEZE_HOLDER_DEFAULT;

	if (freezing_holder_ok(name))
		return name;
	derr_set(e, EINVAL, "Parameter 'holder' is 1 to %d letters, digits or . _ - @ :",
		 SPICEBD_HOLDER_NAME_MAX);
	return NULL;
}

/* "drive", "drives", or all. Return: how many, or -errno */
static int arg_drives(struct cmd *c, struct drive **out, struct derr *e)
{
	const char *one = arg_str(c, "drive");
	JsonArray *a = arg_has(c, "drives") ?
		json_object_get_array_member(c->args, "drives") : NULL;
	unsigned int n = 0;

	if (one && a)
		return derr_set(e, EINVAL, "Parameters 'drive' and 'drives' exclude each other");
	if (!one && !a)
		for (struct drive *d = drive_first(); d; d = drive_next(d))
			out[n++] = d;
	for (guint i = 0; i < (one ? 1 : a ? json_array_get_length(a) : 0); i++) {
		struct drive *d = drive_find(one ?: json_array_get_string_element(a, i), e);

		if (!d)
			return -ENODEV;
		for (unsigned int j = 0; j < n; j++)
			if (out[j] == d)
				return derr_set(e, EINVAL, "drive %s is named twice", d->k.name);
		out[n++] = d;
	}
	return n ? (int)n : derr_set(e, ENODEV, "there is no drive");
}

static int may_freeze(struct drive *d, const char *holder, struct derr *e)
{
	int r = drive_refresh(d, e);
	char why[500];

	if (!r)
		r = blockers_check(d, OP_FREEZE, false, e);
	if (r < 0)
		return r;
	if (is_holder(&known[d->index], holder))
		return derr_set(e, EEXIST, "drive %s: '%s' is a holder already: it is %s",
				d->k.name, holder, freeze_reason(d, why, sizeof(why)));
	return 0;
}

static int start_one(struct freeze *f, struct drive *d, const char *holder, struct derr *e)
{
	struct kernel_drive k;
	struct kernel_err ke;

	freezing_begin(&f->of[f->n], &d->k, holder);
	if (kernel_freeze(drives_kernel, d->index, holder, f->limit ?: FREEZE_TIMEOUT_DEFAULT,
			  &k, &ke) < 0)
		return drive_err(d, &ke, "freeze it", e);
	f->n++;
	return 0;
}

void freeze_for(struct drive *d, const char *holder, uint32_t limit, freeze_done_fn done,
		void *arg)
{
	struct freeze *f;
	struct derr e;

	if (may_freeze(d, holder, &e) < 0) {
		done(-e.code, &e, arg);
		return;
	}
	f = g_new0(struct freeze, 1);
	f->done = done;
	f->arg = arg;
	f->limit = limit;
	freezes = g_list_append(freezes, f);
	if (start_one(f, d, holder, &e) < 0) {
		give_up(f, &e);
		return;
	}
	f->timer = g_timeout_add(LOOK_MS, tick, f);
	look(f);
}

int freeze_release(struct drive *d, const char *holder)
{
	struct kernel_drive k;
	struct kernel_err ke;
	int r = kernel_thaw(drives_kernel, d->index, holder, &k, &ke);

	if (r < 0 && r != -ENOENT)
		log_warn("drive %s: cannot thaw it: %s", d->k.name, ke.text);
	return r;
}

static void spicebd_freeze(struct cmd *c)
{
	struct drive *drives[SPICEBD_MAX_DRIVES];
	long long limit = arg_int(c, "timeout", FREEZE_TIMEOUT_DEFAULT);
	struct derr e;
	const char *holder = arg_holder(c, &e);
	int n = holder ? arg_drives(c, drives, &e) : -EINVAL, r = n;
	struct freeze *f;

	if (r >= 0 && (limit < 0 || limit > SPICEBD_MAX_TIMEOUT))
		r = derr_set(&e, EINVAL, "Parameter 'timeout' is 0 to %d seconds",
			     SPICEBD_MAX_TIMEOUT);
	for (int i = 0; i < n && r >= 0; i++)
		r = may_freeze(drives[i], holder, &e);
	if (r < 0) {
		cmd_fail(c, &e);
		return;
	}
	f = g_new0(struct freeze, 1);
	f->c = c;
	f->limit = limit;
	freezes = g_list_append(freezes, f);
	for (int i = 0; i < n && r >= 0; i++)
		r = start_one(f, drives[i], holder, &e);
	if (r < 0) {
		give_up(f, &e);
		return;
	}
	f->timer = g_timeout_add(LOOK_MS, tick, f);
	look(f);
}

static int may_thaw(struct drive *d, const char *holder, struct derr *e)
{
	char why[500];
	int r = drive_refresh(d, e);

	if (r < 0 || is_holder(&known[d->index], holder))
		return r;
	if (!freeze_held(d))
		return derr_set(e, ENOENT, "drive %s is not frozen", d->k.name);
	return derr_set(e, ENOENT, "drive %s: '%s' is no holder: it is %s", d->k.name, holder,
			freeze_reason(d, why, sizeof(why)));
}

/* Of all drives those that have this holder. */
static int holder_of(struct drive **drives, int n, const char *holder, struct derr *e)
{
	int have = 0;

	for (int i = 0; i < n; i++)
		if (drive_refresh(drives[i], NULL) == 0 &&
		    is_holder(&known[drives[i]->index], holder))
			drives[have++] = drives[i];
	return have ? have : derr_set(e, ENOENT, "'%s' has no drive frozen", holder);
}

static void spicebd_thaw(struct cmd *c)
{
	struct drive *drives[SPICEBD_MAX_DRIVES];
	struct derr e;
	const char *holder = arg_holder(c, &e);
	int n = holder ? arg_drives(c, drives, &e) : -EINVAL, r = n;

	if (n > 0 && !arg_has(c, "drive") && !arg_has(c, "drives"))
		r = n = holder_of(drives, n, holder, &e);
	for (int i = 0; i < n && r >= 0; i++)
		r = may_thaw(drives[i], holder, &e);
	for (int i = 0; i < n && r >= 0; i++) {
		struct kernel_drive k;
		struct kernel_err ke;

		if (kernel_thaw(drives_kernel, drives[i]->index, holder, &k, &ke) < 0)
			r = drive_err(drives[i], &ke, "thaw it", &e);
	}
	cmd_end(c, MIN(r, 0), &e);
}

const struct cmd_desc commands_freeze[] = {
	{ "spicebd-freeze", spicebd_freeze, 0, "drive:s? drives:[s]? holder:s? timeout:i?",
	  "[SpicebdFrozen]" },
	{ "spicebd-thaw", spicebd_thaw, 0, "drive:s? drives:[s]? holder:s?", NULL },
	{ NULL, NULL, 0, NULL, NULL },
};
