// SPDX-License-Identifier: GPL-2.0-only
/*
 * monitor: the kernel's events, which need no daemon, and spicebdd's own about
 * offers of shares while one runs.
 */
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "freezing.h"
#include "sock.h"

#define RETRY_MS 3000	/* to look for a daemon, or for the module, again */

struct monitor {
	bool json;
	uint32_t count;		/* events to show; 0: any number */
	uint32_t shown;
	long long deadline;	/* -1: none */
	struct kernel_events *ev;
	struct qmp *q;
	long long retry;
	bool lost;		/* the family went: open anew */
};

static void show(struct monitor *m, JsonObject *o)
{
	struct timespec t;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &t);
	m->shown++;
	if (m->json) {
		json_object_set_double_member(o, "timestamp", t.tv_sec + t.tv_nsec / 1e9);
		json_print_object(o);
		return;
	}
	localtime_r(&t.tv_sec, &tm);
	printf("%02d:%02d:%02d.%03ld %-10s %s", tm.tm_hour, tm.tm_min, tm.tm_sec,
	       t.tv_nsec / 1000000, json_str(o, "drive", json_str(o, "link", "-")),
	       json_str(o, "event", "?"));
	if (json_str(o, "text", NULL))
		printf(": %s", clean(json_str(o, "text", "")));
	putchar('\n');
	fflush(stdout);
}

static const char *detail(const struct kernel_drive *d, char *buf, size_t size)
{
	char n[32];

	switch (d->event) {
	case SPICEBD_EVENT_TRAY_MOVED:
		return d->tray == SPICEBD_TRAY_OPEN ? "open" : "closed";
	case SPICEBD_EVENT_MEDIUM_CHANGED:
		if (!(d->state & SPICEBD_STATE_MEDIUM))
			return "empty";
		snprintf(buf, size, "%s, %s", size_text(d->medium.size, n, sizeof(n)),
			 d->medium.flags & SPICEBD_MEDIUM_READ_ONLY ? "read-only" : "writable");
		return buf;
	case SPICEBD_EVENT_LOCK_CHANGED:
		return drive_locked(d) ? "locked" : "unlocked";
	case SPICEBD_EVENT_FREEZE:
	case SPICEBD_EVENT_FREEZE_EXPIRED:
		return freeze_str(d->freeze);
	}
	return NULL;
}

static void on_kernel(enum kernel_event_kind kind, const struct kernel_drive *d, void *arg)
{
	struct monitor *m = arg;
	g_autoptr(JsonObject) o = NULL;
	char buf[64];
	const char *text;

	if (m->count && m->shown >= m->count)
		return;
	o = json_object_new();
	if (kind == KERNEL_EVENT_DRIVE) {
		g_autoptr(JsonObject) drive = json_of_drive(d);

		json_object_set_string_member(o, "event", kernel_event_str(d->event));
		text = detail(d, buf, sizeof(buf));
		if (text)
			json_object_set_string_member(o, "text", text);
		json_merge(o, drive);
	} else {
		json_object_set_string_member(o, "event", kind == KERNEL_EVENT_FAMILY_GONE ?
					      "module-removed" : "module-loaded");
		m->lost = kind == KERNEL_EVENT_FAMILY_NEW;
	}
	show(m, o);
}

/* Of the daemon only what the kernel does not tell. */
static void on_daemon(struct monitor *m, JsonObject *e)
{
	JsonObject *data = json_obj(e, "data");
	const char *name = json_str(e, "event", "");
	g_autoptr(JsonObject) o = NULL;

	if (strcmp(name, "SPICEBD_MEDIA_CHANGED") && strcmp(name, "SPICEBD_LINK"))
		return;
	o = json_object_new();
	json_object_set_string_member(o, "event",
				      name[8] == 'M' ? "media-offers-changed" : "connection");
	if (data)
		json_merge(o, data);
	if (name[8] == 'L')
		json_object_set_string_member(o, "text", json_bool(data, "up") ? "up" : "down");
	show(m, o);
}

