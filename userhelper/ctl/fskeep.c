// SPDX-License-Identifier: GPL-2.0-only
/*
 * Frozen file systems have a keeper: a process that froze them and thaws them
 * when the drive is thawed, by whomever and for whatever reason, for until then
 * thawing would wait for the drive. It is apart from spicebdctl because FIFREEZE
 * waits for I/O and cannot be interrupted, and because it outlives spicebdctl.
 *
 *	file systems frozen -> told -> spicebdctl freezes the drive -> "commit"
 *
 * If spicebdctl goes before the commit, or the keeper gets a SIGTERM, it takes
 * the holder away itself. The keeper has RUN/fsfreeze/DRIVE locked while it
 * lives; a file that is not locked is of one that was killed, and names what
 * fskeep_finish() has to thaw.
 */
#include "freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <syslog.h>
#include <unistd.h>

#include "freezing.h"
#include "sock.h"

#define LOOK_MS		5000	/* events can be lost */
#define ENDS_MS		30000	/* for a keeper to thaw what waits for no drive any more */
#define TEXT_MAX	600

struct fskeep {
	int sock;
	int pid_fd;
	char drive[32];
};

/* ---- the record */

static int record_open(const char *drive, int flags, struct fault *f)
{
	char path[108];
	int fd;

	if (flags & O_CREAT && run_path(path, sizeof(path), "fsfreeze")) {
		mkdir(run_dir(), 0755);
		mkdir(path, 0700);
	}
	if (!run_path(path, sizeof(path), "fsfreeze/%s", drive)) {
		fault_set(f, EXIT_REFUSED, "the path of the run directory is too long");
		return -ENAMETOOLONG;
	}
	fd = open(path, flags | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0)
		return fd;
	fault_set(f, EXIT_REFUSED, "cannot open %s: %s", path, strerror(errno));
	return -errno;
}

static void record_remove(const char *drive)
{
	char path[108];

	if (run_path(path, sizeof(path), "fsfreeze/%s", drive))
		unlink(path);
}

static bool is_locked(int fd)
{
	return flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

/* A keeper may end between the look at its record and the lock. */
static bool is_removed(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 || !st.st_nlink;
}

/* The keeper's pid, then a file system a line. */
static int record_write(int fd, const struct fs_list *l)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	FILE *f = copy < 0 ? NULL : fdopen(copy, "w");

	if (!f)
		return -errno;
	if (ftruncate(fd, 0) < 0 || fseek(f, 0, SEEK_SET) < 0)
		l = NULL;
	if (l)
		fprintf(f, "%d\n", getpid());
	for (unsigned int i = 0; l && i < l->n; i++)
		fprintf(f, "%u:%u %s\n", major(l->of[i].dev), minor(l->of[i].dev), l->of[i].where);
	return fclose(f) == 0 && l ? 0 : -EIO;
}

static FILE *record_read(int fd, pid_t *pid)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	FILE *f = copy < 0 ? NULL : fdopen(copy, "r");

	*pid = 0;
	if (f && (fseek(f, 0, SEEK_SET) < 0 || fscanf(f, "%d\n", pid) != 1))
		*pid = 0;
	return f;
}

static void thaw_recorded(FILE *f, const struct fs_list *l)
{
	unsigned int maj, min;

	while (fscanf(f, "%u:%u %*[^\n]\n", &maj, &min) == 2)
		for (unsigned int i = 0; i < l->n; i++)
			if (l->of[i].dev == makedev(maj, min))
				(void)ioctl(l->of[i].fd, FITHAW, 0);
}

/* Of a keeper that was killed. */
static int thaw_left(const char *drive, int fd, struct fault *f)
{
	struct fs_list l;
	pid_t pid;
	FILE *rec = record_read(fd, &pid);
	int r = rec ? fs_find(drive, &l, f) : -EIO;

	if (!r)
		thaw_recorded(rec, &l);
	if (rec) {
		fs_close(&l);
		fclose(rec);
	}
	if (!r)
		record_remove(drive);
	return r;
}

/* ---- the keeper */

