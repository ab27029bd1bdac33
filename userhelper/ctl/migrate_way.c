// SPDX-License-Identifier: GPL-2.0-only
/*
 * The way to the other spicebdd: its socket here, or a program of ours or the
 * machine's that goes to the other host, and ends with us.
 */
#include "migrate_way.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"
#include "sock.h"

#define READY_FD	3
#define PORT_SIZE	12

extern char **environ;

/* HOST[:PORT], of which nothing may look like an option; an IPv6 address in brackets. */
static int split(const char *text, char *host, size_t size, char *port)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon && !strchr(colon, ']') ? (size_t)(colon - text) : strlen(text);
	uint32_t number = 0;

	if (!len || len >= size || *text == '-' || memchr(text, '/', len))
		return -EINVAL;
	if (text[len] && (!parse_u32(text + len + 1, 65535, &number) || !number))
		return -EINVAL;
	snprintf(host, size, "%.*s", (int)len, text);
	port[0] = '\0';
	if (number)
		snprintf(port, PORT_SIZE, "%u", number);
	return 0;
}

/* @ready: what the program gets as READY_FD, or -1. Return: our end of its stdin and stdout */
static int start(char **argv, int ready, pid_t *pid, struct fault *f)
{
	posix_spawn_file_actions_t fa;
	int sv[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) {
		fault_set(f, EXIT_REFUSED, "no socket for %s: %s", argv[0], strerror(errno));
		return -errno;
	}
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, sv[1], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&fa, sv[1], STDOUT_FILENO);
	if (ready >= 0)
		posix_spawn_file_actions_adddup2(&fa, ready, READY_FD);
	r = posix_spawnp(pid, argv[0], &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	close(sv[1]);
	if (!r)
		return sv[0];
	close(sv[0]);
	fault_set(f, EXIT_REFUSED, "cannot run %s: %s", argv[0], strerror(r));
	return -r;
}

static int by_ssh(const char *to, pid_t *pid, struct fault *f)
{
	char host[256], port[PORT_SIZE];
	char *argv[] = { "ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=10",
			 "--", host, "spicebdctl migrate --serve", NULL };
	char *with_port[] = { "ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=10",
			      "-p", port, "--", host, "spicebdctl migrate --serve", NULL };

	if (split(to, host, sizeof(host), port) < 0) {
		fault_set(f, EXIT_USAGE, "\"ssh://%s\" is not ssh://[USER@]HOST[:PORT]", clean(to));
		return -EINVAL;
	}
	return start(port[0] ? with_port : argv, -1, pid, f);
}

/* The program has said why by itself. */
static int await_ready(int ready, int fd, pid_t pid, struct fault *f)
{
	ssize_t n;
	char c;

	do
		n = read(ready, &c, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1)
		return fd;
	close(fd);
	waitpid(pid, NULL, 0);
	fault_set(f, EXIT_REFUSED, "not migrated: there is no way to the other spicebdd");
	return -ENOTCONN;
}

static int by_tls(const char *to, const char *certificates, pid_t *pid, struct fault *f)
{
	char path[256], host[256], port[PORT_SIZE], ready[8], *name = host;
	char *argv[] = { path, "connect", host, port, "--ready-fd", ready, "--certificates",
			 (char *)certificates, NULL };
	size_t len;
	int fd, p[2];

	if (split(to, host, sizeof(host), port) < 0 || !port[0]) {
		fault_set(f, EXIT_USAGE, "\"tls://%s\" is not tls://HOST:PORT", clean(to));
		return -EINVAL;
	}
	len = strlen(host);
	if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = '\0';
		name = host + 1;
	}
	argv[2] = name;
	if (!certificates)
		argv[6] = NULL;
	snprintf(ready, sizeof(ready), "%d", READY_FD);
	program_path("spicebd-tls", path, sizeof(path));
	if (pipe2(p, O_CLOEXEC) < 0) {
		fault_set(f, EXIT_REFUSED, "no pipe: %s", strerror(errno));
		return -errno;
	}
	fd = start(argv, p[1], pid, f);
	close(p[1]);
	if (fd >= 0)
		fd = await_ready(p[0], fd, *pid, f);
	if (fd < 0)
		*pid = -1;
	close(p[0]);
	return fd;
}

int migrate_way(const char *uri, const char *certificates, pid_t *pid, struct fault *f)
{
	int fd;

	*pid = -1;
	if (!strncmp(uri, "ssh://", 6))
		return by_ssh(uri + 6, pid, f);
	if (!strncmp(uri, "tls://", 6))
		return by_tls(uri + 6, certificates, pid, f);
	if (strncmp(uri, "unix:", 5)) {
		fault_set(f, EXIT_USAGE, "\"%s\": the other host is at ssh://[USER@]HOST, "
			  "tls://HOST:PORT or unix:PATH", clean(uri));
		return -EINVAL;
	}
	fd = sock_connect(uri + 5, SOCK_STREAM);
	if (fd < 0)
		fault_set(f, EXIT_REFUSED, "cannot reach the other spicebdd at %s: %s; is it "
			  "running?", clean(uri + 5), strerror(-fd));
	return fd;
}

void migrate_way_end(int fd, pid_t pid)
{
	close(fd);
	if (pid <= 0)
		return;
	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
}