static void read_daemon(struct monitor *m)
{
	struct fault f = { 0 };
	JsonObject *e;

	while ((!m->count || m->shown < m->count) && (e = qmp_event(m->q, 1, &f))) {
		on_daemon(m, e);
		json_object_unref(e);
	}
	if (f.status && f.status != EXIT_TIMEOUT) {
		qmp_close(m->q);
		m->q = NULL;
		m->retry = now_ms() + RETRY_MS;
	}
}

static void look_for_daemon(struct monitor *m)
{
	struct fault f = { 0 };

	if (m->q || now_ms() < m->retry)
		return;
	m->q = daemon_connect(DAEMON_IF_RUNNING, &f);
	m->retry = now_ms() + RETRY_MS;
}

static int wait_ms(const struct monitor *m)
{
	long long until = m->q ? -1 : m->retry, left;

	if (m->deadline >= 0 && (until < 0 || m->deadline < until))
		until = m->deadline;
	if (until < 0)
		return -1;
	left = until - now_ms();
	return left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static bool reopen(struct monitor *m, struct fault *f)
{
	struct kernel_err e = { 0 };

	kernel_events_close(m->ev);
	m->lost = false;
	m->ev = kernel_events_open(&e);
	if (!m->ev)
		fault_kernel(f, &e);
	return m->ev;
}

static void tell_lost(struct monitor *m)
{
	g_autoptr(JsonObject) o = json_object_new();

	json_object_set_string_member(o, "event", "events-lost");
	show(m, o);
}

/* From here on no event is missed: whoever starts us waits for this line. */
static void tell_ready(const struct monitor *m)
{
	puts(m->json ? "{\"event\":\"monitoring\"}" : "monitoring; interrupt it to end");
	fflush(stdout);
}

static int run(struct monitor *m, struct fault *f)
{
	tell_ready(m);
	while (!m->count || m->shown < m->count) {
		struct pollfd p[2];
		int r;

		look_for_daemon(m);
		p[0] = (struct pollfd){ .fd = kernel_events_fd(m->ev), .events = POLLIN };
		p[1] = (struct pollfd){ .fd = m->q ? qmp_fd(m->q) : -1, .events = POLLIN };
		r = poll(p, 2, wait_ms(m));
		if (m->deadline >= 0 && now_ms() >= m->deadline)
			return m->count ? EXIT_TIMEOUT : EXIT_DONE;
		if (r <= 0)
			continue;
		if (p[0].revents) {
			r = kernel_events_read(m->ev, on_kernel, m);
			if (r == -ENOBUFS)
				tell_lost(m);
			if ((r < 0 && r != -ENOBUFS) || m->lost)
				if (!reopen(m, f))
					return fault_tell(f);
		}
		if (p[1].revents)
			read_daemon(m);
	}
	return EXIT_DONE;
}

static int parse(const struct verb *v, int argc, char **argv, struct monitor *m)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON,
		{ "count", required_argument, NULL, 'c' },
		{ "timeout", required_argument, NULL, 't' },
		OPT_END
	};
	int c, seconds, status;

	while ((c = verb_option(v, argc, argv, opts, &m->json, &status))) {
		if (c == 'c') {
			if (!parse_u32(optarg, UINT32_MAX, &m->count) || !m->count)
				return verb_usage(v, "\"%s\" is no number of events", optarg);
			continue;
		}
		if (!parse_seconds(optarg, &seconds))
			return verb_usage(v, "\"%s\" is no number of seconds", optarg);
		m->deadline = now_ms() + seconds * 1000LL;
	}
	return status >= 0 || argc == optind ? status : verb_usage(v, "it takes no drive");
}

int verb_monitor(const struct verb *v, int argc, char **argv)
{
	struct monitor m = { .deadline = -1 };
	struct fault f = { 0 };
	int r = parse(v, argc, argv, &m);

	if (r >= 0)
		return r;
	if (!reopen(&m, &f))
		return fault_tell(&f);
	r = run(&m, &f);
	qmp_close(m.q);
	kernel_events_close(m.ev);
	return r;
}