struct keeper {
	int sock, signals;
	const struct fs_list *l;
	unsigned int frozen;
	uint32_t index;
	const char *drive, *holder;
	bool committed, aborted;
	long long deadline;		/* for the commit */
	struct kernel *k;
	struct kernel_events *ev;
};

static void say(const struct keeper *k, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void say(const struct keeper *k, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	(void)send(k->sock, text, strlen(text), MSG_NOSIGNAL);
}

static bool is_needed(const struct keeper *k, int record, int fd)
{
	for (unsigned int i = 0; i < k->l->n; i++)
		if (k->l->of[i].fd == fd)
			return true;
	return fd == record || fd == k->sock;
}

/* Above all the ends of other keepers' sockets, who would not see us go. */
static void close_others(const struct keeper *k, int record)
{
	int last = MAX(record, k->sock);

	for (unsigned int i = 0; i < k->l->n; i++)
		last = MAX(last, k->l->of[i].fd);
	for (int fd = 3; fd < last; fd++)
		if (!is_needed(k, record, fd))
			close(fd);
	close_range(last + 1, ~0U, 0);
}

static void be_last_to_die(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "-900", 4) < 0)
		syslog(LOG_WARNING, "cannot set oom_score_adj: %m");
	if (fd >= 0)
		close(fd);
}

static void detach(struct keeper *k, int record)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t all;

	prctl(PR_SET_NAME, "spicebd-fskeep");
	setsid();
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	close_others(k, record);
	if (chdir("/") < 0)
		syslog(LOG_WARNING, "cannot leave the working directory: %m");
	sigemptyset(&all);
	sigaddset(&all, SIGTERM);
	sigaddset(&all, SIGINT);
	sigaddset(&all, SIGHUP);
	sigprocmask(SIG_BLOCK, &all, NULL);
	sigdelset(&all, SIGINT);
	sigdelset(&all, SIGHUP);
	k->signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	/* Its own pages may lie on what it freezes. */
	(void)mlockall(MCL_CURRENT | MCL_FUTURE);
	be_last_to_die();
}

static bool connect_kernel(struct keeper *k)
{
	struct kernel_err e = { 0 };

	k->ev = kernel_events_open(&e);
	if (k->ev)
		k->k = kernel_open(&e);
	if (k->k && kernel_manage(k->k, &e) == 0)
		return true;
	say(k, "fail %s", e.text);
	return false;
}

static void thaw_all(struct keeper *k)
{
	for (unsigned int i = k->l->n - k->frozen; i < k->l->n; i++) {
		const struct fs *s = &k->l->of[i];

		/* EINVAL: somebody else has thawed it. */
		if (ioctl(s->fd, FITHAW, 0) < 0 && errno != EINVAL)
			syslog(LOG_ERR, "%s: cannot thaw %s: %m", k->drive, s->where);
	}
	k->frozen = 0;
}

/* Whoever asked has given up. */
static bool is_alone(const struct keeper *k)
{
	struct pollfd p = { .fd = k->sock };

	return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR);
}

/* The last mounted first: it may lie on one that was mounted before. */
static bool freeze_all(struct keeper *k)
{
	while (k->frozen < k->l->n) {
		const struct fs *s = &k->l->of[k->l->n - 1 - k->frozen];
		int e;

		say(k, "try %s", s->where);
		if (ioctl(s->fd, FIFREEZE, 0) == 0) {
			k->frozen++;
			if (!is_alone(k))
				continue;
			thaw_all(k);
			return false;
		}
		e = errno;
		thaw_all(k);
		if (e == EOPNOTSUPP || e == ENOTTY)
			say(k, "fail %s, mounted on %s, cannot be frozen: unmount it, or freeze "
			    "without --fs", s->type, s->where);
		else if (e == EBUSY)
			say(k, "fail %s is frozen already, by something else (fsfreeze -u %s thaws "
			    "it)", s->where, s->where);
		else
			say(k, "fail cannot freeze %s: %s", s->where, strerror(e));
		return false;
	}
	say(k, "done");
	return true;
}

static void ignore(enum kernel_event_kind kind, const struct kernel_drive *d, void *arg)
{
}

static void take_away(struct keeper *k, struct kernel_drive *d)
{
	struct kernel_drive now;

	if (kernel_thaw(k->k, k->index, k->holder, &now, NULL) == 0)
		*d = now;
}

