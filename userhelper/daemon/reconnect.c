// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finding a far end again: while we live and it was lost, and after our own
 * restart, when an earlier spicebdd had it. Whether what was not answered may be
 * sent again is decided here and nowhere else.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control.h"
#include "drive.h"
#include "inuse.h"
#include "log.h"
#include "medium.h"
#include "sock.h"
#include "state.h"
#include "successor.h"

/*
 * For one step of an attempt: the source is there, a connection stands, it has told
 * what it serves. Twice as much after each attempt that ended so: the next one begins
 * from nothing, so with a fixed limit, or one for all connections together, a far end
 * that is only slow would never be back.
 */
#define STEP_MIN_MS	15000
#define STEP_MAX_MS	60000
#define PAUSE_MIN_MS	100
#define PAUSE_MAX_MS	2000

struct reconnect {
	struct medium *m;
	struct nbd_handle *h[IO_QUEUES_MAX];
	unsigned int n;
	struct source_resume resume;
	bool ready, need_fence, fatal, done;
	int limit;		/* ms for a step */
	uint32_t rtt_us;
	unsigned int again;	/* requests that go on over the new connections */
	struct derr err;
};

static void drop_handles(struct reconnect *r)
{
	for (unsigned int i = 0; i < r->n; i++)
		nbd_close(r->h[i]);
	r->n = 0;
}

/*
 * Main thread. What was sent can only be counted when the threads of the old
 * connections have let go of them.
 */
static void step_begin(void *arg)
{
	struct reconnect *r = arg;
	struct medium *m = r->m;

	r->ready = false;
	if (m->io)
		r->ready = io_disconnected(m->io);
	else
		r->ready = !m->ending;
	r->need_fence = !m->read_only && (m->fence || (m->io && io_sent_writes(m->io)));
}

static int wait_begin(struct reconnect *r, struct task *t)
{
	for (;;) {
		uint64_t seq = change_seq();
		int e;

		main_call(step_begin, r);
		if (r->ready)
			return 0;
		e = task_wait(t, seq, "the old connections do not end", &r->err);
		if (e < 0)
			return e;
	}
}

/* Is the export the one that we had? Only then is its writing of use. */
static int check_same(const struct medium *m, const struct nbd_props *p, struct derr *e)
{
	const struct nbd_props *o = &m->props;

	if (p->size != o->size)
		return derr_set(e, ESTALE, "its size is another one: %llu bytes, not %llu",
				(unsigned long long)p->size, (unsigned long long)o->size);
	if (p->read_only && !m->read_only)
		return derr_set(e, ESTALE, "it is read-only now");
	if ((o->flush && !p->flush) || (!m->read_only && ((o->fua && !p->fua) ||
	    (o->trim && !p->trim) || (o->zero && !p->zero))) || (m->conns > 1 && !p->multi) ||
	    p->max_payload < o->max_payload || p->min_block > o->min_block)
		return derr_set(e, ESTALE, "the server can less than before");
	if (m->source->type == SOURCE_NBD && memcmp(p->digest, o->digest, sizeof(p->digest)))
		return derr_set(e, ESTALE, "it is another export, or its content is another one");
	return 0;
}

static bool fatal(int code)
{
	return code == -ESTALE;
}

/* The far end has done something: it gets time for what comes next. */
static void next_step(const struct reconnect *r, struct task *t)
{
	t->deadline = now_ms() + r->limit;
}

static int attempt(struct reconnect *r, struct task *t)
{
	struct medium *m = r->m;
	struct source *s = m->source;
	int e;

	memset(&r->resume, 0, sizeof(r->resume));
	r->rtt_us = 0;
	e = s->ops->resume(s, r->need_fence, &r->resume, t, &r->err);
	if (e < 0)
		return e;
	if (r->need_fence && !r->resume.fenced)
		return derr_set(&r->err, ESTALE, "writes were under way, and this server cannot "
				"show that they will not land later (insert --resend takes that "
				"risk)");
	while (r->n < m->conns) {
		struct nbd_props p;
		struct nbd_handle *h;

		next_step(r, t);
		h = s->ops->connect(s, t, &r->err);
		if (!h)
			return r->err.code ? -r->err.code : -EIO;
		r->h[r->n++] = h;
		next_step(r, t);
		e = nbdconn_props(h, &p, t, &r->err);
		if (!e)
			e = check_same(m, &p, &r->err);
		r->resume.another |= e == -ESTALE;
		if (e < 0)
			return e;
		r->rtt_us = r->rtt_us ? MIN(r->rtt_us, p.rtt_us) : p.rtt_us;
	}
	return 0;
}

static void flush_doubt(struct reconnect *r)
{
	struct medium *m = r->m;
	bool dirty = m->dirty_unknown || (m->io && io_dirty(m->io));

	if (!r->resume.flush_lost || m->read_only || !dirty)
		return;
	if (!m->props.flush) {
		r->fatal = true;
		derr_set(&r->err, ESTALE, "what was written may be lost, and this server has no "
			 "flush that could say so");
		return;
	}
	log_warn("drive %s: writes since the last flush may be lost: the next flush fails",
		 m->drive->k.name);
	m->flush_lost = true;
	if (m->io) {
		io_fail_flush(m->io);
		m->flush_lost = false;
	}
}

