// SPDX-License-Identifier: GPL-2.0-only
#include "attempt.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "conf.h"
#include "decide.h"
#include "log.h"
#include "marker.h"
#include "name.h"
#include "place.h"
#include "probe.h"

#define PROBE_SECONDS	40

__attribute__((format(printf, 3, 4)))
static void tell(struct state *s, enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->status, sizeof(s->status), fmt, ap);
	va_end(ap);
	log_line(level, "%s: %s", s->dev.name, s->status);
}

/* The device's, or the whole medium's, content. */
static int look(struct state *s, bool whole, int stop, struct found *out, dev_t *rdev)
{
	int fd = device_open(&s->dev, whole, rdev), r;

	if (fd < 0)
		return fd;
	r = probe(fd, PROBE_SECONDS, stop, out);
	close(fd);
	return r;
}

static enum attempt unseen(struct state *s, int error)
{
	/* What took it away makes itself known, and is dealt with then. */
	if (error == -EINTR || error == -ENOMEDIUM || error == -ENXIO || error == -ENODEV ||
	    error == -ENOENT || !device_present(&s->dev)) {
		snprintf(s->status, sizeof(s->status), "no medium");
		return ATTEMPT_LATER;
	}
	tell(s, LOG_L_WARN, "not mounted: the medium cannot be read: %s", strerror(-error));
	return ATTEMPT_LATER;
}

/* The mount point is marked as ours before anything is mounted on it. */
static int show(struct state *s, int fd, const char *place)
{
	int at = place_make(s->place, s->name, sizeof(s->name)), r;

	if (at < 0)
		return at;
	snprintf(s->mnt.path, sizeof(s->mnt.path), "%s/%s", place, s->name);
	r = marker_set(&s->dev, s->mnt.path);
	if (r == 0)
		r = mnt_attach(&s->mnt, fd, at);
	close(at);
	if (r < 0) {
		marker_set(&s->dev, NULL);
		place_remove(s->place, s->name);
	}
	return r;
}

static enum attempt mount_it(struct state *s, const struct conf *c,
			     const struct found_signature *sig, bool cdrom)
{
	bool writable = !cdrom && c->disk_writable && !device_read_only(&s->dev);
	char source[64], err[512] = "";
	int fd, r;

	snprintf(source, sizeof(source), "/dev/%s", s->dev.name);
	fd = mnt_new(sig->type, source, writable, c, err, sizeof(err));
	if (fd < 0) {
		if (!device_present(&s->dev))
			return unseen(s, fd);
		/* A stranger's broken medium is no failure of this machine. */
		tell(s, LOG_L_ERR, "not mounted: %s", err);
		return ATTEMPT_NOTHING;
	}
	s->mnt.writable = writable;
	s->place = place_open(c->place, err, sizeof(err));
	if (s->place < 0) {
		tell(s, LOG_L_ERR, "not mounted: %s", err);
		close(fd);
		return ATTEMPT_FAILED;
	}
	mount_name(sig, s->dev.name, s->name, sizeof(s->name));
	r = show(s, fd, c->place);
	/* Closing the last descriptor of a mount that was never shown ends it. */
	close(fd);
	if (r < 0) {
		close(s->place);
		tell(s, LOG_L_ERR, "not mounted: %s/%s: %s", c->place, s->name, strerror(-r));
		return ATTEMPT_FAILED;
	}
	s->mounted = true;
	tell(s, LOG_L_INFO, "mounted on %s (%s, %s)", s->mnt.path, sig->type,
	     writable ? "writable" : "read-only");
	return ATTEMPT_MOUNTED;
}

static enum attempt judge(struct state *s, const struct conf *c, int stop)
{
	static struct found here, whole;
	bool cdrom = device_is_cdrom(&s->dev);
	struct decision d;
	dev_t rdev;
	int r;

	r = look(s, false, stop, &here, &s->mnt.dev);
	if (r == 0 && s->dev.partition)
		r = look(s, true, stop, &whole, &rdev);
	if (r < 0)
		return unseen(s, r);
	decide(&d, c, &here, s->dev.partition ? &whole : NULL, cdrom);
	if (d.verdict != MOUNT_IT) {
		tell(s, d.verdict == REFUSE_IT ? LOG_L_NOTICE : LOG_L_INFO, "not mounted: %s",
		     d.why);
		return ATTEMPT_NOTHING;
	}
	return mount_it(s, c, d.sig, cdrom);
}

enum attempt attempt(struct state *s, int stop)
{
	static struct conf c;
	enum attempt a;
	char err[400];

	s->diskseq = device_diskseq(&s->dev);
	if (!device_present(&s->dev))
		return unseen(s, -ENOMEDIUM);
	if (!conf_load(&c, CONF_PATH, err, sizeof(err))) {
		tell(s, LOG_L_ERR, "not mounted: %s", err);
		return ATTEMPT_FAILED;
	}
	if (!c.enable) {
		tell(s, LOG_L_INFO, "not mounted: enable=no in %s", CONF_PATH);
		return ATTEMPT_NOTHING;
	}
	a = judge(s, &c, stop);
	/* What was looked at is what is mounted, or nothing is. */
	if (a == ATTEMPT_MOUNTED && device_diskseq(&s->dev) != s->diskseq) {
		tell(s, LOG_L_NOTICE, "unmounted again: the medium was changed meanwhile");
		if (mnt_away(&s->mnt, false) < 0)
			(void)mnt_away(&s->mnt, true);
		attempt_undo(s);
		return ATTEMPT_LATER;
	}
	return a;
}

void attempt_undo(struct state *s)
{
	if (!s->mounted)
		return;
	s->mounted = false;
	place_remove(s->place, s->name);
	close(s->place);
	s->place = -1;
	if (marker_set(&s->dev, NULL) < 0)
		log_warn("%s: %s/%s cannot be updated", s->dev.name, MARKER_DIR, s->dev.drive);
	snprintf(s->status, sizeof(s->status), "not mounted");
}
