// SPDX-License-Identifier: GPL-2.0-only
/* A medium that a share offers at the other end of a Spice connection. */
#include "source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hex.h"
#include "links.h"
#include "member.h"
#include "sock.h"

/* spice-server and the share buffer what is written: keep that small. */
#define WRITE_LIMIT	(8u << 20)

struct source_spice {
	struct source s;
	char *want_link, *want_name;
	bool want_id;			/* medium_id, whatever its name */
	char link[32];
	uint8_t medium_id[FRAME_UUID_LEN];
	uint8_t incarnation[FRAME_UUID_LEN];
	uint8_t boot_id[FRAME_UUID_LEN];	/* of the machine that took our writes */
	uint8_t next_boot_id[FRAME_UUID_LEN];
	uint8_t instance[FRAME_UUID_LEN];	/* of the share */
	uint64_t size;
	uint8_t successor_id[FRAME_UUID_LEN];	/* of what is there in its place */
	bool has_successor;
	uint32_t epoch;
	bool opened;
};

static struct source_spice *spice_of(struct source *s)
{
	return (struct source_spice *)s;
}

/* Looking for an offer, on the main thread. */
struct search {
	struct source_spice *x;
	unsigned int links, clients, lists, matches;
	char *names;
	int result;
	struct derr *e;
};

static void take_offer(struct source_spice *x, const struct link *l, const struct link_port *p,
		       const struct link_offer *o)
{
	g_strlcpy(x->link, l->name, sizeof(x->link));
	memcpy(x->medium_id, o->medium_id, sizeof(x->medium_id));
	memcpy(x->incarnation, o->incarnation, sizeof(x->incarnation));
	memcpy(x->boot_id, p->boot_id, sizeof(x->boot_id));
	memcpy(x->instance, p->instance, sizeof(x->instance));
	x->size = o->size;
	g_free(x->s.name);
	x->s.name = source_clean_name(o->name);
	x->s.kind = o->kind == FRAME_KIND_CDROM ? KIND_CDROM :
		    o->kind == FRAME_KIND_DISK ? KIND_DISK : KIND_UNKNOWN;
	x->s.offer_read_only = o->flags & FRAME_OFFER_READ_ONLY;
	memcpy(x->s.store, o->medium_id, sizeof(x->medium_id));
	x->s.store_len = sizeof(x->medium_id);
}

static void look_at_port(struct search *f, const struct link *l, const struct link_port *p,
			 GHashTable *seen)
{
	for (unsigned int i = 0; i < p->nr_offers; i++) {
		const struct link_offer *o = &p->offers[i];
		char *key, *t;

		/* A share offers the same media on each of its ports. */
		key = g_strdup_printf("%s/", l->name);
		for (int k = 0; k < FRAME_UUID_LEN; k++) {
			t = g_strdup_printf("%s%02x", key, o->medium_id[k]);
			g_free(key);
			key = t;
		}
		if (!g_hash_table_add(seen, key))
			continue;
		t = f->names;
		f->names = t ? g_strdup_printf("%s, %s", t, o->name) : g_strdup(o->name);
		g_free(t);
		if (f->x->want_id && memcmp(f->x->medium_id, o->medium_id, FRAME_UUID_LEN))
			continue;
		if (f->x->want_name && strcmp(f->x->want_name, o->name))
			continue;
		if (!f->matches++)
			take_offer(f->x, l, p, o);
	}
}

static void look(void *arg)
{
	struct search *f = arg;
	GHashTable *seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

	f->links = f->clients = f->lists = f->matches = 0;
	g_clear_pointer(&f->names, g_free);
	for (GList *i = links_all(); i; i = i->next) {
		struct link *l = i->data;

		if (f->x->want_link && strcmp(f->x->want_link, l->name))
			continue;
		f->links++;
		f->clients += l->client;
		for (int p = 0; p < SPICEBD_MAX_DRIVES; p++) {
			if (!l->ports[p] || !l->ports[p]->complete)
				continue;
			f->lists++;
			look_at_port(f, l, l->ports[p], seen);
		}
	}
	g_hash_table_unref(seen);
}

