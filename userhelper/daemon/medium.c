// SPDX-License-Identifier: GPL-2.0-only
#include "medium.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cache.h"
#include "control.h"
#include "drive.h"
#include "export.h"
#include "freeze.h"
#include "log.h"
#include "migrate.h"
#include "privs.h"
#include "snapshot.h"
#include "sock.h"
#include "state.h"

#define QUEUES_MEMORY	(16u << 20)
#define ROUND_UP(n, to)	(((n) + (to) - 1) / (to) * (to))
/* Silence of a far end that owes answers, before it counts as lost. */
#define STALL_MS	8000
/* Where the kernel bears it for ever. */
#define STALL_ENDLESS_S	600u
/* A far end that falls silent again before this, after it was connected anew, is slow. */
#define CALM_MS		60000
/* A larger trim or zeroing could keep a server busy past every time limit. */
#define MAX_DISCARD	(64u << 20)

static unsigned int all_ending;

bool media_quiet(void)
{
	return !all_ending;
}

const char *medium_kind_str(enum medium_kind k)
{
	return k == KIND_CDROM ? "cdrom" : "disk";
}

struct medium *medium_new(struct drive *d, struct source *s, const struct nbd_props *p)
{
	struct medium *m = g_new0(struct medium, 1);

	m->refs = 1;
	m->drive = d;
	m->source = source_ref(s);
	m->props = *p;
	m->name = g_strdup(s->name ?: "");
	m->conns = 1;
	m->far = faropts_resolve(&m->far);
	for (int i = 0; i < IO_QUEUES_MAX; i++)
		m->sock[i] = -1;
	s->drive = d->index;
	return m;
}

struct medium *medium_ref(struct medium *m)
{
	g_atomic_int_inc(&m->refs);
	return m;
}

static void free_on_main(void *arg)
{
	struct medium *m = arg;

	for (int i = 0; i < IO_QUEUES_MAX; i++)
		if (m->sock[i] >= 0)
			close(m->sock[i]);
	source_unref(m->source);
	g_free(m->name);
	g_free(m);
}

void medium_unref(struct medium *m)
{
	if (m && g_atomic_int_dec_and_test(&m->refs))
		main_post(free_on_main, m);
}

static uint32_t power_of_two(uint32_t v, uint32_t min, uint32_t max)
{
	uint32_t p = min;

	while (p < v && p < max)
		p *= 2;
	return p;
}

void medium_for_kernel(const struct medium *m, struct kernel_medium *km)
{
	/* A CD has blocks of one size, whatever the server likes best. */
	uint32_t least = drive_has_tray(m->drive) ? 2048 : 512;
	uint32_t most = drive_has_tray(m->drive) ? 2048 : 4096;
	const struct nbd_props *p = &m->props;

	memset(km, 0, sizeof(*km));
	memcpy(km->id, m->id, m->id_len);
	km->id_len = m->id_len;
	km->size = p->size;
	km->block_size = power_of_two(p->pref_block, least, most);
	if (p->pref_block > km->block_size && p->pref_block <= m->drive->k.max_io)
		km->io_opt = p->pref_block;
	km->read_ahead = faropts_first_read_ahead(&m->far, p->rtt_us);
	if (p->rotational)
		km->flags |= SPICEBD_MEDIUM_ROTATIONAL;
	if (m->read_only) {
		km->flags |= SPICEBD_MEDIUM_READ_ONLY;
		return;
	}
	if (p->flush)
		km->flags |= SPICEBD_MEDIUM_FLUSH;
	if (p->fua)
		km->flags |= SPICEBD_MEDIUM_FUA;
	if (p->trim && !m->source->no_discard)
		km->flags |= SPICEBD_MEDIUM_DISCARD;
	if (p->zero)
		km->flags |= SPICEBD_MEDIUM_WRITE_ZEROES;
	km->discard_align = km->block_size;
	km->max_discard = MAX_DISCARD;
}

/* The far end. */

static void up_again(struct medium *m)
{
	m->link_up = true;
	m->stalled = false;
	m->reason[0] = '\0';
	medium_set_deadline(m, 0);
	control_link_event(m->drive, true, NULL);
	change_wake();
}

