// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests to spicebd-supervisor, with descriptors of any number, from several
 * at once. Only root can connect; what comes is checked all the same.
 *
 * What must hold: a request is answered once, and only a name that may be one
 * reaches what starts programs.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "fuzz.h"
#include "linkconf.h"
#include "sup.h"

#define ASKERS	4

static struct sup sup;
static struct proc *started;
static int askers[ASKERS];
static struct sockaddr_un address;
static socklen_t address_len;

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	sup.request_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	address.sun_family = AF_UNIX;
	must(bind(sup.request_fd, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
	address_len = sizeof(address);
	getsockname(sup.request_fd, (struct sockaddr *)&address, &address_len);
	must(listen(sup.request_fd, 16) == 0);
	setenv("SPICEBD_RUN_DIR", "/nowhere", 1);
	return 0;
}

/* ---- in place of procs.c, loop.c and links.c */

int link_start(struct sup *s, const char *name, char *err, size_t errlen)
{
	struct linkconf c;
	int r = linkconf_load(name, &c, err, errlen);

	must(r < 0 || linkconf_name_ok(name));
	return r;
}

struct proc *proc_find(struct sup *s, enum kind kind, const char *name)
{
	must(linkconf_name_ok(name));
	return started;
}

void proc_free(struct sup *s, struct proc *p)
{
	requests_proc_gone(s, p);
	started = NULL;
}

void proc_end(struct proc *p, int grace_ms)
{
}

void loop_stop(struct sup *s)
{
	s->phase = END;
}

/* ---- the askers */

static void come(int i)
{
	if (askers[i] >= 0)
		close(askers[i]);
	askers[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	must(connect(askers[i], (struct sockaddr *)&address, address_len) == 0);
	requests_accept(&sup);
}

static void ask(struct script *s, int i)
{
	unsigned int how = take8(s);
	union {
		struct cmsghdr h;
		char b[CMSG_SPACE(sizeof(int) * 20)];
	} c = { 0 };
	size_t n = take16(s) % 600;
	const uint8_t *p = take_bytes(s, &n);
	struct iovec iov = { .iov_base = (void *)p, .iov_len = n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	unsigned int n_fds = how % 20;

	if (how & 32) {
		m.msg_control = c.b;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
	}
	if (askers[i] >= 0)
		(void)!sendmsg(askers[i], &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void hear(int i)
{
	char b[REQUEST_MAX + 64];
	ssize_t n = askers[i] < 0 ? -1 : recv(askers[i], b, sizeof(b) - 1, MSG_DONTWAIT);

	if (n <= 0)
		return;
	b[n] = '\0';
	must(!strcmp(b, "ok") || !strncmp(b, "error ", 6));
}

static void serve(void)
{
	for (int i = 0; i < PEERS_MAX; i++)
		if (sup.peers[i].fd >= 0)
			requests_read(&sup, &sup.peers[i]);
}

static void step(struct script *s)
{
	uint8_t op = take8(s);
	int i = op >> 6;

	switch (op % 6) {
	case 0:
		come(i);
		break;
	case 1:
	case 2:
		ask(s, i);
		break;
	case 3:
		hear(i);
		break;
	case 4:
		if (askers[i] >= 0)
			close(askers[i]);
		askers[i] = -1;
		break;
	case 5:
		if (op & 8)
			requests_stopped(&sup);
		else if (started)
			proc_free(&sup, started);
	}
	if (!(op & 32))
		serve();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	static struct proc link;
	int fds = open_fds();

	sup.phase = RUN;
	link = (struct proc) { .kind = K_LINK, .pid = take8(&s) & 1 };
	started = &link;
	for (int i = 0; i < PEERS_MAX; i++)
		sup.peers[i].fd = -1;
	memset(askers, -1, sizeof(askers));
	come(0);
	while (s.left)
		step(&s);
	for (int i = 0; i < ASKERS; i++)
		if (askers[i] >= 0)
			close(askers[i]);
	for (int i = 0; i < PEERS_MAX; i++)
		peer_close(&sup.peers[i]);
	must(open_fds() == fds);
	return 0;
}