/* Whether nothing holds the drive frozen, for or against us. */
static bool may_thaw(struct keeper *k)
{
	struct kernel_drive d;
	int r = kernel_get(k->k, k->index, &d, NULL);

	if (r == -ETIMEDOUT || r == -ENOBUFS || r == -ENOMEM)
		return false;
	/* The drive has gone, or the module. */
	if (r < 0)
		return true;
	if (k->aborted && freezing_find(&d, k->holder))
		take_away(k, &d);
	return (k->aborted || k->committed) && !(d.state & SPICEBD_STATE_FREEZING);
}

static void await_change(struct keeper *k)
{
	struct pollfd p[3] = {
		{ .fd = kernel_events_fd(k->ev), .events = POLLIN },
		{ .fd = k->signals, .events = POLLIN },
		{ .fd = k->committed || k->aborted ? -1 : k->sock, .events = POLLIN },
	};
	char text[16];
	ssize_t n;

	poll(p, 3, LOOK_MS);
	if (p[0].revents)
		kernel_events_read(k->ev, ignore, NULL);
	if (p[1].revents & POLLIN)
		k->aborted = true;
	if (p[2].revents) {
		n = recv(k->sock, text, sizeof(text), MSG_DONTWAIT);
		if (n > 0)
			k->committed = true;
		else if (n == 0 || (errno != EAGAIN && errno != EINTR))
			k->aborted = true;
	}
	if (!k->committed && now_ms() > k->deadline)
		k->aborted = true;
}

static void __attribute__((noreturn)) keep(struct keeper *k, int record)
{
	openlog("spicebd-fskeep", LOG_PID, LOG_DAEMON);
	detach(k, record);
	if (!connect_kernel(k))
		goto out;
	if (record_write(record, k->l) < 0) {
		say(k, "fail cannot write down what is to be frozen");
		goto out;
	}
	if (freeze_all(k)) {
		while (!may_thaw(k))
			await_change(k);
		thaw_all(k);
		syslog(LOG_INFO, "%s: its file systems are thawed", k->drive);
	}
	record_remove(k->drive);
out:
	_exit(0);
}

/* ---- who asks for it */

static void fskeep_free(struct fskeep *k)
{
	if (k->sock >= 0)
		close(k->sock);
	if (k->pid_fd >= 0)
		close(k->pid_fd);
	g_free(k);
}

static struct fskeep *spawn(const struct kernel_drive *d, const char *holder, int record,
			    const struct fs_list *l, long long deadline, struct fault *f)
{
	struct keeper keeper = {
		.l = l, .index = d->index, .drive = d->name, .holder = holder,
		/* The drive has as long again at most. */
		.deadline = deadline + (deadline - now_ms()) + ENDS_MS,
	};
	struct fskeep *k = g_new0(struct fskeep, 1);
	int sv[2];
	pid_t pid;

	k->sock = k->pid_fd = -1;
	g_strlcpy(k->drive, d->name, sizeof(k->drive));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
		fault_set(f, EXIT_REFUSED, "no socket: %s", strerror(errno));
		fskeep_free(k);
		return NULL;
	}
	pid = fork();
	if (pid == 0) {
		close(sv[0]);
		keeper.sock = sv[1];
		keep(&keeper, record);
	}
	close(sv[1]);
	k->sock = sv[0];
	if (pid > 0)
		k->pid_fd = syscall(SYS_pidfd_open, pid, 0);
	if (k->pid_fd >= 0)
		return k;
	fault_set(f, EXIT_REFUSED, "cannot start a process: %s", strerror(errno));
	fskeep_free(k);
	return NULL;
}

