// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a supervisor that was killed left behind.
 *
 * Its daemon and links must be gone before we bind their sockets: a link that
 * changed its user lost the parent-death signal. They are known by pid and
 * start time, as recorded at each start. nbdkits and exports are left alone: a
 * drive or a client may depend on them, and the next spicebdd adopts or reaps them.
 */
#include "sup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "exportproto.h"
#include "nbdkitproto.h"
#include "sock.h"

#define END_TIMEOUT_MS 5000

/* Field 22 of /proc/PID/stat; 0 when there is no such process. */
static unsigned long long start_time(pid_t pid)
{
	unsigned long long t = 0;
	char path[32], buf[1024], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	buf[n] = '\0';
	p = strrchr(buf, ')');		/* the name before it may hold anything */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (p)
		sscanf(p, "%llu", &t);
	return t;
}

void leftover_record(const struct sup *s)
{
	char tmp[108], path[108];
	FILE *f;

	if (!run_path(tmp, sizeof(tmp), "supervisor.pids.new") ||
	    !run_path(path, sizeof(path), "supervisor.pids"))
		return;
	f = fopen(tmp, "we");
	if (!f) {
		log_warn("cannot write %s: %s", tmp, strerror(errno));
		return;
	}
	fchmod(fileno(f), 0600);
	for (int i = 0; i < PROCS_MAX; i++)
		if ((s->procs[i].kind == K_DAEMON || s->procs[i].kind == K_LINK) && s->procs[i].pid)
			fprintf(f, "%d %llu\n", s->procs[i].pid, start_time(s->procs[i].pid));
	if (fclose(f) || rename(tmp, path) < 0)
		log_warn("cannot write %s: %s", path, strerror(errno));
}

void leftover_forget(void)
{
	char path[108];

	if (run_path(path, sizeof(path), "supervisor.pids"))
		unlink(path);
}

static void end_one(pid_t pid, unsigned long long started)
{
	struct pollfd p = { .events = POLLIN };

	if (pid <= 1 || !started)
		return;
	p.fd = pidfd_open(pid, 0);
	if (p.fd < 0)
		return;
	/* Compared after the descriptor was taken: now the pid cannot change owner. */
	if (start_time(pid) == started) {
		log_notice("ending pid %d, left by a supervisor that was killed", pid);
		pidfd_send_signal(p.fd, SIGKILL, NULL, 0);
		if (poll(&p, 1, END_TIMEOUT_MS) == 0)
			log_err("pid %d does not end", pid);
	}
	close(p.fd);
}

void leftover_end(void)
{
	unsigned long long t;
	char path[108];
	int pid, n = 0;
	FILE *f;

	if (!run_path(path, sizeof(path), "supervisor.pids"))
		return;
	f = fopen(path, "re");
	if (!f)
		return;
	while (n++ < PROCS_MAX && fscanf(f, "%d %llu", &pid, &t) == 2)
		end_one(pid, t);
	fclose(f);
}

/* Two protocols, of one shape: a fixed message, and any answer. */
static void stop_one(const char *dir, const char *entry, const void *msg, size_t len)
{
	struct timeval limit = { .tv_sec = 2 };
	char path[108], answer[512];
	int fd;

	if (!run_path(path, sizeof(path), "%s/%s", dir, entry))
		return;
	fd = sock_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	fcntl(fd, F_SETFL, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (sock_send_fd(fd, msg, len, -1) == len && recv(fd, answer, sizeof(answer), 0) <= 0)
		log_warn("%s: does not stop", path);
	close(fd);
}

static void stop_all(const char *dir, const void *msg, size_t len)
{
	struct dirent *e;
	char path[108];
	int n = 0;
	DIR *d;

	if (!run_path(path, sizeof(path), "%s", dir))
		return;
	d = opendir(path);
	if (!d)
		return;
	while ((e = readdir(d)) && n < NBDKITS_MAX) {
		size_t l = strlen(e->d_name);

		if (l == NBDKIT_ID_LEN + 4 && !strcmp(e->d_name + NBDKIT_ID_LEN, ".ctl")) {
			stop_one(dir, e->d_name, msg, len);
			n++;
		}
	}
	closedir(d);
}

/* At our orderly end: those which are not our own children. */
void leftover_stop_servers(void)
{
	static const struct export_ctl e = {
		.magic = EXPORT_PROTO_MAGIC, .cmd = EXPORT_CMD_STOP,
	};
	static const struct nbdkit_ctl n = {
		.magic = NBDKIT_PROTO_MAGIC, .cmd = NBDKIT_CTL_STOP,
	};

	stop_all("export", &e, sizeof(e));
	stop_all("nbdkit", &n, sizeof(n));
}