static int explain(struct search *f, struct derr *e)
{
	const char *n = f->x->want_name;

	if (f->x->want_id)
		return derr_set(e, ENOENT, "the medium is not offered any more");
	if (f->matches > 1 && n)
		return derr_set(e, ENOTUNIQ, "several media are called '%s': name the link: "
				"spice:LINK/%s", n, n);
	if (f->matches > 1)
		return derr_set(e, ENOTUNIQ, "several media are offered (%s): name one: "
				"spice:NAME", f->names);
	if (f->lists && n)
		return derr_set(e, ENOENT, "no medium '%s' is offered%s%s", n,
				f->names ? ": offered are " : ": the share offers none",
				f->names ?: "");
	if (f->lists)
		return derr_set(e, ENOENT, "the share offers no medium");
	if (f->clients)
		return derr_set(e, ETIMEDOUT, "a Spice client is connected, but no spicebd-share "
				"says hello: start spicebd-share there");
	if (f->links)
		return derr_set(e, ETIMEDOUT, "no Spice client is connected%s%s: start "
				"spicebd-share where the medium is",
				f->x->want_link ? " to link " : "", f->x->want_link ?: "");
	if (f->x->want_link)
		return derr_set(e, ENOENT, "there is no link '%s': start it with "
				"'spicebdctl listen'", f->x->want_link);
	return derr_set(e, ENOENT, "no Spice client can come, there is no link: start one with "
			"'spicebdctl listen'");
}

static int spice_open(struct source *s, struct task *t, struct derr *e)
{
	struct search f = { .x = spice_of(s), .e = e };
	int r;

	for (;;) {
		uint64_t seq = change_seq();

		main_call(look, &f);
		if (f.matches == 1 && (f.x->want_name || f.x->want_id || f.lists))
			break;
		/* A list that is there and lacks it will not grow by waiting. */
		r = f.lists || !f.links ? -ENOENT : task_wait(t, seq, "Spice", e);
		if (r == -ECANCELED)
			goto out;
		if (r < 0) {
			r = explain(&f, e);
			goto out;
		}
	}
	r = 0;
out:
	g_free(f.names);
	return r;
}

/* Asking for a stream, on the main thread. */
struct ask {
	struct source_spice *x;
	struct link_open *open;
	bool asked;
	const char *lacks;
};

static struct link_port *port_of(struct source_spice *x, struct link **link)
{
	struct link *l = links_find(x->link);

	*link = l;
	return l && l->ready && x->s.drive >= 0 ? l->ports[x->s.drive] : NULL;
}

static void ask(void *arg)
{
	struct ask *a = arg;
	struct link *l;
	struct link_port *p = port_of(a->x, &l);
	const struct link_offer *o;

	if (!p || !p->complete) {
		a->lacks = "the share does not say hello on the drive's port";
		return;
	}
	o = link_port_offer(p, a->x->medium_id);
	if (!o) {
		a->lacks = "the share does not offer the medium on the drive's port";
		return;
	}
	a->x->epoch = p->epoch;
	a->x->opened = true;
	a->asked = true;
	links_open_stream(l, o->id, a->open);
}

static int spice_stream(struct source *s, char **name, struct task *t, struct derr *e)
{
	struct ask a = { .x = spice_of(s) };
	int r;

	a.open = link_open_new(a.x->link, s->drive);
	for (;;) {
		uint64_t seq = change_seq();

		if (!a.asked)
			main_call(ask, &a);
		if (g_atomic_int_get(&a.open->done))
			break;
		r = task_wait(t, seq, a.asked ? "the share opens no stream" : a.lacks, e);
		if (r < 0)
			goto out;
	}
	if (a.open->error) {
		r = derr_set(e, a.open->error, "Spice: %s", a.open->text);
		goto out;
	}
	r = a.open->fd;
	a.open->fd = -1;
	*name = g_strdup("");
out:
	link_open_unref(a.open);
	return r;
}

static struct nbd_handle *spice_connect(struct source *s, struct task *t, struct derr *e)
{
	g_autofree char *name = NULL;
	int fd = spice_stream(s, &name, t, e);

	return fd < 0 ? NULL : nbdconn_socket(fd, t, e);
}

/* Finding it again, on the main thread. */
struct again {
	struct source_spice *x;
	bool need_fence, reset_done, found;
	struct source_resume *out;
	const char *lacks;
	int stale;
	struct derr *e;
};

static bool knows(const struct source_spice *x, const uint8_t *instance)
{
	static const uint8_t none[FRAME_UUID_LEN];

	return memcmp(x->instance, none, sizeof(none)) &&
	       !memcmp(x->instance, instance, sizeof(x->instance));
}

/* The share says the same id, but something else shows that it is another one. */
static void same_id_successor(struct again *a)
{
	memcpy(a->x->successor_id, a->x->medium_id, FRAME_UUID_LEN);
	a->x->has_successor = a->out->another = true;
}

