// SPDX-License-Identifier: GPL-2.0-only
/*
 * QMP: peers of the control and the status socket, and all commands behind them,
 * on a kernel that is a table. The script is text for peers, with descriptors, in
 * pieces, and what the kernel does meanwhile.
 *
 * What must hold: what comes back is JSON, a line at a time, one answer for each
 * command; the status socket never answers what it may not; nothing is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <sys/socket.h>

#include "daemon_stub.h"
#include "sock.h"

#define PEERS	3

static struct peer {
	int fd;
	GString *got;
} peers[PEERS];

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	stub_init();
	for (int i = 0; i < PEERS; i++) {
		peers[i].fd = -1;
		peers[i].got = g_string_new(NULL);
	}
	return 0;
}

static void check_line(const char *line, size_t len)
{
	JsonParser *p = json_parser_new();
	JsonNode *n;

	must(g_utf8_validate(line, len, NULL));
	must(json_parser_load_from_data(p, line, len, NULL));
	n = json_parser_get_root(p);
	must(n && JSON_NODE_HOLDS_OBJECT(n));
	g_object_unref(p);
}

static void drop(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	g_string_truncate(p->got, 0);
}

static void listen_to(struct peer *p)
{
	char b[65536], *nl;
	ssize_t n;

	while (p->fd >= 0) {
		n = recv(p->fd, b, sizeof(b), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			drop(p);
			return;
		}
		g_string_append_len(p->got, b, n);
	}
	while ((nl = memchr(p->got->str, '\n', p->got->len))) {
		check_line(p->got->str, nl - p->got->str);
		g_string_erase(p->got, 0, nl + 1 - p->got->str);
	}
}

static void come(struct peer *p, bool status, bool greet)
{
	static const char hello[] = "{\"execute\":\"qmp_capabilities\"}\n";
	char path[108];

	drop(p);
	p->fd = sock_connect(run_path(path, sizeof(path), status ? "status.sock" : "control.sock"),
			     SOCK_STREAM);
	must(p->fd >= 0);
	if (greet)
		must(send(p->fd, hello, sizeof(hello) - 1, MSG_DONTWAIT) > 0);
	stub_settle();
	listen_to(p);
}

static void say(struct script *s, struct peer *p, size_t max)
{
	size_t n = max;
	const uint8_t *b = take_bytes(s, &n);

	if (p->fd >= 0)
		(void)send(p->fd, b, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void pass_fd(struct peer *p)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (p->fd >= 0)
		sock_send_fd(p->fd, "\n", 1, fd);
	close(fd);
}

/* From here to the end of the line is said. */
static void say_line(struct script *s, struct peer *p)
{
	const uint8_t *nl = s->left ? memchr(s->p, '\n', s->left) : NULL;

	say(s, p, nl ? nl + 1 - s->p : s->left);
}

static void step(struct script *s)
{
	uint8_t op = take8(s);
	struct peer *p = &peers[op / 64 % PEERS];

	switch (op % 16) {
	case 0:
		come(p, op & 16, op & 32);
		break;
	case 1:
		say(s, p, take8(s));
		break;
	case 2:
		pass_fd(p);
		break;
	case 3:
		drop(p);
		break;
	case 4:
		stub_fail_later(take8(s));
		break;
	case 5:
		stub_event(op >> 7, take8(s));
		break;
	default:
		say_line(s, p);
	}
	stub_settle();
	if (!(op & 32))
		listen_to(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int fds;

	stub_reset();
	fds = open_fds();
	come(&peers[0], false, true);
	while (s.left)
		step(&s);
	for (int i = 0; i < PEERS; i++) {
		listen_to(&peers[i]);
		drop(&peers[i]);
	}
	stub_reset();
	must(open_fds() == fds);
	return 0;
}
