// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-nbdkit: serve one local file or folder over NBD, and be able to prove
 * that an old server of it is gone. Documentation/processes.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "caps.h"
#include "log.h"
#include "reclaim.h"
#include "server.h"
#include "sock.h"

#define ASKER_FD 3

static int block_signals(void)
{
	sigset_t m;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&m);
	sigaddset(&m, SIGCHLD);
	sigaddset(&m, SIGTERM);
	sigaddset(&m, SIGINT);
	sigaddset(&m, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &m, NULL) < 0)
		return -errno;
	return signalfd(-1, &m, SFD_CLOEXEC | SFD_NONBLOCK);
}

/*
 * As in the unit: a medium is opened again through its descriptor, whoever may
 * read it; memory is locked. nbdkit gets no more.
 */
static int drop_rights(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return caps_keep(1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_DAC_READ_SEARCH |
			 1ULL << CAP_SYS_RESOURCE | 1ULL << CAP_IPC_LOCK);
}

/* Files that we make are nobody else's; a terminal is not needed. */
static void server_init(struct server *s)
{
	umask(077);
	memset(s, 0, sizeof(*s));
	s->medium_fd = s->listen_fd = s->ctl_fd = s->lock_fd = s->image_fd = -1;
	s->err.fd = s->probe.fd = -1;
	s->deadline = -1;
	for (int i = 0; i < PEERS_MAX; i++)
		s->peers[i].fd = -1;
}

static int take_job(struct server *s, int asker)
{
	struct nbdkit_answer a;

	if (job_receive(asker, &s->job, &s->medium_fd, &a) == 0 &&
	    job_check_medium(&s->job, s->medium_fd, &a) == 0 && paths_claim(s, &a) == 0)
		return 0;
	log_err("%s", a.text);
	sock_send_fd(asker, &a, sizeof(a), -1);
	/* Not those of another who has the same id: claimed ones only. */
	paths_release(s);
	return -1;
}

int main(int argc, char **argv)
{
	struct server s;
	char why[120];
	int r;

	log_init("spicebd-nbdkit", false);
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("spicebd-nbdkit %s\n", SPICEBD_VERSION);
		return 0;
	}
	if (argc != 1 || fcntl(ASKER_FD, F_SETFD, FD_CLOEXEC) < 0) {
		fputs("spicebd-nbdkit: needs a connection on descriptor 3; "
		      "systemd or spicebd-supervisor start it\n", stderr);
		return 2;
	}
	r = drop_rights();
	if (r < 0) {
		log_err("cannot give up capabilities: %s", strerror(-r));
		return 1;
	}
	server_init(&s);
	s.locked = reclaim_prepare(why, sizeof(why));
	if (*why)
		log_warn("%s: a machine that is short of memory may get stuck", why);
	s.sig_fd = block_signals();
	if (s.sig_fd < 0) {
		log_err("no signalfd: %s", strerror(-s.sig_fd));
		return 1;
	}
	if (take_job(&s, ASKER_FD) < 0)
		return 1;
	fcntl(ASKER_FD, F_SETFL, fcntl(ASKER_FD, F_GETFL) | O_NONBLOCK);
	s.peers[0].fd = ASKER_FD;
	server_begin(&s);
	server_run(&s);
	return s.exit_status;
}