static gboolean deadline_came(gpointer arg)
{
	struct medium *m = arg;

	m->deadline_timer = 0;
	if (m->state == MEDIUM_IN && !m->link_up) {
		char *why = g_strdup_printf("it did not come back in time: %s", m->reason);

		drive_fail(m->drive, why);
		g_free(why);
	}
	return G_SOURCE_REMOVE;
}

void medium_set_deadline(struct medium *m, long long deadline)
{
	long long left = deadline - now_ms();

	/* Its clock stands; freeze.c sets it when the drive is thawed. */
	if (freeze_held(m->drive))
		deadline = 0;
	m->deadline = deadline;
	if (m->deadline_timer)
		g_source_remove(m->deadline_timer);
	m->deadline_timer = deadline ? g_timeout_add(CLAMP(left, 0, G_MAXINT),
						     deadline_came, m) : 0;
}

long long medium_hold_deadline(const struct kernel_drive *k)
{
	if (k->reconnect_timeout < 0 || !k->hold_limited)
		return 0;
	return now_ms() + k->hold_left_ms - MIN(500, k->hold_left_ms / 10);
}

/*
 * From here the kernel's clock runs, and ours beside it: ours began before and
 * ends before, so that nothing is sent again which the kernel has failed.
 */
static void down(struct medium *m, const char *why)
{
	int32_t limit = m->drive->k.reconnect_timeout;
	struct kernel_err ke;

	m->link_up = false;
	g_strlcpy(m->reason, why, sizeof(m->reason));
	log_warn("drive %s: far end lost: %s", m->drive->k.name, why);
	medium_set_deadline(m, limit < 0 ? 0 : now_ms() + limit * 1000LL -
			    MIN(500, limit * 100));
	if (kernel_link_report(drives_kernel, m->drive->index, SPICEBD_LINK_LOST, &ke) < 0)
		log_warn("drive %s: %s", m->drive->k.name, ke.text);
	control_link_event(m->drive, false, why);
}

static void lost(struct medium *m, const char *why)
{
	if (m->reconnect)
		return;
	if (m->link_up)
		down(m, why);
	m->stalled = false;
	if (m->io)
		io_disconnect(m->io);
	if (!m->drive->k.reconnect_timeout)
		return;		/* its deadline is now */
	medium_reconnect(m);
}

/* A third of what the kernel bears, before it takes the drive from us for silence. */
static int third_ms(const struct drive *d)
{
	return (int)MIN(d->k.stall_timeout ?: STALL_ENDLESS_S, STALL_ENDLESS_S) * 1000 / 3;
}

/*
 * Asked again at once, a server that is only slow would begin again and again with
 * what it never ends.
 */
static void more_patience(struct medium *m)
{
	if (now_ms() - m->stall_ms - m->up_at >= CALM_MS)
		m->stall_ms = 0;
	else
		m->stall_ms = MIN(m->stall_ms * 2, 2 * third_ms(m->drive));
}

void medium_connect(struct medium *m, struct nbd_handle **h, unsigned int n)
{
	if (!m->stall_ms)
		m->stall_ms = MIN(STALL_MS, third_ms(m->drive));
	m->up_at = now_ms();
	io_connect(m->io, h, n, m->stall_ms);
}

/*
 * A server that is silent may be slow, or gone. Where nothing could land late
 * we go and look for it; else only its own answer can help.
 */
static void stalled(struct medium *m)
{
	bool patient = m->source->type == SOURCE_NBD && !m->source->resend && !m->read_only &&
		       io_sent_writes(m->io);

	if (!m->link_up)
		return;
	if (!patient) {
		more_patience(m);
		lost(m, "the server does not answer");
		return;
	}
	m->stalled = true;
	down(m, "the server does not answer, and cannot be asked again while writes are "
	     "under way");
}

/* Main thread; rare, since only a quite different path is told. */
static void path_changed(struct medium *m)
{
	struct far_stats f;
	struct kernel_err ke;

	if (m->far.read_ahead != FAR_AUTO || !io_far(m->io, &f))
		return;
	log_debug("drive %s: round trip %u us, %llu bytes/s: read-ahead %u", m->drive->k.name,
		  f.rtt, (unsigned long long)f.rate, f.read_ahead);
	if (kernel_read_ahead(drives_kernel, m->drive->index, f.read_ahead, &ke) < 0)
		log_warn("drive %s: cannot set the read-ahead: %s", m->drive->k.name, ke.text);
}