/* The same name, but not the same store: what is offered there now. */
static void look_for_another(struct again *a, const struct link_port *p)
{
	struct source_spice *x = a->x;

	for (unsigned int i = 0; i < p->nr_offers && !x->has_successor; i++) {
		char *name = source_clean_name(p->offers[i].name);

		if (!strcmp(name, x->s.name)) {
			memcpy(x->successor_id, p->offers[i].medium_id, FRAME_UUID_LEN);
			x->has_successor = true;
			a->stale = derr_set(a->e, ESTALE, "the share offers another medium of "
					    "that name now");
		}
		g_free(name);
	}
	a->out->another = x->has_successor;
}

static void look_again(void *arg)
{
	struct again *a = arg;
	struct source_spice *x = a->x;
	struct link *l;
	struct link_port *p = port_of(x, &l);
	const struct link_offer *o;

	a->lacks = "no share is connected";
	if (!p && l && knows(x, l->ended))
		a->stale = derr_set(a->e, ESTALE, "the share was ended by its user");
	if (!p || !p->complete)
		return;
	/*
	 * A share answers the hello of a new epoch only when every connection
	 * of older ones has ended: a new epoch is the fence.
	 */
	if (a->need_fence && x->opened && p->epoch == x->epoch) {
		a->lacks = "the share does not begin a new session";
		if (!a->reset_done)
			links_reset_port(l, x->s.drive);
		a->reset_done = true;
		return;
	}
	o = link_port_offer(p, x->medium_id);
	a->lacks = "the share does not offer the medium any more";
	/* Another share may just be in its place; the same one took it back. */
	if (!o && knows(x, p->instance))
		a->stale = derr_set(a->e, ESTALE, "the share took it back");
	if (!o)
		look_for_another(a, p);
	/* It comes back, or the drive's migration ends with it there. */
	if (o && o->flags & FRAME_OFFER_AWAY)
		a->lacks = "the medium belongs to another host";
	if (!o || o->flags & FRAME_OFFER_AWAY)
		return;
	if (o->size != x->size) {
		a->stale = derr_set(a->e, ESTALE, "its size is another one");
		same_id_successor(a);
		return;
	}
	if (memcmp(o->incarnation, x->incarnation, sizeof(x->incarnation)) &&
	    !(o->flags & FRAME_OFFER_DURABLE)) {
		a->stale = derr_set(a->e, ESTALE, "the share's server was started anew and keeps "
				    "no writes");
		same_id_successor(a);
		return;
	}
	a->out->fenced = a->need_fence;
	a->out->flush_lost = memcmp(p->boot_id, x->boot_id, sizeof(x->boot_id)) != 0;
	memcpy(x->incarnation, o->incarnation, sizeof(x->incarnation));
	memcpy(x->next_boot_id, p->boot_id, sizeof(x->next_boot_id));
	memcpy(x->instance, p->instance, sizeof(x->instance));
	a->found = true;
}

/*
 * Not before: were the connection lost once more in between, the next attempt
 * would see no other machine, and nobody would hear of what that one lost.
 */
static void spice_resumed(struct source *s)
{
	struct source_spice *x = spice_of(s);

	memcpy(x->boot_id, x->next_boot_id, sizeof(x->boot_id));
}

static struct source *spice_successor(struct source *s)
{
	struct source_spice *x = spice_of(s);

	return x->has_successor ? source_spice_of(x->link, x->successor_id) : NULL;
}

static int spice_resume(struct source *s, bool need_fence, struct source_resume *out,
			struct task *t, struct derr *e)
{
	struct again a = {
		.x = spice_of(s), .need_fence = need_fence, .out = out, .e = e,
	};

	for (;;) {
		uint64_t seq = change_seq();
		int r;

		main_call(look_again, &a);
		if (a.found)
			return 0;
		if (a.stale)
			return a.stale;
		r = task_wait(t, seq, a.lacks, e);
		if (r < 0)
			return r;
	}
}

static void spice_notice(struct source *s, enum source_notice what, const char *text)
{
	static const uint32_t codes[] = {
		[SOURCE_INSERTED] = FRAME_NOTICE_INSERTED,
		[SOURCE_EJECTED] = FRAME_NOTICE_EJECTED,
		[SOURCE_BUSY] = FRAME_NOTICE_BUSY,
		[SOURCE_LOCKED] = FRAME_NOTICE_LOCKED,
		[SOURCE_UNLOCKED] = FRAME_NOTICE_UNLOCKED,
	};
	struct source_spice *x = spice_of(s);
	struct link *l;
	struct link_port *p = port_of(x, &l);
	const struct link_offer *o = p ? link_port_offer(p, x->medium_id) : NULL;

	if (o)
		links_notice(l, s->drive, o->id, codes[what], text);
}

