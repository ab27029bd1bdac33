// SPDX-License-Identifier: GPL-2.0-only
/*
 * qemu: let a QEMU's drive follow one of ours.
 *
 * A QEMU that has /dev/spicebdN by host_cdrom passes on what its guest does:
 * eject, lock. The other way it passes on nothing: its drive models hear of
 * another medium only from its monitor, and ide-cd keeps the size it has read
 * at first. So what the kernel tells of our tray is done to the tray there.
 * That moves QEMU's own tray only, never ours again: no loop.
 */
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ANSWER_MS 10000

struct mirror {
	const char *drive, *socket, *device;	/* as given; @device may be NULL */
	struct kernel *k;
	struct kernel_events *ev;
	struct qmp *q;
	uint32_t index;
	uint64_t told;		/* the generation that QEMU's guest knows of, */
	bool told_readable;	/* ... and whether it can be read */
	bool moved, request;	/* what the events say that is not yet done */
	bool gone;
};

static bool is_ours(const struct mirror *m, JsonObject *b)
{
	const char *file = json_str(json_obj(b, "inserted"), "file", "");
	uint32_t index;

	if (m->device)
		return !strcmp(json_str(b, "qdev", ""), m->device) ||
		       !strcmp(json_str(b, "device", ""), m->device);
	return drive_name_parse(file, &index) && *file == '/' && index == m->index;
}

static void set_no_device(const struct mirror *m, struct fault *f)
{
	if (m->device)
		fault_set(f, EXIT_REFUSED,
			  "QEMU has no drive \"%s\"; query-block shows those it has",
			  clean(m->device));
	else
		fault_set(f, EXIT_REFUSED,
			  "no drive of QEMU uses /dev/spicebd%u; give it one by -blockdev "
			  "host_cdrom, or name it with --device", m->index);
}

/* QEMU's own view of the drive; to be unreferenced. NULL: @f. */
static JsonObject *qemu_drive(struct mirror *m, struct fault *f)
{
	g_autoptr(JsonNode) r = qmp_call(m->q, "query-block", NULL, -1, ANSWER_MS, f);
	JsonArray *a;

	if (!r)
		return NULL;
	a = JSON_NODE_HOLDS_ARRAY(r) ? json_node_get_array(r) : NULL;
	for (guint i = 0; a && i < json_array_get_length(a); i++) {
		JsonNode *n = json_array_get_element(a, i);
		JsonObject *b = JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;

		if (b && is_ours(m, b))
			return json_object_ref(b);
	}
	set_no_device(m, f);
	return NULL;
}

static bool qemu_tray(struct mirror *m, JsonObject *b, const char *command, bool force,
		      struct fault *f)
{
	const char *id = json_str(b, "qdev", json_str(b, "device", ""));
	JsonObject *args = json_object_new();
	g_autoptr(JsonNode) r = NULL;

	json_object_set_string_member(args, "id", id);
	if (!strcmp(command, "blockdev-open-tray"))
		json_object_set_boolean_member(args, "force", force);
	r = qmp_call(m->q, command, args, -1, ANSWER_MS, f);
	return r;
}

/*
 * Opening QEMU's tray and closing it is what makes its drive announce another
 * medium, and the lack of one too: a drive of QEMU's whose tray stays open
 * announces nothing. But a tray that the guest has opened is left open until
 * there is a medium.
 */
static bool tell(struct mirror *m, JsonObject *b, bool readable, struct fault *f)
{
	bool open = json_bool(b, "tray_open");

	if (!open && !qemu_tray(m, b, "blockdev-open-tray", true, f))
		return false;
	return (open && !readable) || qemu_tray(m, b, "blockdev-close-tray", false, f);
}

/*
 * The drive is asked anew, not the event believed: many may have come at once,
 * or some been lost. A medium that is not readable yet is another event's.
 */
static bool follow(struct mirror *m, struct fault *f)
{
	g_autoptr(JsonObject) b = NULL;
	struct kernel_drive d;
	bool closed, readable;

	if (drive_get_in(m->k, m->drive, &d, f) < 0)
		return false;
	closed = d.tray != SPICEBD_TRAY_OPEN;
	readable = closed && (d.state & SPICEBD_STATE_READY);
	if (closed && (d.state & SPICEBD_STATE_MEDIUM) && !readable)
		return true;
	b = qemu_drive(m, f);
	if (!b)
		return false;
	if (d.generation != m->told || readable != m->told_readable) {
		if (!tell(m, b, readable, f))
			return false;
	} else if (closed && json_bool(b, "tray_open")) {
		/* The guest has opened its tray, and ours would not or was closed. */
		if (!qemu_tray(m, b, "blockdev-close-tray", false, f))
			return false;
	}
	m->told = d.generation;
	m->told_readable = readable;
	return true;
}

/*
 * Somebody wants the medium, and QEMU's guest has locked the tray: it is asked
 * as by the button of a drive. An unlocked tray would open without asking, and
 * then it is not this guest that stands in the way.
 */