/* What the keeper tells, until it has frozen all or cannot. */
static int await_frozen(struct fskeep *k, long long deadline, struct fault *f)
{
	struct pollfd p = { .fd = k->sock, .events = POLLIN };
	char text[TEXT_MAX], at[TEXT_MAX] = "its file systems";
	ssize_t n;

	for (;;) {
		if (wait_poll(&p, deadline) == 0) {
			fault_set(f, EXIT_TIMEOUT, "%s: %s could not be frozen in time: it waits "
				  "for the drive; it is thawed as soon as that answers", k->drive,
				  at);
			return -ETIMEDOUT;
		}
		n = recv(k->sock, text, sizeof(text) - 1, MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		text[n > 0 ? n : 0] = '\0';
		if (!strcmp(text, "done"))
			return 0;
		if (!strncmp(text, "try ", 4)) {
			g_strlcpy(at, text + 4, sizeof(at));
			continue;
		}
		fault_set(f, EXIT_REFUSED, "%s: %s", k->drive, !strncmp(text, "fail ", 5) ?
			  text + 5 : "the process that freezes its file systems was killed");
		return -EIO;
	}
}

/* Locked by us, and what a killed keeper left in it is undone. */
static int take_record(const char *drive, struct fault *f)
{
	int fd = record_open(drive, O_CREAT, f), r = 0;
	struct stat st;

	if (fd < 0)
		return fd;
	if (is_locked(fd)) {
		fault_set(f, EXIT_REFUSED, "%s: its file systems are frozen, or are being thawed; "
			  "try again", drive);
		r = -EBUSY;
	} else if (is_removed(fd)) {
		close(fd);
		return take_record(drive, f);
	} else if (fstat(fd, &st) == 0 && st.st_size) {
		r = thaw_left(drive, fd, f);
		if (!r) {
			close(fd);
			return take_record(drive, f);
		}
	}
	if (!r)
		return fd;
	close(fd);
	return r;
}

int fskeep_start(const struct kernel_drive *d, const char *holder, long long deadline,
		 struct fskeep **out, struct fault *f)
{
	struct fs_list l;
	int record, r = fs_find(d->name, &l, f);

	*out = NULL;
	if (r < 0 || !l.n) {
		fs_close(&l);
		return r;
	}
	record = take_record(d->name, f);
	if (record >= 0) {
		*out = spawn(d, holder, record, &l, deadline, f);
		close(record);
	}
	fs_close(&l);
	if (!*out)
		return -EIO;
	wait_begin_as("freezing the file systems", deadline - now_ms());
	r = await_frozen(*out, deadline, f);
	wait_end();
	if (r < 0) {
		fskeep_abort(*out);
		*out = NULL;
	}
	return r;
}

int fskeep_commit(struct fskeep *k)
{
	int r = send(k->sock, "commit", 6, MSG_NOSIGNAL) == 6 ? 0 : -errno;

	fskeep_free(k);
	return r;
}

static bool await_end(int pid_fd, int ms)
{
	struct pollfd p = { .fd = pid_fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

void fskeep_abort(struct fskeep *k)
{
	close(k->sock);
	k->sock = -1;
	/* One that waits for the drive ends when that does; nobody else need wait. */
	(void)await_end(k->pid_fd, 2000);
	fskeep_free(k);
}

bool fskeep_any(const char *drive)
{
	char path[108];
	struct stat st;

	/* One that was killed before it wrote had frozen nothing. */
	return run_path(path, sizeof(path), "fsfreeze/%s", drive) && stat(path, &st) == 0 &&
	       st.st_size > 0;
}

/* A keeper that is there: until it ends. */
static int await_keeper(const char *drive, int fd, struct fault *f)
{
	pid_t pid;
	FILE *rec = record_read(fd, &pid);
	int pid_fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	int r = 0;

	if (rec)
		fclose(rec);
	/* While it is locked the number is its own. */
	if (pid_fd >= 0 && is_locked(fd) && !await_end(pid_fd, ENDS_MS)) {
		fault_set(f, EXIT_TIMEOUT, "%s: thawed, but its file systems are not yet: process "
			  "%d waits for the drive", drive, pid);
		r = -ETIMEDOUT;
	}
	if (pid_fd >= 0)
		close(pid_fd);
	return r;
}

int fskeep_finish(const char *drive, struct fault *f)
{
	int fd, r = 0;

	fd = record_open(drive, 0, f);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (is_locked(fd))
		r = await_keeper(drive, fd, f);
	/* It has removed what it wrote, unless it was killed. */
	if (!r && !is_removed(fd) && !is_locked(fd))
		r = thaw_left(drive, fd, f);
	close(fd);
	return r;
}
