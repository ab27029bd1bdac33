// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a new NBD connection is asked before it is used: a server that answers
 * too late, and one that cannot read the medium's beginning.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -pthread -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/daemon -Iuserhelper/lib -Iuapi selftests/unit/nbdconn_test.c userhelper/daemon/nbdconn.c userhelper/lib/disc.c $(pkg-config --cflags --libs glib-2.0 json-glib-1.0 libnbd libsystemd)
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nbdconn.h"
#include "nbdtls.h"

#define LIMIT_MS	30000

static int number, failed;
static int patience;			/* ms, of one wait */

static void result(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

/* The daemon's, which bring the rest of it along. */
int derr_set(struct derr *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	e->code = code;
	return -code;
}

int nbdtls_prepare(struct nbd_handle *h, const char *uri, struct derr *e)
{
	return 0;
}

int task_poll(struct task *t, int fd, short events, const char *what, struct derr *e)
{
	struct pollfd p = { .fd = fd, .events = events };
	int r = poll(&p, 1, patience);

	return r > 0 ? p.revents : derr_set(e, ETIMEDOUT, "%s: no answer in time", what);
}

/* An nbdkit with one filter; returns its pid, and has it listen on @path. */
static pid_t serve(const char *path, const char *filter, const char *how)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execlp("nbdkit", "nbdkit", "-f", "--log=null", "-U", path, filter, "memory", "1M", how, NULL);
		_exit(127);
	}
	for (int i = 0; i < LIMIT_MS / 20 && access(path, F_OK) < 0; i++)
		usleep(20000);
	return pid;
}

static void end(pid_t pid, const char *path)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	unlink(path);
}

/* What became of asking for its properties, and whether anything is under way. */
static int ask(const char *path, int wait_ms, int *under_way)
{
	char uri[160];
	struct nbd_handle *h;
	struct nbd_props p;
	struct derr e;
	int r;

	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", path);
	patience = LIMIT_MS;
	h = nbdconn_uri(uri, NULL, &e);
	if (!h) {
		printf("# %s\n", e.text);
		return -ENOTCONN;
	}
	patience = wait_ms;
	r = nbdconn_props(h, &p, NULL, &e);
	*under_way = nbd_aio_in_flight(h);
	nbd_close(h);
	return r;
}

int main(void)
{
	char dir[] = "/tmp/nbdconn-XXXXXX", path[64];
	int under_way = 0, r;
	pid_t pid;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/sock", dir);
	pid = serve(path, "--filter=delay", "rdelay=3600");
	r = ask(path, 300, &under_way);
	result(r == -ETIMEDOUT, "an answer that does not come in time is an error");
	result(under_way == 1, "as the read is under way still");
	end(pid, path);
	pid = serve(path, "--filter=error", "error-pread=EIO");
	r = ask(path, LIMIT_MS, &under_way);
	result(!r && !under_way, "a beginning that cannot be read is none");
	end(pid, path);
	rmdir(dir);
	printf("1..%d\n", number);
	return failed ? 1 : 0;
}
