// SPDX-License-Identifier: GPL-2.0-only
#include "decide.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

static bool terminated(const char *s, size_t size)
{
	return memchr(s, '\0', size);
}

bool found_valid(const struct found *f)
{
	if (f->n > FOUND_SIGNATURES_MAX || !terminated(f->table, sizeof(f->table)))
		return false;
	for (unsigned int i = 0; i < f->n; i++) {
		const struct found_signature *s = &f->sig[i];

		if (!terminated(s->type, sizeof(s->type)) || !s->type[0] ||
		    !terminated(s->label, sizeof(s->label)) ||
		    !terminated(s->uuid, sizeof(s->uuid)) || !text_ok(s->type, strlen(s->type)))
			return false;
	}
	return text_ok(f->table, strlen(f->table));
}

__attribute__((format(printf, 3, 4)))
static void say(struct decision *d, enum verdict v, const char *fmt, ...)
{
	va_list ap;

	d->verdict = v;
	va_start(ap, fmt);
	vsnprintf(d->why, sizeof(d->why), fmt, ap);
	va_end(ap);
}

static bool is_disc(const struct found_signature *s)
{
	return !strcmp(s->type, "iso9660") || !strcmp(s->type, "udf");
}

/*
 * An optical image may be both, on purpose: the one that is meant for this
 * century has all the files, the other often only a note that says so.
 */
static const struct found_signature *as_disc(const struct found *f)
{
	const struct found_signature *best = NULL;

	for (unsigned int i = 0; i < f->n; i++) {
		if (!is_disc(&f->sig[i]))
			return NULL;
		if (!best || !strcmp(f->sig[i].type, "udf"))
			best = &f->sig[i];
	}
	return best;
}

static void name_all(const struct found *f, char *out, size_t size)
{
	size_t n = 0;

	for (unsigned int i = 0; i < f->n && n < size; i++)
		n += snprintf(out + n, size - n, "%s%s", i ? ", " : "", f->sig[i].type);
	if (f->table[0] && n < size)
		snprintf(out + n, size - n, "%sa partition table (%s)", f->n ? ", " : "", f->table);
}

static void ambivalent(struct decision *d, const struct found *f, const char *where)
{
	char all[160];

	name_all(f, all, sizeof(all));
	say(d, REFUSE_IT, "%s holds more than one thing (%s): not guessed; wipefs shows them, "
	    "mount -t TYPE chooses", where, all);
}

/* What the rest of the medium says about a partition. */
static bool whole_allows(struct decision *d, const struct found *whole)
{
	if (!whole || !whole->n)
		return true;
	if (as_disc(whole)) {
		say(d, LEAVE_IT, "part of an optical image, which is mounted as a whole");
		return false;
	}
	ambivalent(d, whole, "the whole medium");
	return false;
}

void decide(struct decision *d, const struct conf *c, const struct found *here,
	    const struct found *whole, bool cdrom)
{
	const struct found_signature *s;

	memset(d, 0, sizeof(*d));
	if (!whole_allows(d, whole))
		return;
	if (!here->n) {
		if (here->table[0])
			say(d, LEAVE_IT, "a partition table (%s): its partitions are looked at",
			    here->table);
		else
			say(d, LEAVE_IT, "there is no file system on it");
		return;
	}
	s = as_disc(here);
	if (!s && (here->n > 1 || here->table[0])) {
		ambivalent(d, here, "it");
		return;
	}
	if (!s)
		s = &here->sig[0];
	if (!conf_allows(c, s->type, cdrom)) {
		say(d, REFUSE_IT, "it holds %s, which types= in " CONF_PATH
		    " does not name for a %s drive", s->type, cdrom ? "cdrom" : "disk");
		return;
	}
	d->verdict = MOUNT_IT;
	d->sig = s;
}
