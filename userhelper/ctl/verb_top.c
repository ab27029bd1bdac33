// SPDX-License-Identifier: GPL-2.0-only
/*
 * top: rates, latency and queues, again and again. Bytes and errors are the driver's
 * counters, times the block layer's (Documentation/block/stat.rst of the kernel). Only
 * the kernel is asked: it goes on whatever else hangs.
 */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "sock.h"

#define INTERVAL_MAX	3600

/**
 * struct sample - counters of a drive at one time
 * @valid: the drive is there
 * @requests: that have ended
 * @busy_ms: sum of the times that these took
 * @queue_ms: ... that all took until now, those under way too
 */
struct sample {
	bool valid;
	char name[32];
	struct kernel_stats stats;
	uint64_t requests, busy_ms, queue_ms;
};

struct top {
	bool json, screen;
	uint32_t interval, count;
	long long at, before;	/* now_ms() of the samples */
	struct sample now[SPICEBD_MAX_DRIVES], last[SPICEBD_MAX_DRIVES];
	struct kernel_drive drives[SPICEBD_MAX_DRIVES];
	unsigned int nr;
	int signals;
	struct termios keys;
};

/* What a drive did in a second, in between. */
struct rates {
	double read, written, requests, latency_ms, queue;
	uint64_t errors;
};

static void read_stat(struct sample *s)
{
	unsigned long long f[17] = { 0 };
	char path[64];
	FILE *in;
	int n = 0;

	snprintf(path, sizeof(path), "/sys/block/%s/stat", s->name);
	in = fopen(path, "re");
	while (in && n < 17 && fscanf(in, "%llu", &f[n]) == 1)
		n++;
	if (in)
		fclose(in);
	if (n < 11)
		return;
	/* Reads, writes, discards, flushes: how many, and their time. */
	s->requests = f[0] + f[4] + f[11] + f[15];
	s->busy_ms = f[3] + f[7] + f[14] + f[16];
	s->queue_ms = f[10];
}

static int take(struct top *t, struct kernel *k, struct kernel_err *e)
{
	int r = kernel_list(k, t->drives, &t->nr, e);

	if (r < 0)
		return r;
	memcpy(t->last, t->now, sizeof(t->last));
	memset(t->now, 0, sizeof(t->now));
	t->before = t->at;
	t->at = now_ms();
	for (unsigned int i = 0; i < t->nr; i++) {
		const struct kernel_drive *d = &t->drives[i];
		struct sample *s;

		if (d->index >= SPICEBD_MAX_DRIVES)
			continue;
		s = &t->now[d->index];
		s->valid = true;
		s->stats = d->stats;
		g_strlcpy(s->name, d->name, sizeof(s->name));
		read_stat(s);
	}
	return 0;
}

/* A drive that was made anew in between counts from nothing. */
static uint64_t grown(uint64_t now, uint64_t last)
{
	return now >= last ? now - last : now;
}

static bool rates_of(const struct top *t, uint32_t index, struct rates *r)
{
	const struct sample *now = &t->now[index], *last = &t->last[index];
	double s = (t->at - t->before) / 1000.0;
	uint64_t ended;

	if (!now->valid || !last->valid || s <= 0)
		return false;
	ended = grown(now->requests, last->requests);
	r->read = grown(now->stats.read_bytes, last->stats.read_bytes) / s;
	r->written = grown(now->stats.write_bytes, last->stats.write_bytes) / s;
	r->requests = ended / s;
	r->latency_ms = ended ? (double)grown(now->busy_ms, last->busy_ms) / ended : 0;
	r->queue = grown(now->queue_ms, last->queue_ms) / (s * 1000);
	r->errors = grown(now->stats.errors, last->stats.errors);
	return true;
}

static void print_json(const struct kernel_drive *d, const char *state, const struct rates *r)
{
	g_autoptr(JsonObject) o = json_object_new();

	json_object_set_string_member(o, "drive", d->name);
	json_object_set_string_member(o, "state", state);
	json_object_set_double_member(o, "read-bytes-per-second", r->read);
	json_object_set_double_member(o, "write-bytes-per-second", r->written);
	json_object_set_double_member(o, "requests-per-second", r->requests);
	json_object_set_double_member(o, "latency-ms", r->latency_ms);
	json_object_set_double_member(o, "queue", r->queue);
	json_object_set_int_member(o, "held", d->held);
	json_object_set_int_member(o, "errors", r->errors);
	json_print_object(o);
}

static void print_row(const struct top *t, const struct kernel_drive *d, const char *state,
		      const struct rates *r)
{
	char a[32], b[32];

	printf("%-11s %s%-12s%s %10s/s %10s/s %8.0f %9.1f ms %6.1f %5u %6llu%s\n", d->name,
	       style_of(state), state, style_end(), size_text(r->read, a, sizeof(a)),
	       size_text(r->written, b, sizeof(b)), r->requests, r->latency_ms, r->queue, d->held,
	       (unsigned long long)r->errors, t->screen ? "\033[K" : "");
}