static void alive(struct medium *m)
{
	struct kernel_err ke;

	if (!m->stalled)
		return;
	if (kernel_link_report(drives_kernel, m->drive->index, SPICEBD_LINK_UP, &ke) < 0)
		log_warn("drive %s: %s", m->drive->k.name, ke.text);
	log_notice("drive %s: far end answers again", m->drive->k.name);
	up_again(m);
}

/* What a set of threads reports to. */
struct io_owner {
	struct medium *m;
	struct io *io;
};

static void on_ended(struct io_owner *o)
{
	struct medium *m = o->m;

	if (m->io == o->io) {
		m->clean = io_clean(o->io);
		m->io = NULL;
	}
	io_free(o->io);
	g_free(o);
	m->ending--;
	all_ending--;
	change_wake();
	medium_unref(m);
}

static void remember(void)
{
	struct derr e;

	if (state_save(&e) < 0)
		log_err("%s", e.text);
}

static void on_io(enum io_event ev, unsigned int round, const char *text, void *arg)
{
	struct io_owner *o = arg;
	struct medium *m = o->m;

	if (ev == IO_ENDED) {
		on_ended(o);
		return;
	}
	if (m->io != o->io || m->state != MEDIUM_IN)
		return;
	if (ev == IO_FLUSH_FAILED) {
		remember();
		return;
	}
	if (blockers_stopped() || round != io_round(o->io))
		return;
	if (ev == IO_LOST)
		lost(m, text);
	else if (ev == IO_STALLED)
		stalled(m);
	else if (ev == IO_ALIVE)
		alive(m);
	else if (ev == IO_PATH)
		path_changed(m);
}

/* Threads. */

int medium_prepare(struct medium *m, struct derr *e)
{
	for (unsigned int i = 0; i < m->conns; i++) {
		m->sock[i] = privs_queue_socket(e);
		if (m->sock[i] < 0)
			return -e->code;
	}
	return 0;
}

static int bind_queues(struct medium *m, struct kernel_keys *keys, struct derr *e)
{
	for (unsigned int i = 0; i < m->conns; i++) {
		int sock = m->sock[i] >= 0 ? m->sock[i] : privs_queue_socket(e);
		int r = sock < 0 ? sock : io_add_queue(m->io, sock, keys->key[i], e);

		m->sock[i] = -1;
		if (r < 0)
			return r;
	}
	return io_start(m->io) < 0 ? derr_set(e, EAGAIN, "cannot start a thread") : 0;
}

static void stop_io(struct medium *m, enum io_stop how, int limit_ms)
{
	m->ending++;
	all_ending++;
	io_stop(m->io, how, limit_ms);
}

/*
 * Memory to register for each connection: enough for a depth of large requests,
 * or of many small ones; what finds no room waits in the kernel. One reader uses
 * one queue: a whole read-ahead of a far medium has room in it.
 */
static size_t queue_memory(const struct medium *m)
{
	size_t far = faropts_first_read_ahead(&m->far, m->props.rtt_us);
	/* Room to round each up. */
	size_t most = SPICEBD_MAX_BUFFER - IO_QUEUES_MAX * 4096;
	size_t share = MAX(QUEUES_MEMORY, MIN(far * m->conns, most)) / m->conns;

	return ROUND_UP(MAX(share, 2 * (size_t)m->drive->k.max_io), 4096);
}

/* Blocks of the cache's size have to be such as the server gives. */
static uint32_t cache_bytes(const struct medium *m)
{
	const struct nbd_props *p = &m->props;

	if (p->max_payload < CACHE_BLOCK || p->min_block > 2048)
		return 0;
	return faropts_cache_bytes(&m->far, m->read_only,
				   p->read_only || m->source->offer_read_only, p->rtt_us);
}