static bool pass_request(struct mirror *m, struct fault *f)
{
	g_autoptr(JsonObject) b = qemu_drive(m, f);

	if (!b)
		return false;
	return !json_bool(b, "locked") || qemu_tray(m, b, "blockdev-open-tray", false, f);
}

static void on_kernel(enum kernel_event_kind kind, const struct kernel_drive *d, void *arg)
{
	struct mirror *m = arg;

	if (kind != KERNEL_EVENT_DRIVE)
		m->gone = true;
	else if (d->index != m->index)
		return;
	else if (d->event == SPICEBD_EVENT_EJECT_REQUEST)
		m->request = true;
	else if (d->event == SPICEBD_EVENT_TRAY_MOVED ||
		 d->event == SPICEBD_EVENT_MEDIUM_CHANGED ||
		 d->event == SPICEBD_EVENT_DRIVE_REMOVED)
		m->moved = true;
}

static bool read_kernel(struct mirror *m, struct fault *f)
{
	int r = kernel_events_read(m->ev, on_kernel, m);

	if (r == -ENOBUFS) {
		m->moved = true;
	} else if (r < 0 || m->gone) {
		fault_set(f, EXIT_REFUSED, "the kernel module was removed");
		return false;
	}
	if (m->moved && !follow(m, f))
		return false;
	if (m->request && !pass_request(m, f))
		return false;
	m->moved = m->request = false;
	return true;
}

/* QEMU's own events are of no use here; the end of the connection is. */
static bool read_qemu(struct mirror *m)
{
	struct fault f = { 0 };
	JsonObject *e;

	while ((e = qmp_event(m->q, 1, &f)))
		json_object_unref(e);
	return f.status == EXIT_TIMEOUT;
}

/* That QEMU ends is how we do, also in the middle of a command. */
static int failed(const struct mirror *m, const struct fault *f)
{
	char c;

	if (recv(qmp_fd(m->q), &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		return EXIT_DONE;
	return fault_tell(f);
}

static int run(struct mirror *m, struct fault *f)
{
	if (!follow(m, f))
		return failed(m, f);
	printf("spicebd%u: QEMU follows; interrupt this to end it\n", m->index);
	fflush(stdout);
	for (;;) {
		struct pollfd p[2] = {
			{ .fd = kernel_events_fd(m->ev), .events = POLLIN },
			{ .fd = qmp_fd(m->q), .events = POLLIN },
		};

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents && !read_qemu(m))
			return EXIT_DONE;
		if (p[0].revents && !read_kernel(m, f))
			return failed(m, f);
	}
}

/*
 * What QEMU has read when it started may be of before, or of now: one that is
 * started along with us is told once more than it must. A guest that has locked
 * the tray knows the medium in it.
 */
static bool start(struct mirror *m, struct fault *f)
{
	g_autoptr(JsonObject) b = NULL;
	struct kernel_err e = { 0 };
	struct kernel_drive d;

	m->ev = kernel_events_open(&e);
	if (!m->ev) {
		fault_kernel(f, &e);
		return false;
	}
	m->k = drives_kernel(f);
	if (!m->k || drive_get_in(m->k, m->drive, &d, f) < 0)
		return false;
	if (d.personality != SPICEBD_PERSONALITY_CDROM) {
		fault_set(f, EXIT_REFUSED,
			  "%s has no tray; a disk is given to QEMU when it has a medium",
			  d.name);
		return false;
	}
	m->index = d.index;
	m->q = qmp_open(m->socket, "QEMU", ANSWER_MS, f);
	if (!m->q)
		return false;
	b = qemu_drive(m, f);
	if (!b)
		return false;
	if (json_bool(b, "locked") || !(d.state & SPICEBD_STATE_MEDIUM)) {
		m->told = d.generation;
		m->told_readable = d.state & SPICEBD_STATE_READY;
	}
	return true;
}

static int parse(const struct verb *v, int argc, char **argv, struct mirror *m)
{
	static const struct option opts[] = {
		OPT_HELP,
		{ "qmp", required_argument, NULL, 'q' },
		{ "device", required_argument, NULL, 'd' },
		OPT_END
	};
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 'h':
			fputs(v->help, stdout);
			return EXIT_DONE;
		case 'q':
			m->socket = optarg;
			break;
		case 'd':
			m->device = optarg;
			break;
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1)
		return verb_usage(v, "it takes one drive");
	m->drive = argv[optind];
	return m->socket ? -1 : verb_usage(v, "--qmp is missing, the socket of QEMU's monitor");
}

int verb_qemu(const struct verb *v, int argc, char **argv)
{
	struct mirror m = { 0 };
	struct fault f = { 0 };
	int r = parse(v, argc, argv, &m);

	if (r >= 0)
		return r;
	r = start(&m, &f) ? run(&m, &f) : fault_tell(&f);
	qmp_close(m.q);
	kernel_close(m.k);
	kernel_events_close(m.ev);
	return r;
}
