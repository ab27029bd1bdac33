// SPDX-License-Identifier: GPL-2.0-only
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frame.h"
#include "log.h"
#include "spicetap.h"

#define PUMP_MAX	16	/* messages in a row before others get their turn */

struct port_tap {
	struct tap *tap;
	const struct port_end *kind;
	void *end;
	struct loop_task *pump;
	struct loop_watch *watch[2];
	struct tap_buf *buf;	/* at the tap, or free if that is idle */
	bool pumping;
};

static void on_data(void *opaque, const uint8_t *data, size_t len)
{
	struct port_tap *p = opaque;

	p->kind->input(p->end, data, len);
}

static void on_written(void *opaque, struct tap_buf *b)
{
	struct port_tap *p = opaque;

	if (!p->pumping)
		loop_defer(p->pump);
}

static void on_side(struct port_tap *p, enum tap_side side, int events)
{
	tap_event(p->tap, side, (events & LOOP_READ ? TAP_IN : 0) |
		  (events & LOOP_WRITE ? TAP_OUT : 0));
}

static void on_net(int fd, int events, void *opaque)
{
	on_side(opaque, TAP_NET, events);
}

static void on_lib(int fd, int events, void *opaque)
{
	on_side(opaque, TAP_LIB, events);
}

static void on_watch(void *opaque, enum tap_side side, unsigned int events)
{
	struct port_tap *p = opaque;

	loop_watch_set(p->watch[side], (events & TAP_IN ? LOOP_READ : 0) |
		       (events & TAP_OUT ? LOOP_WRITE : 0));
}

/* The port's state() follows when libspice-server has seen it, and frees the rest. */
static void on_ended(void *opaque, const char *why)
{
	struct port_tap *p = opaque;

	log_debug("a port's connection: %s", why);
	loop_watch_remove(p->watch[TAP_NET]);
	loop_watch_remove(p->watch[TAP_LIB]);
	p->watch[TAP_NET] = NULL;
	p->watch[TAP_LIB] = NULL;
	tap_free(p->tap);
	p->tap = NULL;
}

static bool on_begin(void *opaque, const uint8_t *head, size_t len)
{
	struct port_tap *p = opaque;

	return p->kind->direct && p->kind->direct->begin(p->end, head, len);
}

static int on_sink(void *opaque)
{
	struct port_tap *p = opaque;

	return p->kind->direct->sink(p->end);
}

static void on_moved(void *opaque, size_t n)
{
	struct port_tap *p = opaque;

	p->kind->direct->moved(p->end, n);
}

static void on_part(void *opaque, const uint8_t *data, size_t len)
{
	struct port_tap *p = opaque;

	p->kind->direct->part(p->end, data, len);
}

static bool on_hold(void *opaque)
{
	struct port_tap *p = opaque;

	return p->kind->direct && p->kind->direct->hold(p->end);
}

static const struct tap_direct direct = {
	.head = FRAME_HEADER_LEN,
	.begin = on_begin,
	.sink = on_sink,
	.moved = on_moved,
	.part = on_part,
	.hold = on_hold,
};

static const struct tap_ops ops = {
	.data = on_data,
	.written = on_written,
	.watch = on_watch,
	.ended = on_ended,
	.direct = &direct,
};

void port_tap_pump(struct port_tap *p)
{
	size_t n;

	if (p->tap && !on_hold(p))
		tap_go_on(p->tap);
	p->pumping = true;
	for (int i = 0; p->tap && tap_idle(p->tap); i++) {
		if (i == PUMP_MAX) {
			loop_defer(p->pump);
			break;
		}
		n = p->kind->output(p->end, p->buf->data, FRAME_MAX);
		if (!n)
			break;
		tap_send(p->tap, p->buf, n);
		tap_flush(p->tap);
	}
	p->pumping = false;
}

static bool take_over(struct port_tap *p, int fd)
{
	int net = fcntl(fd, F_DUPFD_CLOEXEC, 3), lib, r;

	if (net < 0)
		return false;
	p->tap = tap_new(net, &lib, 0, &ops, p);
	if (!p->tap) {
		close(net);
		return false;
	}
	p->watch[TAP_NET] = loop_watch_add(net, 0, on_net, p);
	p->watch[TAP_LIB] = loop_watch_add(tap_fd(p->tap, TAP_LIB), 0, on_lib, p);
	r = p->watch[TAP_NET] && p->watch[TAP_LIB] ? loop_replace(fd, lib) : -ENOMEM;
	close(lib);
	return r == 0;
}

struct port_tap *port_tap_new(int fd, const struct port_end *kind, void *end,
			      struct loop_task *pump)
{
	struct port_tap *p = fd < 0 ? NULL : calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->kind = kind;
	p->end = end;
	p->pump = pump;
	p->buf = malloc(sizeof(*p->buf) + FRAME_MAX);
	if (p->buf && take_over(p, fd)) {
		tap_start(p->tap);
		return p;
	}
	log_warn("a port's data goes through libspice-server: %s", strerror(errno));
	port_tap_free(p);
	return NULL;
}

void port_tap_free(struct port_tap *p)
{
	if (!p)
		return;
	if (p->tap)
		on_ended(p, "ended");
	free(p->buf);
	free(p);
}
