// SPDX-License-Identifier: GPL-2.0-only
#include "freezing.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sock.h"
#include "text.h"

#define EARLY_MS	500	/* between the kernel's clock and ours */

bool freezing_holder_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > SPICEBD_HOLDER_NAME_MAX || name[0] == '-' || name[0] == '.')
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("._-@:", *name))
			return false;
	return true;
}

const char *freeze_str(uint32_t state)
{
	static const char *const names[] = {
		[SPICEBD_FREEZE_THAWED] = "thawed",
		[SPICEBD_FREEZE_DRAINING] = "draining",
		[SPICEBD_FREEZE_FLUSHING] = "flushing",
		[SPICEBD_FREEZE_FROZEN] = "frozen",
		[SPICEBD_FREEZE_FAILED] = "failed",
	};

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "failed";
}

const struct kernel_holder *freezing_find(const struct kernel_drive *d, const char *holder)
{
	for (unsigned int i = 0; i < d->nr_holders; i++)
		if (!strcmp(d->holders[i].name, holder))
			return &d->holders[i];
	return NULL;
}

static size_t add(char *out, size_t size, size_t len, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static size_t add(char *out, size_t size, size_t len, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(out + len, size - len, fmt, ap);
	va_end(ap);
	if (n < 0)
		return len;
	return (size_t)n < size - len ? len + n : size - 1;
}

const char *freezing_by(const struct kernel_drive *d, char *out, size_t size)
{
	size_t len = 0;

	out[0] = '\0';
	for (unsigned int i = 0; i < d->nr_holders; i++) {
		const struct kernel_holder *h = &d->holders[i];
		char name[SPICEBD_HOLDER_NAME_MAX + 1];

		text_clean(name, sizeof(name), h->name, strlen(h->name));
		len = add(out, size, len, "%s%s since %llu s", i ? "; " : "",
			  name[0] ? name : "somebody", (unsigned long long)h->since_ms / 1000);
		if (h->limited)
			len = add(out, size, len, ", for %u s more", (h->left_ms + 999) / 1000);
	}
	return out;
}

void freezing_begin(struct freezing *f, const struct kernel_drive *d, const char *holder)
{
	memset(f, 0, sizeof(*f));
	f->index = d->index;
	snprintf(f->name, sizeof(f->name), "%s", d->name);
	snprintf(f->holder, sizeof(f->holder), "%s", holder);
	f->generation = d->generation;
	f->medium = d->state & SPICEBD_STATE_MEDIUM;
}

/* Who is to be looked at: the nearest that does not work. */
static const char *silent(const struct kernel_drive *d)
{
	if (d->helper != SPICEBD_HELPER_ATTACHED)
		return "its helper (spicebdd) is not there";
	if (d->link == SPICEBD_LINK_LOST)
		return "the far end is lost";
	return "the far end does not answer";
}

static void still(struct freezing *f, const struct kernel_drive *d)
{
	/* With nothing else out it is the flush of an earlier freeze that did not end. */
	if (d->freeze == SPICEBD_FREEZE_FLUSHING || !d->in_flight)
		snprintf(f->why, sizeof(f->why), "%s: the flush of what was written is out",
			 silent(d));
	else
		snprintf(f->why, sizeof(f->why), "%s: %u request%s out", silent(d), d->in_flight,
			 d->in_flight == 1 ? " is" : "s are");
}

static int over(struct freezing *f, int code, const char *why)
{
	snprintf(f->why, sizeof(f->why), "%s", why);
	return -code;
}

static int lost_holder(struct freezing *f)
{
	char pending[sizeof(f->why)];

	if (!f->end || now_ms() + EARLY_MS < f->end)
		return over(f, ECANCELED, "somebody thawed it meanwhile");
	snprintf(pending, sizeof(pending), "%s", f->why);
	snprintf(f->why, sizeof(f->why), "the limit came first%s%.200s", pending[0] ? ": " : "",
		 pending);
	return -ETIMEDOUT;
}

int freezing_look(struct freezing *f, const struct kernel_drive *d)
{
	const struct kernel_holder *h;

	if (!d)
		return over(f, ENODEV, "it was deleted meanwhile");
	h = freezing_find(d, f->holder);
	/* A medium that was laid into a held drive took nothing with it. */
	if (f->medium && (d->generation != f->generation || !(d->state & SPICEBD_STATE_MEDIUM)))
		return over(f, ECANCELED, "its medium was ejected meanwhile");
	if (!h)
		return lost_holder(f);
	f->end = h->limited ? now_ms() + h->left_ms : 0;
	switch (d->freeze) {
	case SPICEBD_FREEZE_FROZEN:
		f->frozen = true;
		return 1;
	case SPICEBD_FREEZE_FAILED:
		snprintf(f->why, sizeof(f->why), "the flush failed (%s): what was written before "
			 "may not be on the far end's store",
			 strerror(d->freeze_error ? d->freeze_error : EIO));
		return -EIO;
	default:
		still(f, d);
		return 0;
	}
}

unsigned int freezing_culprit(const struct freezing *f, const int *r, unsigned int n)
{
	unsigned int first = n;

	for (unsigned int i = 0; i < n; i++) {
		if (r[i] >= 0)
			continue;
		if (!f[i].frozen)
			return i;
		if (first == n)
			first = i;
	}
	return first;
}
