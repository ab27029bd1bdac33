// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-export: serve exports of spicebdd's to NBD clients.
 * Documentation/processes.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "caps.h"
#include "export.h"
#include "log.h"
#include "sock.h"

#define ASKER_FD	3
#define FIRST_FD	10	/* below: where a child finds its own */

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

/* Strangers are served from here on: nothing that root could do is needed. */
static int drop_rights(void)
{
	int r;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	caps_drop_bounding();
	r = caps_set(0);
	if (r < 0)
		return r;
	/* A crash's core would hold what is read and written here. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return 0;
}

static bool hex_id(const char *id)
{
	return strspn(id, "0123456789abcdef") == EXPORT_ID_LEN && !id[EXPORT_ID_LEN];
}

static bool job_ok(const struct export_job *j)
{
	if (j->magic != EXPORT_PROTO_MAGIC || !hex_id(j->id) ||
	    j->flags & ~(EXPORT_JOB_NO_IPV4 | EXPORT_JOB_NO_IPV6) ||
	    j->max_clients > EXPORT_CLIENTS_MAX)
		return false;
	if (j->family == EXPORT_UNIX)
		return j->path[0] == '/' && memchr(j->path, 0, sizeof(j->path));
	return j->family == EXPORT_INET && memchr(j->host, 0, sizeof(j->host)) &&
	       memchr(j->port, 0, sizeof(j->port));
}

static int receive_job(struct server *s, char *err, size_t errlen)
{
	struct pollfd p = { .fd = ASKER_FD, .events = POLLIN };
	ssize_t n;
	int fd;

	if (poll(&p, 1, JOB_TIMEOUT_MS) <= 0) {
		snprintf(err, errlen, "no job came");
		return -ETIMEDOUT;
	}
	n = sock_recv_fd(ASKER_FD, &s->job, sizeof(s->job), &fd);
	if (fd >= 0)
		close(fd);
	if (n == sizeof(s->job) && fd < 0 && job_ok(&s->job))
		return 0;
	snprintf(err, errlen, "malformed job; is spicebdd of the same version?");
	return -EPROTO;
}

static void server_init(struct server *s)
{
	s->ctl_fd = s->lock_fd = s->owner = -1;
	for (int i = 0; i < LISTENERS_MAX; i++)
		s->listeners[i] = -1;
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
		s->clients[i].sock = s->clients[i].ctl = s->clients[i].err.fd = -1;
}

/* Return: 0, or -errno after the asker was told. */
static int begin(struct server *s)
{
	char err[200] = "";
	int r = receive_job(s, err, sizeof(err));

	if (!r)
		r = paths_claim(s, err, sizeof(err));
	if (!r)
		r = listen_open(s, err, sizeof(err));
	if (r < 0) {
		log_err("%s", err);
		owner_send(s, EXPORT_EV_ANSWER, 0, 0, -r, 0, err);
		paths_release(s);
		return r;
	}
	if (!s->job.max_clients)
		s->job.max_clients = EXPORT_CLIENTS_MAX;
	owner_send(s, EXPORT_EV_ANSWER, 0, 0, 0, 0, "");
	/* Nobody wants it any more, and nobody will come to end it. */
	if (s->owner < 0)
		server_stop(s, 0);
	return 0;
}

int main(int argc, char **argv)
{
	static struct server s;
	int r;

	log_init("spicebd-export", false);
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("spicebd-export %s\n", SPICEBD_VERSION);
		return 0;
	}
	server_init(&s);
	if (argc == 1)
		s.owner = fcntl(ASKER_FD, F_DUPFD_CLOEXEC, FIRST_FD);
	if (s.owner < 0 || fcntl(ASKER_FD, F_SETFD, FD_CLOEXEC) < 0) {
		fputs("spicebd-export: needs a connection on descriptor 3; "
		      "systemd or spicebd-supervisor start it\n", stderr);
		return 2;
	}
	r = drop_rights();
	if (!r)
		r = s.sig_fd = block_signals();
	if (r < 0) {
		log_err("cannot give up rights, or no signalfd: %s", strerror(-r));
		return 1;
	}
	fcntl(s.owner, F_SETFL, fcntl(s.owner, F_GETFL) | O_NONBLOCK);
	if (begin(&s) < 0)
		return 1;
	close(ASKER_FD);
	server_run(&s);
	return 0;
}
