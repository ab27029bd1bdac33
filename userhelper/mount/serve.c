// SPDX-License-Identifier: GPL-2.0-only
/*
 * One process for each device with a medium, from when udev announces it until
 * systemd sees the device go. It outlives its mount: who unmounts by hand does
 * not get the medium mounted again, but a next medium is.
 *
 * Unmounting is a child's, since writing back takes as long as the medium does.
 */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "attempt.h"
#include "log.h"
#include "marker.h"
#include "place.h"

#define ASK_MS		10000	/* how long a busy mount is tried */
#define AGAIN_MS	300	/* there is no event for "not busy any more" */
#define TERM_MS		15000	/* below the unit's TimeoutStopSec */

/**
 * struct server - the loop's state
 * @stop: readable, and never read, when SIGTERM has come
 * @retry: the last attempt could not see the medium
 * @child: unmounting; 0
 * @last: what the last child said
 * @wanted: unmounting is to be tried until the time @end
 * @ending: SIGTERM has come
 */
struct server {
	struct state s;
	int signals, stop, mountinfo;
	bool retry, wanted, ending;
	pid_t child;
	int last;
	long end;
};

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static void report(struct server *v, bool ready)
{
	sd_notifyf(0, "%sSTATUS=%s", ready ? "READY=1\n" : "", v->s.status);
}

static bool gone(const struct server *v)
{
	return !device_present(&v->s.dev) || device_diskseq(&v->s.dev) != v->s.diskseq;
}

static enum attempt try(struct server *v)
{
	enum attempt a = attempt(&v->s, v->stop);

	v->retry = a == ATTEMPT_LATER;
	report(v, false);
	return a;
}

static void start_child(struct server *v, bool detach)
{
	v->child = fork();
	if (v->child < 0) {
		v->last = -errno;
		v->child = 0;
		return;
	}
	if (v->child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(-mnt_away(&v->s.mnt, detach) & 0xff);
	}
}

static void reap(struct server *v)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != v->child)
			continue;
		v->child = 0;
		v->last = WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
	}
}

/* Whoever unmounted it: the mount point is ours to remove. */
static void notice_end(struct server *v)
{
	if (!v->s.mounted || mnt_mounted(&v->s.mnt))
		return;
	log_info("%s: unmounted from %s", v->s.dev.name, v->s.mnt.path);
	attempt_undo(&v->s);
	v->wanted = false;
	report(v, false);
}

static void want_unmount(struct server *v, long ms)
{
	if (!v->s.mounted)
		return;
	v->wanted = true;
	v->last = 0;
	v->end = now_ms() + ms;
}

static void signal_came(struct server *v, int number)
{
	switch (number) {
	case SIGCHLD:
		reap(v);
		break;
	case SIGUSR1:
		if (v->s.mounted)
			log_info("%s: its medium is wanted back", v->s.dev.name);
		want_unmount(v, ASK_MS);
		break;
	case SIGHUP:
		if (!v->s.mounted && !v->ending &&
		    (v->retry || device_diskseq(&v->s.dev) != v->s.diskseq))
			(void)try(v);
		break;
	default:
		v->ending = true;
	}
}

/* Waits for what may happen, at most @ms. */
static void wait_event(struct server *v, int ms)
{
	struct signalfd_siginfo si;
	struct pollfd p[] = {
		{ .fd = v->signals, .events = POLLIN },
		{ .fd = v->mountinfo, .events = POLLPRI },
	};

	if (poll(p, 2, ms) <= 0)
		return;
	if (p[0].revents && read(v->signals, &si, sizeof(si)) == sizeof(si))
		signal_came(v, si.ssi_signo);
	notice_end(v);
}

/* One step of an unmount that is wanted; how long until the next one. */
static int unmount_step(struct server *v)
{
	long left = v->end - now_ms();

	if (v->child)
		return left > 0 ? left : AGAIN_MS;
	notice_end(v);
	if (!v->wanted)
		return 0;
	if (left <= 0) {
		v->wanted = false;
		log_warn("%s: %s is not unmounted: %s", v->s.dev.name, v->s.mnt.path,
			 v->last == -EBUSY ? "it is in use" : strerror(-v->last));
		return 0;
	}
	/* The first try is at once, those after a failure are not. */
	if (v->last)
		wait_event(v, AGAIN_MS);
	if (v->wanted && !v->child)
		start_child(v, false);
	return AGAIN_MS;
}

/*
 * The medium is gone, and what is in use of it is of no use to anybody. At once:
 * udev's rule waits for it, so that systemd, which hears of the device only
 * then, does not try to unmount what is in use, and remember that as a failure.
 */
static void end_gone(struct server *v)
{
	if (mnt_away(&v->s.mnt, false) < 0 && mnt_mounted(&v->s.mnt) &&
	    mnt_away(&v->s.mnt, true) == 0)
		log_notice("%s: its medium is gone: %s was in use and is detached",
			   v->s.dev.name, v->s.mnt.path);
	notice_end(v);
}

static int end(struct server *v)
{
	sd_notify(0, "STOPPING=1");
	if (v->s.mounted && !gone(v)) {
		want_unmount(v, TERM_MS);
		while (v->wanted && !gone(v)) {
			int ms = unmount_step(v);

			if (v->wanted)
				wait_event(v, ms);
		}
	}
	if (v->s.mounted && gone(v))
		end_gone(v);
	return v->s.mounted ? 1 : 0;
}

static bool prepare(struct server *v, const struct device *dev)
{
	sigset_t set;

	memset(v, 0, sizeof(*v));
	v->s.dev = *dev;
	v->s.place = -1;
	sigemptyset(&set);
	for (const int *n = (const int []){ SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD, 0 }; *n; n++)
		sigaddset(&set, *n);
	sigprocmask(SIG_BLOCK, &set, NULL);
	v->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	v->stop = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	v->mountinfo = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (v->signals >= 0 && v->stop >= 0 && v->mountinfo >= 0)
		return true;
	log_err("%s: cannot wait for signals and mounts: %s", dev->name, strerror(errno));
	return false;
}

int serve(const struct device *dev)
{
	static struct server v;

	umask(022);
	if (!prepare(&v, dev))
		return 1;
	if (try(&v) == ATTEMPT_FAILED)
		return 1;
	report(&v, true);
	while (!v.ending) {
		int ms = v.wanted ? unmount_step(&v) : -1;

		if (!v.ending && (v.wanted || ms < 0))
			wait_event(&v, ms);
	}
	return end(&v);
}

int serve_clean(const struct device *dev)
{
	struct state s = { .dev = *dev, .place = -1 };
	char path[sizeof(s.mnt.path)], err[400], *slash;
	struct stat st;

	if (!marker_get(dev, path, sizeof(path)))
		return 0;
	slash = strrchr(path, '/');
	if (path[0] != '/' || slash == path || strlen(slash + 1) >= sizeof(s.name))
		return 1;
	if (stat(path, &st) == 0)
		s.mnt.dev = st.st_dev;
	s.mnt.writable = true;
	if (mnt_find(&s.mnt, path) && mnt_away(&s.mnt, false) < 0 &&
	    (device_present(dev) || mnt_away(&s.mnt, true) < 0)) {
		log_warn("%s: %s is still in use, and nobody's now: umount it", dev->name, path);
		return 0;
	}
	strcpy(s.name, slash + 1);
	*slash = '\0';
	s.place = place_open(path, err, sizeof(err));
	s.mounted = s.place >= 0;
	attempt_undo(&s);
	return 0;
}
