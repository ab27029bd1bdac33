// SPDX-License-Identifier: GPL-2.0-only
/* metrics: counters and states as text for Prometheus, its exposition format 0.0.4. */
#include "ctl.h"

#include <stddef.h>
#include <stdio.h>

/**
 * struct metric - one of a drive's numbers
 * @at: of a uint64_t, or with @narrow of a uint32_t, in struct kernel_drive
 */
struct metric {
	const char *name, *type, *help;
	size_t at;
	bool narrow;
};

#define COUNTER(metric, help, member) \
	{ "spicebd_" metric "_total", "counter", help, \
	  offsetof(struct kernel_drive, stats.member), false }
#define GAUGE(metric, help, member) \
	{ "spicebd_" metric, "gauge", help, offsetof(struct kernel_drive, member), true }

static const struct metric metrics[] = {
	COUNTER("read_bytes", "Bytes read from the medium.", read_bytes),
	COUNTER("written_bytes", "Bytes written to the medium.", write_bytes),
	COUNTER("reads", "Reads that have ended.", reads),
	COUNTER("writes", "Writes that have ended.", writes),
	COUNTER("flushes", "Flushes that have ended.", flushes),
	COUNTER("discards", "Discards that have ended.", discards),
	COUNTER("write_zeroes", "Writes of zeroes that have ended.", write_zeroes),
	COUNTER("errors", "Requests that ended in an error.", errors),
	COUNTER("refused_replies", "Replies of helpers that were refused.", refused),
	COUNTER("resent", "Requests handed to a second helper.", resent),
	COUNTER("medium_changes", "Media that came or went.", medium_changes),
	GAUGE("in_flight", "Requests that the helper has.", in_flight),
	GAUGE("held", "Requests that wait for a helper, the far end or a thaw.", held),
	GAUGE("users", "Openers that hold the medium.", users),
	GAUGE("queue_sockets", "Queue sockets of the helper.", nr_sockets),
};

static uint64_t value(const struct metric *m, const struct kernel_drive *d)
{
	const char *at = (const char *)d + m->at;

	return m->narrow ? *(const uint32_t *)at : *(const uint64_t *)at;
}

static void print_states(const struct kernel_drive *d, unsigned int n)
{
	puts("# HELP spicebd_state The drive is in this state.\n# TYPE spicebd_state gauge");
	for (unsigned int i = 0; i < n; i++) {
		g_autoptr(JsonObject) o = json_of_drive(&d[i]);

		printf("spicebd_state{drive=\"%s\",personality=\"%s\",state=\"%s\"} 1\n", d[i].name,
		       json_str(o, "personality", "?"), state_shown(o));
	}
	puts("# HELP spicebd_medium_bytes Size of the medium.\n# TYPE spicebd_medium_bytes gauge");
	for (unsigned int i = 0; i < n; i++)
		if (d[i].state & SPICEBD_STATE_MEDIUM)
			printf("spicebd_medium_bytes{drive=\"%s\"} %llu\n", d[i].name,
			       (unsigned long long)d[i].medium.size);
}

static void print_metric(const struct metric *m, const struct kernel_drive *d, unsigned int n)
{
	printf("# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, m->type);
	for (unsigned int i = 0; i < n; i++)
		printf("%s{drive=\"%s\"} %llu\n", m->name, d[i].name,
		       (unsigned long long)value(m, &d[i]));
}

int verb_metrics(const struct verb *v, int argc, char **argv)
{
	g_autofree struct kernel_drive *d = g_new0(struct kernel_drive, SPICEBD_MAX_DRIVES);
	static const struct option opts[] = { OPT_HELP, OPT_END };
	struct kernel_err e = { 0 };
	struct fault f = { 0 };
	struct kernel *k;
	unsigned int n = 0;
	bool json = false;
	int r, status;

	verb_option(v, argc, argv, opts, &json, &status);
	if (status >= 0)
		return status;
	if (argc != optind)
		return verb_usage(v, "it takes no drive");
	k = drives_kernel(&f);
	if (!k)
		return fault_tell(&f);
	r = kernel_list(k, d, &n, &e);
	kernel_close(k);
	if (r < 0) {
		fault_kernel(&f, &e);
		return fault_tell(&f);
	}
	print_states(d, n);
	for (size_t i = 0; i < sizeof(metrics) / sizeof(*metrics); i++)
		print_metric(&metrics[i], d, n);
	return EXIT_DONE;
}
