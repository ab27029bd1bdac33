// SPDX-License-Identifier: GPL-2.0-only
/* Freezing where no spicebdd runs: the kernel does it, and tells. */
#include "freeze.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "freezing.h"
#include "sock.h"

#define LOOK_MS	1000	/* events can be lost */

struct kernel *freeze_manager(struct fault *f)
{
	struct kernel *k = drives_kernel(f);
	struct kernel_err e = { 0 };

	if (!k || kernel_manage(k, &e) == 0)
		return k;
	fault_kernel(f, &e);
	kernel_close(k);
	return NULL;
}

static void ignore(enum kernel_event_kind kind, const struct kernel_drive *d, void *arg)
{
}

static int look(struct kernel *k, struct freezing *of, unsigned int n, struct fault *f)
{
	int r[SPICEBD_MAX_DRIVES];
	unsigned int done = 0, i;
	bool failed = false;

	for (i = 0; i < n; i++) {
		struct kernel_drive d;

		r[i] = kernel_get(k, of[i].index, &d, NULL);
		r[i] = freezing_look(&of[i], r[i] < 0 ? NULL : &d);
		failed |= r[i] < 0;
		done += r[i] > 0;
	}
	if (!failed)
		return done == n;
	i = freezing_culprit(of, r, n);
	fault_set(f, r[i] == -ETIMEDOUT ? EXIT_TIMEOUT : EXIT_REFUSED, "%s: not frozen: %s",
		  of[i].name, of[i].why);
	return r[i];
}

/* The kernel's limit ends it, for it makes us no holder any more. */
static int await(struct kernel *k, struct kernel_events *ev, struct freezing *of, unsigned int n,
		 struct fault *f)
{
	for (;;) {
		struct pollfd p = { .fd = kernel_events_fd(ev), .events = POLLIN };
		int r = look(k, of, n, f);

		if (r)
			return r < 0 ? r : 0;
		poll(&p, 1, LOOK_MS);
		r = kernel_events_read(ev, ignore, NULL);
		if (r < 0 && r != -ENOBUFS) {
			fault_set(f, EXIT_REFUSED, "the kernel's events: %s", strerror(-r));
			return r;
		}
	}
}

static int set_all(struct kernel *k, const struct freezing *of, unsigned int n, uint32_t limit,
		   unsigned int *done, struct fault *f)
{
	struct kernel_err e = { 0 };
	struct kernel_drive d;

	for (*done = 0; *done < n; (*done)++)
		if (kernel_freeze(k, of[*done].index, of[*done].holder, limit, &d, &e) < 0) {
			fault_kernel(f, &e);
			return -e.code;
		}
	return 0;
}

int freeze_by_kernel(const struct kernel_drive *d, unsigned int n, const char *holder,
		     uint32_t limit, struct fault *f)
{
	struct freezing *of = g_new0(struct freezing, n);
	struct kernel *k = freeze_manager(f);
	struct kernel_err e = { 0 };
	struct kernel_events *ev = k ? kernel_events_open(&e) : NULL;
	unsigned int done = 0;
	int r = -EIO;

	if (k && !ev)
		fault_kernel(f, &e);
	for (unsigned int i = 0; i < n; i++)
		freezing_begin(&of[i], &d[i], holder);
	if (ev)
		r = set_all(k, of, n, limit ? limit : FREEZE_TIMEOUT_DEFAULT, &done, f);
	if (!r)
		r = await(k, ev, of, n, f);
	/* What has no limit has one until it is frozen. */
	if (!r && !limit)
		r = set_all(k, of, n, 0, &done, f);
	if (r < 0 && ev)
		for (unsigned int i = 0; i < n; i++) {
			struct kernel_drive now;

			kernel_thaw(k, of[i].index, holder, &now, NULL);
		}
	kernel_events_close(ev);
	kernel_close(k);
	g_free(of);
	return r;
}
