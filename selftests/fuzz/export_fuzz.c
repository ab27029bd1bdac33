// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-export between the plugins of its clients' nbdkits, which read what
 * strangers send, and spicebdd. Processes, listeners and the loop are the script's.
 *
 * What must hold: a plugin is given a descriptor only for an export that is there,
 * and one at most for each question; none is lost; who breaks the rules is hung up on.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include "export.h"
#include "fuzz.h"
#include "sock.h"

#define PLUGINS		4
#define FAKE_PID	(1 << 28)

static struct server server;
static int plugin[PLUGINS], owner, spare;
static unsigned int owed[PLUGINS];	/* answers, at most */
static uint32_t asked;			/* tag of the last stream that was asked for */

int __wrap_kill(pid_t pid, int sig);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	spare = open("/dev/null", O_RDWR | O_CLOEXEC);
	must(spare >= 0);
	return 0;
}

/* ---- in place of the processes and of loop.c */

int __wrap_kill(pid_t pid, int sig)
{
	int i = pid - FAKE_PID;

	must(i >= 0 && i < PLUGINS && server.clients[i].pid == pid && sig == SIGKILL);
	return 0;
}

void server_stop(struct server *s, uint32_t tag)
{
	s->stopping = true;
	for (int i = 0; i < PLUGINS; i++)
		if (s->clients[i].pid)
			client_hang_up(&s->clients[i]);
}

static void pair(int sv[2])
{
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
}

static void plugin_ends(int i)
{
	struct client *c = &server.clients[i];

	if (!c->pid)
		return;
	close(c->sock);
	if (c->ctl >= 0)
		close(c->ctl);
	if (plugin[i] >= 0)
		close(plugin[i]);
	plugin[i] = -1;
	memset(c, 0, sizeof(*c));
	c->sock = c->ctl = c->err.fd = -1;
}

static void plugin_comes(int i)
{
	struct client *c = &server.clients[i];
	int sv[2];

	plugin_ends(i);
	pair(sv);
	plugin[i] = sv[1];
	owed[i] = 0;
	*c = (struct client) {
		.pid = FAKE_PID + i, .ctl = sv[0], .sock = fcntl(spare, F_DUPFD_CLOEXEC, 3),
		.deadline = fuzz_now + HANDSHAKE_MS, .err.fd = -1,
	};
}

static void owner_comes(void)
{
	int sv[2];

	owner_close(&server);
	if (owner >= 0)
		close(owner);
	pair(sv);
	server.owner = sv[0];
	owner = sv[1];
}

/* ---- what is said */

static void name(struct script *s, char *to)
{
	static const char *const names[] = { "", "a", "b", "export with a longer name" };
	unsigned int how = take8(s);
	size_t n = how;
	const uint8_t *p;

	if (how < 192) {
		strcpy(to, names[how & 3]);
		return;
	}
	p = take_bytes(s, &n);
	memcpy(to, p, n);
	if (how == 255)
		memset(to, 'x', EXPORT_NAME_MAX + 1);	/* no end */
}

