// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test tool: a Spice server without a display whose ports are unix sockets, so
 * that a test can say what it likes to spicebd-share, byte by byte.
 *
 *   spiceport [-p PASSWORD] UNIX-ADDRESS DIR N...
 *
 * Port N is DIR/N.sock. A connection there opens the port, its end closes it.
 * Prints "ready". Ends with its standard input.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib-unix.h>
#include <spice/protocol.h>
#include <spice.h>

/* ---- GLib as spice-server's core */

struct SpiceTimer {
	SpiceTimerFunc func;
	void *opaque;
	guint id;
};

struct SpiceWatch {
	SpiceWatchFunc func;
	void *opaque;
	int fd;
	guint id;
};

static SpiceTimer *timer_add(SpiceTimerFunc func, void *opaque)
{
	SpiceTimer *t = g_new0(SpiceTimer, 1);

	t->func = func;
	t->opaque = opaque;
	return t;
}

static gboolean on_timer(gpointer data)
{
	SpiceTimer *t = data;

	t->id = 0;
	t->func(t->opaque);
	return G_SOURCE_REMOVE;
}

static void timer_cancel(SpiceTimer *t)
{
	if (t->id)
		g_source_remove(t->id);
	t->id = 0;
}

static void timer_start(SpiceTimer *t, uint32_t ms)
{
	timer_cancel(t);
	t->id = g_timeout_add(ms, on_timer, t);
}

static void timer_remove(SpiceTimer *t)
{
	timer_cancel(t);
	g_free(t);
}

static gboolean on_watch(gint fd, GIOCondition cond, gpointer data)
{
	SpiceWatch *w = data;

	w->func(fd, (cond & (G_IO_IN | G_IO_HUP | G_IO_ERR) ? SPICE_WATCH_EVENT_READ : 0) |
		(cond & G_IO_OUT ? SPICE_WATCH_EVENT_WRITE : 0), w->opaque);
	return G_SOURCE_CONTINUE;
}

static void watch_update_mask(SpiceWatch *w, int mask)
{
	if (w->id)
		g_source_remove(w->id);
	w->id = 0;
	if (mask)
		w->id = g_unix_fd_add(w->fd, (mask & SPICE_WATCH_EVENT_READ ? G_IO_IN : 0) |
				      (mask & SPICE_WATCH_EVENT_WRITE ? G_IO_OUT : 0),
				      on_watch, w);
}

static SpiceWatch *watch_add(int fd, int mask, SpiceWatchFunc func, void *opaque)
{
	SpiceWatch *w = g_new0(SpiceWatch, 1);

	w->fd = fd;
	w->func = func;
	w->opaque = opaque;
	watch_update_mask(w, mask);
	return w;
}

static void watch_remove(SpiceWatch *w)
{
	watch_update_mask(w, 0);
	g_free(w);
}

static void channel_event(int event, SpiceChannelEventInfo *info)
{
}

static SpiceCoreInterface core = {
	.base.major_version = SPICE_INTERFACE_CORE_MAJOR,
	.base.minor_version = SPICE_INTERFACE_CORE_MINOR,
	.timer_add = timer_add,
	.timer_start = timer_start,
	.timer_cancel = timer_cancel,
	.timer_remove = timer_remove,
	.watch_add = watch_add,
	.watch_update_mask = watch_update_mask,
	.watch_remove = watch_remove,
	.channel_event = channel_event,
};

/* ---- ports */

struct port {
	SpiceCharDeviceInstance sin;	/* first */
	char name[64];
	int listener, fd;
	guint in, out;
	bool connected;
	GByteArray *queue;		/* what the test has not read yet */
};

static gboolean on_in(gint fd, GIOCondition cond, gpointer data);

static void rearm(struct port *p)
{
	if (p->fd >= 0 && !p->in)
		p->in = g_unix_fd_add(p->fd, G_IO_IN | G_IO_HUP, on_in, p);
}

static void hang_up(struct port *p)
{
	if (p->fd < 0)
		return;
	if (p->in)
		g_source_remove(p->in);
	if (p->out)
		g_source_remove(p->out);
	p->in = p->out = 0;
	close(p->fd);
	p->fd = -1;
	g_byte_array_set_size(p->queue, 0);
	spice_server_port_event(&p->sin, SPICE_PORT_EVENT_CLOSED);
}

