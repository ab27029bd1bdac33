// SPDX-License-Identifier: GPL-2.0-only
/*
 * The opener's own process, which may open a virtual machine's ports, and the link,
 * which may not and hears strangers. Its loop is the script's: its functions are
 * nobody else's, so they are compiled here.
 *
 * What must hold: a number beyond the ports is the end; what is answered was wished
 * for, by its last tag, and brings one descriptor at most; none is lost.
 */
#include <sys/un.h>

#include "fuzz.h"

#include "../../userhelper/link/opener.c"

static char folder[] = "/tmp/spicebd-fuzz-XXXXXX";
static char prefix[64];
static int link_end, listener;
static uint32_t wished[OPENER_NUMBERS];

int LLVMFuzzerInitialize(int *argc, char ***argv);

static void forget(void)
{
	static const char *const numbers[] = { "0", "1", "2", "3" };
	char path[80];

	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s.%s", prefix, numbers[i]);
		unlink(path);
	}
	rmdir(folder);
}

/* Port 0 is a device, 1 a socket, 2 neither; 3 comes and goes. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char path[80];

	must(mkdtemp(folder));
	snprintf(prefix, sizeof(prefix), "%s/port", folder);
	snprintf(path, sizeof(path), "%s.0", prefix);
	must(symlink("/dev/null", path) == 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s.1", prefix);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	must(bind(listener, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(listener, 64) == 0);
	snprintf(path, sizeof(path), "%s.2", prefix);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	must(split(prefix));
	atexit(forget);
	return 0;
}

static void wish(struct script *s)
{
	struct { struct wish w; char more[4]; } m = { 0 };
	unsigned int how = take8(s);
	size_t len = sizeof(m.w);

	m.w.number = how < 240 ? how & 7 : how < 250 ? OPENER_NUMBERS - 1 : take32(s);
	m.w.tag = take8(s);
	if (how > 253)
		len = how == 255 ? sizeof(m) : 5;
	if (m.w.number < OPENER_NUMBERS && len == sizeof(m.w))
		wished[m.w.number] = m.w.tag;
	(void)!sock_send_fd(link_end, &m, len, take8(s) > 250 ? listener : -1);
}

static void hear(void)
{
	struct opener_answer a;
	int fd;

	while (sock_recv_fd(link_end, &a, sizeof(a), &fd) == sizeof(a)) {
		must(a.number < OPENER_NUMBERS && wished[a.number] == a.tag && a.tag);
		must((fd < 0) == !!a.error);
		if (fd < 0)
			continue;
		wished[a.number] = 0;
		must(a.number == 3 || a.is_socket == (a.number == 1));
		close(fd);
	}
}

/* Whoever waits at the socket is let go. */
static void let_go(void)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(fd);
}

static void come_and_go(bool come)
{
	char path[80];

	snprintf(path, sizeof(path), "%s.3", prefix);
	if (come)
		(void)!symlink("/dev/zero", path);
	else
		unlink(path);
}

static bool step(struct script *s)
{
	uint8_t op = take8(s);
	bool go_on = true;

	switch (op % 4) {
	case 0:
	case 1:
		wish(s);
		go_on = take_wish();
		break;
	case 2:
		come_and_go(op & 8);
		break;
	case 3:
		go_on = try_all();
		(void)any_stuck();
	}
	/* Before the next wish, whose tag would be another. */
	hear();
	let_go();
	return go_on;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int fds = open_fds(), sv[2];

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	me.sock = sv[0];
	link_end = sv[1];
	me.retry = 0;
	memset(me.wanted, 0, sizeof(me.wanted));
	memset(me.told, 0, sizeof(me.told));
	memset(wished, 0, sizeof(wished));
	while (s.left && step(&s))
		;
	close(sv[0]);
	close(sv[1]);
	must(open_fds() == fds);
	return 0;
}