static bool too_late(const struct medium *m)
{
	return m->deadline && now_ms() >= m->deadline;
}

/*
 * What was fetched ahead is kept only where the store itself says that it is the
 * same and cannot have been written to: a share, or a file of our own, that
 * serves it read-only. A plain NBD server's export is compared in a few places
 * only, and a file can be replaced behind it.
 */
static bool cache_survives(const struct medium *m)
{
	return m->source->type != SOURCE_NBD &&
	       (m->props.read_only || m->source->offer_read_only);
}

/*
 * Main thread. The kernel is told first: once it has stopped its clock it fails
 * nothing that we then send, and our own clock, which ends before the kernel's,
 * is looked at last.
 */
static void take_up(struct reconnect *r)
{
	struct medium *m = r->m;
	struct kernel_err ke;

	if (m->io) {
		if (kernel_link_report(drives_kernel, m->drive->index, SPICEBD_LINK_UP,
				       &ke) < 0) {
			drive_err(m->drive, &ke, "reconnect", &r->err);
			return;
		}
		if (too_late(m)) {
			r->fatal = true;
			derr_set(&r->err, ETIMEDOUT, "it came back too late");
			return;
		}
		if (!cache_survives(m))
			io_forget(m->io);
		r->again = io_unanswered(m->io);
		medium_connect(m, r->h, r->n);
		r->n = 0;
	} else {
		unsigned int n = r->n;

		r->n = 0;
		m->conns = n;
		m->props.rtt_us = r->rtt_us;
		if (medium_attach(m, r->h, &r->err) < 0)
			return;
	}
	if (m->source->ops->resumed)
		m->source->ops->resumed(m->source);
	m->props.rtt_us = r->rtt_us;
	m->fence = m->dirty_unknown = m->clean = false;
	r->done = true;
	/* The next loss, which may be reported at once, has a task of its own. */
	task_unref(m->reconnect);
	m->reconnect = NULL;
}

static void step_end(void *arg)
{
	struct reconnect *r = arg;
	struct medium *m = r->m;
	struct derr e;

	if (m->state != MEDIUM_IN || blockers_stopped())
		return;
	/* The kernel took the drive from us in between: look again. */
	if (m->fence && !m->read_only && !r->need_fence) {
		derr_set(&r->err, EAGAIN, "the drive is taken up again");
		return;
	}
	if (too_late(m)) {
		r->fatal = true;
		derr_set(&r->err, ETIMEDOUT, "it came back too late");
	} else {
		flush_doubt(r);
	}
	if (!r->fatal)
		take_up(r);
	if (!r->done)
		return;
	m->link_up = true;
	m->stalled = false;
	m->reason[0] = '\0';
	medium_set_deadline(m, 0);
	m->drive->blockers &= ~BLOCK_ADOPT;
	if (state_save(&e) < 0)
		log_err("%s", e.text);
	log_notice("drive %s: far end is back; requests that waited: %u", m->drive->k.name,
		   r->again);
	m->source->ops->notice(m->source, SOURCE_INSERTED, NULL);
	inuse_again(m->drive);
	control_link_event(m->drive, true, NULL);
	change_wake();
}

static void step_failed(void *arg)
{
	struct reconnect *r = arg;
	struct medium *m = r->m;

	if (m->state != MEDIUM_IN)
		return;
	g_strlcpy(m->reason, r->err.text, sizeof(m->reason));
	if (!r->fatal)
		return;
	drive_fail(m->drive, r->err.text);
	if (r->resume.another && m->source->ops->successor)
		successor_expect(m->drive, m);
}

static void step_over(void *arg)
{
	struct reconnect *r = arg;
	struct medium *m = r->m;

	if (!r->done) {
		task_unref(m->reconnect);
		m->reconnect = NULL;
	}
	change_wake();
	medium_unref(m);
	g_free(r);
}

static void run(struct task *t, void *arg)
{
	struct reconnect *r = arg;
	int pause = PAUSE_MIN_MS;

	r->limit = STEP_MIN_MS;
	while (!r->done && !r->fatal && !task_cancelled(t)) {
		int e;

		next_step(r, t);
		memset(&r->err, 0, sizeof(r->err));
		e = wait_begin(r, t);
		if (!e)
			e = attempt(r, t);
		if (!e)
			main_call(step_end, r);
		drop_handles(r);
		if (r->done || task_cancelled(t))
			break;
		r->fatal |= fatal(e);
		main_call(step_failed, r);
		if (now_ms() >= t->deadline)
			r->limit = MIN(r->limit * 2, STEP_MAX_MS);
		t->deadline = 0;
		if (task_pause(t, pause) < 0)
			break;
		pause = MIN(pause * 2, PAUSE_MAX_MS);
	}
	main_call(step_over, r);
}

void medium_reconnect(struct medium *m)
{
	struct reconnect *r;

	if (m->reconnect)
		return;
	r = g_new0(struct reconnect, 1);
	r->m = medium_ref(m);
	m->reconnect = task_new("reconnect", 0, run, r);
	if (!m->reconnect || !task_run(m->reconnect)) {
		task_unref(m->reconnect);
		m->reconnect = NULL;
		medium_unref(m);
		g_free(r);
		drive_fail(m->drive, "out of memory or threads");
	}
}