static void spice_out(struct source *s, bool unanswered)
{
	struct source_spice *x = spice_of(s);
	struct link *l;

	/* What is under way must not land after the next insert's writes. */
	if (x->opened && unanswered && port_of(x, &l))
		links_reset_port(l, s->drive);
	x->opened = false;
}

static void set_hex(JsonObject *o, const char *name, const uint8_t *p)
{
	char hex[2 * FRAME_UUID_LEN + 1];

	hex_encode(p, FRAME_UUID_LEN, hex);
	json_object_set_string_member(o, name, hex);
}

static bool get_hex(JsonObject *o, const char *name, uint8_t *p)
{
	return hex_decode(member_str(o, name, ""), p,
			  FRAME_UUID_LEN);
}

static void spice_save(struct source *s, JsonObject *o)
{
	struct source_spice *x = spice_of(s);

	json_object_set_string_member(o, "link", x->link);
	json_object_set_int_member(o, "size", x->size);
	json_object_set_int_member(o, "epoch", x->epoch);
	set_hex(o, "medium-id", x->medium_id);
	set_hex(o, "incarnation", x->incarnation);
	set_hex(o, "boot-id", x->boot_id);
	set_hex(o, "instance", x->instance);
}

static int spice_load(struct source *s, JsonObject *o)
{
	struct source_spice *x = spice_of(s);

	g_strlcpy(x->link, member_str(o, "link", ""),
		  sizeof(x->link));
	x->size = member_int(o, "size", 0);
	x->epoch = member_int(o, "epoch", 0);
	x->opened = true;
	if (!x->link[0] || !get_hex(o, "medium-id", x->medium_id) ||
	    !get_hex(o, "incarnation", x->incarnation) || !get_hex(o, "boot-id", x->boot_id))
		return -EINVAL;
	/* Not in the state of older versions: then its end is not known by it. */
	if (!get_hex(o, "instance", x->instance))
		memset(x->instance, 0, sizeof(x->instance));
	memcpy(s->store, x->medium_id, sizeof(x->medium_id));
	s->store_len = sizeof(x->medium_id);
	return 0;
}

static void spice_free(struct source *s)
{
	struct source_spice *x = spice_of(s);

	g_free(x->want_link);
	g_free(x->want_name);
	g_free(x);
}

static const struct source_ops spice_ops = {
	.open = spice_open,
	.resume = spice_resume,
	.resumed = spice_resumed,
	.successor = spice_successor,
	.connect = spice_connect,
	.stream = spice_stream,
	.notice = spice_notice,
	.close = spice_out,
	.save = spice_save,
	.load = spice_load,
	.free = spice_free,
};

struct source *source_spice_new(const char *link, const char *medium)
{
	struct source_spice *x = g_new0(struct source_spice, 1);

	x->s.refs = 1;
	x->s.ops = &spice_ops;
	x->s.type = SOURCE_SPICE;
	x->s.drive = -1;
	x->s.write_limit = WRITE_LIMIT;
	x->want_link = g_strdup(link);
	x->want_name = g_strdup(medium);
	x->s.uri = g_strdup_printf("spice:%s%s%s", link ?: "", link ? "/" : "", medium ?: "");
	return &x->s;
}

struct source *source_spice_of(const char *link, const uint8_t *medium_id)
{
	struct source *s = source_spice_new(link, NULL);
	struct source_spice *x = spice_of(s);

	memcpy(x->medium_id, medium_id, sizeof(x->medium_id));
	x->want_id = true;
	return s;
}

const char *source_spice_link(const struct source *s, const uint8_t **medium_id)
{
	const struct source_spice *x = (const struct source_spice *)s;

	if (s->type != SOURCE_SPICE)
		return NULL;
	*medium_id = x->medium_id;
	return x->link;
}

bool source_is_offer(const struct source *s, const char *link, const uint8_t *medium_id)
{
	const struct source_spice *x = (const struct source_spice *)s;

	return s->type == SOURCE_SPICE && !strcmp(x->link, link) &&
	       !memcmp(x->medium_id, medium_id, FRAME_UUID_LEN);
}