/* Whole, cut, too long, or with more descriptors than there may be. */
static void say(struct script *s, int to, const void *msg, size_t len, int fd)
{
	unsigned int how = take8(s);

	if (to < 0)
		return;
	if (how > 250) {
		union {
			struct cmsghdr h;
			char b[CMSG_SPACE(2 * sizeof(int))];
		} c = { .h = { CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
		struct iovec iov = { (void *)msg, len };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c,
				    .msg_controllen = sizeof(c.b) };

		memcpy(CMSG_DATA(&c.h), (int [2]) { spare, spare }, 2 * sizeof(int));
		(void)!sendmsg(to, &m, MSG_NOSIGNAL);
		return;
	}
	if (how > 240)
		len = how > 245 ? len + 1 : take16(s) % len;
	(void)!sock_send_fd(to, msg, len, fd);
}

static void ask(struct script *s, int i)
{
	/* One more than it is: for those that are too long. */
	static struct { struct export_ask a; char more; } m;
	unsigned int how = take8(s);

	memset(&m, 0, sizeof(m));
	m.a.magic = how < 250 ? EXPORT_PROTO_MAGIC : take32(s);
	m.a.kind = how % 6;
	m.a.index = m.a.kind == EXPORT_ASK_LIST ? take8(s) % 8 : 0;
	if (m.a.kind == EXPORT_ASK_OPEN)
		name(s, m.a.name);
	owed[i]++;
	say(s, plugin[i], &m, sizeof(m.a), how & 128 ? spare : -1);
}

static void order(struct script *s)
{
	static struct { struct export_ctl c; char more; } m;
	unsigned int how = take8(s);

	memset(&m, 0, sizeof(m));
	m.c.magic = how < 250 ? EXPORT_PROTO_MAGIC : take32(s);
	m.c.cmd = how % 8;
	m.c.number = take8(s) % 5;
	m.c.flags = take8(s);
	m.c.tag = m.c.cmd == EXPORT_CMD_STREAM && how < 200 ? asked : take8(s) % 4;
	m.c.error = how & 64 ? ENOENT : 0;
	name(s, m.c.name);
	if (how & 32)
		name(s, m.c.text);
	say(s, owner, &m, sizeof(m.c), m.c.cmd == EXPORT_CMD_STREAM || how > 230 ? spare : -1);
}

/* ---- what is heard */

static void plugin_hears(int i)
{
	static struct export_grant g;
	ssize_t n;
	int fd;

	while (plugin[i] >= 0 && (n = sock_recv_fd(plugin[i], &g, sizeof(g), &fd)) > 0) {
		must(n == sizeof(g) && g.magic == EXPORT_PROTO_MAGIC);
		must(memchr(g.name, 0, sizeof(g.name)) && memchr(g.text, 0, sizeof(g.text)));
		must(owed[i]-- > 0);
		must(fd < 0 || !g.error);
		if (fd >= 0)
			close(fd);
	}
}

static void owner_hears(void)
{
	struct export_msg m;
	ssize_t n;
	int fd;

	while (owner >= 0 && (n = sock_recv_fd(owner, &m, sizeof(m), &fd)) > 0) {
		must(n == sizeof(m) && fd < 0 && m.magic == EXPORT_PROTO_MAGIC);
		must(memchr(m.text, 0, sizeof(m.text)));
		if (m.event == EXPORT_EV_OPEN) {
			must(m.tag && m.number);
			asked = m.tag;
		}
	}
}

static void serve(void)
{
	if (server.owner >= 0)
		owner_read(&server);
	for (int i = 0; i < PLUGINS; i++) {
		struct client *c = &server.clients[i];

		if (c->pid && c->ctl >= 0 && !c->tag)
			requests_read(&server, c);
		if (c->pid)
			client_expire(&server, c);
		must(!c->pid || !c->number || c->tag || exp_by_number(&server, c->number));
	}
	exps_settle(&server);
}

static void step(struct script *s)
{
	uint8_t op = take8(s);
	int i = op >> 6;

	switch (op % 9) {
	case 0:
		plugin_comes(i);
		break;
	case 1:
	case 2:
		ask(s, i);
		break;
	case 3:
	case 4:
		order(s);
		break;
	case 5:
		plugin_hears(i);
		owner_hears();
		break;
	case 6:
		plugin_ends(i);
		break;
	case 7:
		fuzz_now += take8(s) * 200;
		break;
	case 8:
		owner_comes();
	}
	if (!(op & 32))
		serve();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int fds = open_fds();

	fuzz_clock_reset();
	memset(&server, 0, sizeof(server));
	memset(plugin, -1, sizeof(plugin));
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
		server.clients[i].sock = server.clients[i].ctl = server.clients[i].err.fd = -1;
	server.owner = owner = -1;
	asked = 0;
	owner_comes();
	plugin_comes(0);
	while (s.left)
		step(&s);
	serve();
	for (int i = 0; i < PLUGINS; i++)
		plugin_ends(i);
	for (int i = 0; i < EXPORTS_MAX; i++) {
		free(server.exports[i].name);
		free(server.exports[i].description);
	}
	owner_close(&server);
	if (owner >= 0)
		close(owner);
	must(open_fds() == fds);
	return 0;
}