static gboolean on_in(gint fd, GIOCondition cond, gpointer data)
{
	struct port *p = data;
	char c;

	p->in = 0;
	if (recv(p->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		hang_up(p);
	else if (p->connected)
		spice_server_char_device_wakeup(&p->sin);
	else
		rearm(p);
	return G_SOURCE_REMOVE;
}

static int dev_read(SpiceCharDeviceInstance *sin, uint8_t *buf, int len)
{
	struct port *p = (struct port *)sin;
	ssize_t n;

	if (p->fd < 0)
		return 0;
	n = recv(p->fd, buf, len, MSG_DONTWAIT);
	rearm(p);
	return n > 0 ? n : 0;
}

static gboolean on_out(gint fd, GIOCondition cond, gpointer data)
{
	struct port *p = data;
	ssize_t n = send(p->fd, p->queue->data, p->queue->len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n > 0)
		g_byte_array_remove_range(p->queue, 0, n);
	if (p->queue->len)
		return G_SOURCE_CONTINUE;
	p->out = 0;
	return G_SOURCE_REMOVE;
}

static int dev_write(SpiceCharDeviceInstance *sin, const uint8_t *buf, int len)
{
	struct port *p = (struct port *)sin;

	if (!p->connected)
		return 0;
	if (p->fd < 0)
		return len;
	g_byte_array_append(p->queue, buf, len);
	if (!p->out)
		p->out = g_unix_fd_add(p->fd, G_IO_OUT, on_out, p);
	return len;
}

static gboolean wake(gpointer data)
{
	struct port *p = data;

	if (p->connected)
		spice_server_char_device_wakeup(&p->sin);
	return G_SOURCE_REMOVE;
}

static void dev_state(SpiceCharDeviceInstance *sin, int connected)
{
	struct port *p = (struct port *)sin;

	p->connected = connected;
	printf("state %s %d\n", p->name, connected);
	fflush(stdout);
	if (connected)
		g_idle_add(wake, p);	/* for what write() refused before */
}

static SpiceCharDeviceInterface device = {
	.base.type = SPICE_INTERFACE_CHAR_DEVICE,
	.base.description = "test",
	.base.major_version = SPICE_INTERFACE_CHAR_DEVICE_MAJOR,
	.base.minor_version = SPICE_INTERFACE_CHAR_DEVICE_MINOR,
	.state = dev_state,
	.write = dev_write,
	.read = dev_read,
	.flags = SPICE_CHAR_DEVICE_NOTIFY_WRITABLE,
};

static gboolean on_connect(gint fd, GIOCondition cond, gpointer data)
{
	struct port *p = data;
	int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	hang_up(p);
	p->fd = c;
	spice_server_port_event(&p->sin, SPICE_PORT_EVENT_OPENED);
	rearm(p);
	return G_SOURCE_CONTINUE;
}

static void add_port(SpiceServer *server, const char *dir, const char *n)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct port *p = g_new0(struct port, 1);

	p->fd = -1;
	p->queue = g_byte_array_new();
	snprintf(p->name, sizeof(p->name), "org.spice-space.spicebd.%s", n);
	p->sin.base.sif = &device.base;
	p->sin.subtype = "port";
	p->sin.portname = p->name;
	if (spice_server_add_interface(server, &p->sin.base) || !p->sin.st)
		exit(1);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s.sock", dir, n);
	p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(p->listener, (struct sockaddr *)&a, sizeof(a)) || listen(p->listener, 4))
		exit(1);
	g_unix_fd_add(p->listener, G_IO_IN, on_connect, p);
}

static gboolean on_stdin(gint fd, GIOCondition cond, gpointer data)
{
	char c;

	if (read(fd, &c, 1) <= 0)
		exit(0);
	return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
	SpiceServer *server = spice_server_new();
	const char *password = NULL;
	int i = 1;

	if (argc > 2 && !strcmp(argv[1], "-p")) {
		password = argv[2];
		i = 3;
	}
	if (argc < i + 3)
		return 2;
	/* A client that goes while it is written to is no end of the server's. */
	signal(SIGPIPE, SIG_IGN);
	spice_server_set_addr(server, argv[i], SPICE_ADDR_FLAG_UNIX_ONLY);
	if (password)
		spice_server_set_ticket(server, password, 0, 0, 0);
	else
		spice_server_set_noauth(server);
	if (spice_server_init(server, &core))
		return 1;
	for (int n = i + 2; n < argc; n++)
		add_port(server, argv[i + 1], argv[n]);
	spice_server_vm_start(server);
	g_unix_fd_add(0, G_IO_IN | G_IO_HUP, on_stdin, NULL);
	puts("ready");
	fflush(stdout);
	g_main_loop_run(g_main_loop_new(NULL, FALSE));
	return 0;
}
