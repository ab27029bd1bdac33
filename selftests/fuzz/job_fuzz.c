// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-nbdkit, which may read every file, and spicebdd, which may not: the job
 * with its descriptor, and the commands of several control connections.
 *
 * What must hold: an id that becomes a file's name, and a label that reaches a
 * command line, are plain; only a descriptor of the right kind is a medium; a
 * command is answered once at most, and no descriptor is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "server.h"
#include "sock.h"

#define NR_FDS	6

static struct server server;
static int other[PEERS_MAX];
static unsigned int owed[PEERS_MAX];
static int fds[NR_FDS];

int LLVMFuzzerInitialize(int *argc, char ***argv);

static int some_file(int flags)
{
	char path[] = "/tmp/spicebd-fuzz-XXXXXX";
	int fd = mkstemp(path), again = open(path, flags | O_CLOEXEC);

	must(fd >= 0 && again >= 0 && ftruncate(fd, 4096) == 0);
	unlink(path);
	close(fd);
	return again;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fds[0] = some_file(O_RDWR);
	fds[1] = some_file(O_RDONLY);
	fds[2] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fds[3] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds[4] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[5] = open("/", O_PATH | O_CLOEXEC);
	return 0;
}

/* ---- in place of server.c */

void server_fence(struct server *s)
{
	peers_answer(s, NBDKIT_CTL_FENCE, 0, "");
}

void server_stop(struct server *s, int exit_status)
{
	s->stopping = true;
}

/* ---- */

static void come(int i)
{
	int sv[2];

	if (other[i] >= 0)
		close(other[i]);
	peers_close(&server.peers[i]);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	server.peers[i].fd = sv[0];
	other[i] = sv[1];
	owed[i] = 0;
}

static void send_some(int to, const void *p, size_t n, int nr, int fd)
{
	union {
		struct cmsghdr h;
		char b[CMSG_SPACE(2 * sizeof(int))];
	} c = { .h = { CMSG_LEN(nr * sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec iov = { (void *)p, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr) {
		m.msg_control = &c;
		m.msg_controllen = CMSG_SPACE(nr * sizeof(int));
		memcpy(CMSG_DATA(&c.h), (int [2]) { fd, fd }, nr * sizeof(int));
	}
	(void)!sendmsg(to, &m, MSG_NOSIGNAL);
}

static void check_job(const struct nbdkit_job *j, int fd)
{
	struct nbdkit_answer a;
	struct stat st;

	must(strspn(j->id, "0123456789abcdef") == NBDKIT_ID_LEN && !j->id[NBDKIT_ID_LEN]);
	must(strlen(j->label) < sizeof(j->label) && j->label[0] != '-');
	must(!strpbrk(j->label, "/\\'\"$`;&|<>\n="));
	if (job_check_medium(j, fd, &a) < 0) {
		must(a.error && a.text[0]);
		return;
	}
	must(fstat(fd, &st) == 0);
	must(j->mode == NBDKIT_FILE ? S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) :
	     S_ISDIR(st.st_mode));
}

/* A job: its bytes as they are, or with what is needed to get on. */
static void job(struct script *s)
{
	struct { struct nbdkit_job j; char more[8]; } m = { 0 };
	unsigned int how = take8(s), kind = take8(s);
	size_t n = sizeof(m.j), have = n;
	const uint8_t *bytes = take_bytes(s, &have);
	struct nbdkit_job got;
	struct nbdkit_answer a;
	int sv[2], fd;

	memcpy(&m, bytes, have);
	if (how & 1)
		m.j.magic = NBDKIT_PROTO_MAGIC;
	if (how & 2)
		memset(m.j.id, 'a', NBDKIT_ID_LEN + 1);
	if (how & 4)
		m.j.id[NBDKIT_ID_LEN] = 0;
	if (how & 8) {
		m.j.flags &= 1;
		m.j.threads %= 65;
		m.j.mode = 1 + m.j.mode % 3;
	}
	if (how & 16)
		m.j.label[sizeof(m.j.label) - 1] = 0;
	if (kind > 250)
		n = kind > 252 ? n + 1 : kind - 250;
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
	send_some(sv[1], &m, n, how >> 6 > 2 ? 2 : how >> 6 != 1, fds[kind % NR_FDS]);
	close(sv[1]);
	if (job_receive(sv[0], &got, &fd, &a) == 0)
		check_job(&got, fd);
	else
		must(a.error && memchr(a.text, 0, sizeof(a.text)));
	if (fd >= 0)
		close(fd);
	close(sv[0]);
}

static void command(struct script *s, int i)
{
	struct { struct nbdkit_ctl c; char more[4]; } m = { { NBDKIT_PROTO_MAGIC, 0 }, "" };
	unsigned int how = take8(s);

	m.c.cmd = how % 6;
	if (how > 240)
		m.c.magic = take32(s);
	if (how > 230)
		m.c.cmd = take32(s);
	owed[i]++;
	if (other[i] >= 0)
		send_some(other[i], &m, how > 250 ? sizeof(m) : sizeof(m.c) - (how > 248),
			  how > 220 ? how & 1 : 0, fds[0]);
}

static void hear(int i)
{
	struct nbdkit_answer a;
	ssize_t n;
	int fd;

	while (other[i] >= 0 && (n = sock_recv_fd(other[i], &a, sizeof(a), &fd)) > 0) {
		must(n == sizeof(a) && a.magic == NBDKIT_PROTO_MAGIC);
		must(memchr(a.text, 0, sizeof(a.text)) && owed[i]-- > 0);
		must(fd < 0 || !a.error);
		if (fd >= 0)
			close(fd);
	}
}

static void step(struct script *s)
{
	uint8_t op = take8(s);
	int i = op >> 5;

	switch (op % 6) {
	case 0:
		come(i);
		break;
	case 1:
		command(s, i);
		break;
	case 2:
		hear(i);
		break;
	case 3:
		job(s);
		break;
	case 4:
		server.state = take8(s) % (ST_DONE + 1);
		break;
	case 5:
		peers_answer(&server, op & 8 ? NBDKIT_CTL_STOP : NBDKIT_CTL_FENCE,
			     op & 16 ? ETIMEDOUT : 0, "said");
	}
	for (int p = 0; p < PEERS_MAX; p++)
		if (server.peers[p].fd >= 0)
			peers_read(&server, &server.peers[p]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int n = open_fds();

	memset(&server, 0, sizeof(server));
	memset(other, -1, sizeof(other));
	for (int i = 0; i < PEERS_MAX; i++)
		server.peers[i].fd = -1;
	server.medium_fd = fds[0];
	server.state = ST_RUNNING;
	come(0);
	while (s.left)
		step(&s);
	for (int i = 0; i < PEERS_MAX; i++) {
		peers_close(&server.peers[i]);
		if (other[i] >= 0)
			close(other[i]);
	}
	must(open_fds() == n);
	return 0;
}