int medium_attach(struct medium *m, struct nbd_handle **h, struct derr *e)
{
	/* As where the kernel does not take the memory: for tests. */
	bool in_messages = g_strcmp0(g_getenv("SPICEBD_PAYLOAD"), "messages") == 0;
	struct drive *d = m->drive;
	struct io_params p = {
		.family = kernel_family(drives_kernel),
		.max_io = d->k.max_io,
		.memory = in_messages ? 0 : queue_memory(m),
		.write_limit = m->source->write_limit,
		.measure = faropts_measure(&m->far, m->props.rtt_us),
		.cache = cache_bytes(m),
		/* For comparing the two. */
		.libnbd = g_strcmp0(g_getenv("SPICEBD_TRANSMISSION"), "libnbd") == 0,
		.props = m->props,
		.read_only = m->read_only,
		.event = on_io,
	};
	struct io_owner *o;
	struct kernel_keys keys;
	struct kernel_err ke;
	int r;

	r = kernel_attach(drives_kernel, d->index, m->conns, &keys, &ke);
	if (r < 0) {
		for (unsigned int i = 0; i < m->conns; i++)
			nbd_close(h[i]);
		if (r == -EBUSY)
			return derr_set(e, EBUSY, "drive %s: another program serves it",
					d->k.name);
		return drive_err(d, &ke, "attach", e);
	}
	m->attached = true;
	p.arg = o = g_new0(struct io_owner, 1);
	o->m = medium_ref(m);
	o->io = m->io = io_new(&p);
	if (m->flush_lost)
		io_fail_flush(m->io);
	m->flush_lost = false;
	r = bind_queues(m, &keys, e);
	/* The threads have them before the first request is looked at. */
	medium_connect(m, h, m->conns);
	m->link_up = true;
	if (r < 0)
		medium_release(m);
	return r;
}

void medium_release(struct medium *m)
{
	struct kernel_err ke;

	if (m->io)
		stop_io(m, IO_STOP_NOW, 0);
	m->io = NULL;
	if (m->attached && kernel_detach(drives_kernel, m->drive->index, &ke) < 0 &&
	    ke.code != ENODEV && ke.code != EPERM && ke.code != ENOENT)
		log_warn("drive %s: %s", m->drive->k.name, ke.text);
	m->attached = false;
	m->link_up = false;
}

static void stop_waiting(struct medium *m)
{
	medium_set_deadline(m, 0);
	if (m->reconnect)
		task_cancel(m->reconnect);
}

void medium_drain(struct medium *m, int limit_ms)
{
	stop_waiting(m);
	if (m->io)
		stop_io(m, IO_STOP_DRAIN, limit_ms);
}

void medium_out(struct medium *m)
{
	struct drive *d = m->drive;
	bool unanswered = m->io ? io_unanswered(m->io) : m->fence;
	struct derr e;

	if (m->state == MEDIUM_OUT)
		return;
	m->state = MEDIUM_OUT;
	migrate_medium_out(d);
	stop_waiting(m);
	snapshots_medium_out(m, "the medium has left the drive");
	medium_release(m);
	exports_medium_out(m);
	m->source->ops->notice(m->source, SOURCE_EJECTED, NULL);
	m->source->ops->close(m->source, unanswered);
	if (d->medium == m)
		d->medium = NULL;
	if (state_save(&e) < 0)
		log_err("%s", e.text);
	change_wake();
	medium_unref(m);
}

void medium_orphaned(struct medium *m)
{
	bool dirty = m->io && io_dirty(m->io);

	log_warn("drive %s: the kernel took it from us: we did not answer in time",
		 m->drive->k.name);
	/* Others may have had the drive, and copied nothing. */
	snapshots_medium_out(m, "the kernel took the drive from spicebdd");
	m->attached = false;
	m->link_up = false;
	m->stalled = false;
	m->fence = true;
	m->dirty_unknown |= dirty;
	g_strlcpy(m->reason, "the drive is taken up again", sizeof(m->reason));
	if (m->io)
		stop_io(m, IO_STOP_NOW, 0);
	m->io = NULL;
	/* The kernel's clock runs already: what is left of it is ours. */
	medium_set_deadline(m, medium_hold_deadline(&m->drive->k));
	medium_reconnect(m);
}