static void print_drive(const struct top *t, const struct kernel_drive *d)
{
	g_autoptr(JsonObject) o = NULL;
	struct rates r = { 0 };
	const char *state;

	if (d->index >= SPICEBD_MAX_DRIVES || !rates_of(t, d->index, &r))
		return;
	o = json_of_drive(d);
	state = state_shown(o);
	if (t->json)
		print_json(d, state, &r);
	else
		print_row(t, d, state, &r);
}

static void print_all(const struct top *t)
{
	char clock[16];
	time_t now = time(NULL);
	struct tm tm;

	if (!t->json) {
		strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &tm));
		printf("%s%s%s\n%s", t->screen ? "\033[H" : "", clock,
		       t->screen ? "   q: quit\033[K" : "", t->screen ? "\033[K\n" : "");
		printf("%-11s %-12s %12s %12s %8s %12s %6s %5s %6s%s\n", "DRIVE", "STATE", "READ",
		       "WRITTEN", "REQ/s", "LATENCY", "QUEUE", "HELD", "ERRORS",
		       t->screen ? "\033[K" : "");
	}
	for (unsigned int i = 0; i < t->nr; i++)
		print_drive(t, &t->drives[i]);
	fputs(t->screen ? "\033[J" : t->json ? "" : "\n", stdout);
	fflush(stdout);
}

/* A terminal at both ends: keys one at a time, on a screen of its own. */
static bool screen_begin(struct top *t)
{
	struct termios raw;

	if (!t->screen)
		return true;
	if (tcgetattr(STDIN_FILENO, &t->keys) < 0)
		return false;
	raw = t->keys;
	raw.c_lflag &= ~(ICANON | ECHO);
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
		return false;
	fputs("\033[?1049h\033[?25l\033[2J", stdout);
	return true;
}

static void screen_end(const struct top *t)
{
	if (!t->screen)
		return;
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &t->keys);
}

/* Return: false: whoever looks at it has seen enough. */
static bool wait_for_next(const struct top *t)
{
	long long end = t->at + t->interval * 1000LL, left;

	while ((left = end - now_ms()) > 0) {
		struct pollfd p[2] = {
			{ .fd = t->signals, .events = POLLIN },
			{ .fd = t->screen ? STDIN_FILENO : -1, .events = POLLIN },
		};
		char key;

		if (poll(p, 2, (int)left) < 0 && errno != EINTR)
			return false;
		if (p[0].revents)
			return false;
		if (p[1].revents && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q'))
			return false;
	}
	return true;
}

static int run(struct top *t, struct kernel *k, struct fault *f)
{
	struct kernel_err e = { 0 };
	uint32_t shown = 0;
	int r = take(t, k, &e);

	while (!r && wait_for_next(t)) {
		r = take(t, k, &e);
		if (r)
			break;
		print_all(t);
		if (t->count && ++shown == t->count)
			break;
	}
	if (r)
		fault_kernel(f, &e);
	return r;
}

static int parse(const struct verb *v, int argc, char **argv, struct top *t)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON,
		{ "interval", required_argument, NULL, 'i' },
		{ "count", required_argument, NULL, 'c' },
		OPT_END
	};
	int c, status;

	while ((c = verb_option(v, argc, argv, opts, &t->json, &status))) {
		if (c == 'c' && (!parse_u32(optarg, UINT32_MAX, &t->count) || !t->count))
			return verb_usage(v, "\"%s\" is no number of times", optarg);
		if (c == 'i' && (!parse_u32(optarg, INTERVAL_MAX, &t->interval) || !t->interval))
			return verb_usage(v, "\"%s\" is no number of seconds, 1 to %d", optarg,
					  INTERVAL_MAX);
	}
	return status >= 0 || argc == optind ? status : verb_usage(v, "it takes no drive");
}

int verb_top(const struct verb *v, int argc, char **argv)
{
	g_autofree struct top *t = g_new0(struct top, 1);
	struct kernel *k;
	struct fault f = { 0 };
	sigset_t set;
	int r;

	t->interval = 1;
	r = parse(v, argc, argv, t);
	if (r >= 0)
		return r;
	k = drives_kernel(&f);
	if (!k)
		return fault_tell(&f);
	t->screen = !t->json && !t->count && isatty(STDOUT_FILENO) && isatty(STDIN_FILENO);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	t->signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (t->signals < 0 || !screen_begin(t)) {
		fault_set(&f, EXIT_REFUSED, "cannot read keys and signals: %s", strerror(errno));
		r = -1;
	} else {
		r = run(t, k, &f);
		screen_end(t);
	}
	kernel_close(k);
	if (t->signals >= 0)
		close(t->signals);
	return r < 0 ? fault_tell(&f) : EXIT_DONE;
}
