// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-supervisor: starts and restarts spicebdd, the links and the nbdkit
 * launchers where there is no systemd to do it. Documentation/processes.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"
#include "sup.h"

bool debug;

static const char usage[] =
"usage: spicebd-supervisor [--foreground | --detach] [--debug]\n"
"       spicebd-supervisor stop\n"
"       spicebd-supervisor link-start NAME\n"
"\n"
"Starts spicebdd, the links configured in /etc/spicebd/links.d and in the run\n"
"directory, a spicebd-nbdkit for each local medium and a spicebd-export for the\n"
"NBD server, and starts spicebdd and links again when they die. With systemd, use spicebdd.socket instead.\n"
"\n"
"  --foreground  stay, and log to stderr (default)\n"
"  --detach      return when spicebdd answers; log to RUN/log\n"
"  --debug       more lines\n"
"  stop          end everything in order\n"
"  link-start    have the running one start a link, if it does not run\n"
"\n"
"SPICEBD_RUN_DIR  instead of /run/spicebd\n"
"SPICEBD_BIN_DIR  where the programs are, instead of beside this one\n";

static int signals(void)
{
	sigset_t m;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&m);
	sigaddset(&m, SIGCHLD);
	sigaddset(&m, SIGTERM);
	sigaddset(&m, SIGINT);
	if (sigprocmask(SIG_BLOCK, &m, NULL) < 0)
		return -errno;
	return signalfd(-1, &m, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Descriptors of whoever called us are none of our children's business. */
static void close_strangers(void)
{
	int fd = open("/dev/null", O_RDWR);

	while (fd >= 0 && fd < 3)
		fd = open("/dev/null", O_RDWR);
	close_range(3, ~0U, 0);
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDNAMES");
	unsetenv("NOTIFY_SOCKET");
	umask(022);
	if (chdir("/") < 0)
		log_warn("cannot enter /");
}

static void to_log_file(struct sup *s)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	s->log_fd = log_open();
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		close(null);
	}
	if (s->log_fd >= 0)
		dup2(s->log_fd, 2);
}

/* Until the sockets stand, errors go to whoever called us. */
static int supervise(struct sup *s, bool detached)
{
	char err[256] = "";

	s->sig_fd = signals();
	if (s->sig_fd < 0) {
		log_err("no signalfd: %s", strerror(-s->sig_fd));
		return 1;
	}
	leftover_end();
	if (sockets_bind(s, err, sizeof(err)) < 0) {
		log_err("%s", err);
		return 1;
	}
	if (detached)
		to_log_file(s);
	links_start_all(s);
	proc_start(s, proc_find(s, K_DAEMON, ""));
	loop_run(s);
	return 0;
}

static int supervise_detached(struct sup *s)
{
	char err[256];
	int ready, pid;

	pid = detach(&ready, err, sizeof(err));
	if (pid < 0) {
		log_err("%s", err);
		return 1;
	}
	if (pid) {
		close(s->lock_fd);	/* the child's, through the same open file */
		return await_ready(ready, pid);
	}
	s->ready_fd = ready;
	return supervise(s, true);
}

static int start(bool detached)
{
	static struct sup s;
	char err[256];

	s.request_fd = s.nbdkit_fd = s.export_fd = s.log_fd = s.ready_fd = -1;
	for (int i = 0; i < PEERS_MAX; i++)
		s.peers[i].fd = -1;
	close_strangers();
	if (sockets_dirs(err, sizeof(err)) < 0) {
		log_err("%s", err);
		return 1;
	}
	s.lock_fd = sockets_lock();
	if (s.lock_fd == -EBUSY && detached)
		return await_ready(-1, 0);
	if (s.lock_fd < 0) {
		log_err("%s", s.lock_fd == -EBUSY ? "runs already" : strerror(-s.lock_fd));
		return 1;
	}
	return detached ? supervise_detached(&s) : supervise(&s, false);
}

static int link_wanted(const char *name)
{
	char text[REQUEST_MAX], answer[REQUEST_MAX + 1];
	int r;

	if (!linkconf_name_ok(name)) {
		fputs(usage, stderr);
		return 2;
	}
	snprintf(text, sizeof(text), "link-start %s", name);
	r = request_send(text, answer, sizeof(answer), 20000);
	if (r == 0 && (!strcmp(answer, "ok") || strstr(answer, " runs already")))
		return 0;
	log_err("cannot start link \"%s\": %s", name, r < 0 ? strerror(-r) : answer);
	return 1;
}

static int stop(void)
{
	char answer[REQUEST_MAX + 1];
	int r = request_send("stop", answer, sizeof(answer), 40000);

	if (r == -ENOENT || r == -ECONNREFUSED) {
		log_err("does not run");
		return 1;
	}
	if (r < 0 || strcmp(answer, "ok")) {
		log_err("cannot stop: %s", r < 0 ? strerror(-r) : answer);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "foreground", no_argument, NULL, 'f' },
		{ "detach", no_argument, NULL, 'd' },
		{ "debug", no_argument, NULL, 'D' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	bool detached = false;
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 'f':
			detached = false;
			break;
		case 'd':
			detached = true;
			break;
		case 'D':
			debug = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'V':
			printf("spicebd-supervisor %s\n", SPICEBD_VERSION);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	log_init("spicebd-supervisor", debug);
	if (optind == argc - 1 && !strcmp(argv[optind], "stop"))
		return stop();
	if (optind == argc - 2 && !strcmp(argv[optind], "link-start"))
		return link_wanted(argv[optind + 1]);
	if (optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	return start(detached);
}
