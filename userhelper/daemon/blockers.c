// SPDX-License-Identifier: GPL-2.0-only
#include "blockers.h"

#include <errno.h>
#include <stdio.h>

#include "drive.h"
#include "drive_condition.h"
#include "export.h"
#include "freeze.h"
#include "medium.h"
#include "snapshot.h"

/*
 * A row for each operation: what blocks it, and what blocks it even with force.
 */
static const struct {
	const char *name, *verb;
	unsigned int blocked, blocked_forced;
} table[] = {
	[OP_INSERT] = {
		"insert", "insert into it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_HELD | BLOCK_MIGRATE | BLOCK_FULL,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_HELD | BLOCK_MIGRATE | BLOCK_FULL,
	},
	[OP_CHANGE] = {
		"change", "change its medium",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_SNAPSHOT |
		BLOCK_MIGRATE | BLOCK_FREEZE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE | BLOCK_FREEZE,
	},
	[OP_EJECT] = {
		"eject", "eject",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_EXPORT | BLOCK_SNAPSHOT | BLOCK_MIGRATE |
		BLOCK_FREEZE,
		BLOCK_DELETE,
	},
	[OP_REMOVE] = {
		"remove", "remove its medium",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_SNAPSHOT |
		BLOCK_MIGRATE | BLOCK_FREEZE,
		BLOCK_DELETE,
	},
	[OP_TRAY] = {
		"tray", "move its tray",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE | BLOCK_FREEZE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE,
	},
	[OP_DELETE] = {
		"delete", "delete it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_SNAPSHOT |
		BLOCK_MIGRATE | BLOCK_FREEZE | BLOCK_FULL,
		BLOCK_DELETE,
	},
	[OP_FREEZE] = {
		"freeze", "freeze it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE,
	},
	[OP_MIGRATE] = {
		"migrate", "migrate it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_SNAPSHOT |
		BLOCK_MIGRATE | BLOCK_FREEZE | BLOCK_EMPTY | BLOCK_LINK,
		~0u,
	},
	[OP_SNAPSHOT] = {
		"snapshot", "make a snapshot",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_SNAPSHOT | BLOCK_MIGRATE |
		BLOCK_EMPTY | BLOCK_LINK,
		~0u,
	},
	[OP_RESIZE] = {
		"resize", "resize its medium",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_SNAPSHOT |
		BLOCK_MIGRATE | BLOCK_FREEZE | BLOCK_EMPTY | BLOCK_SIZE,
		~0u,
	},
};

static void freeze_text(const struct drive *d, char *text, size_t size)
{
	char by[480];

	snprintf(text, size, "it is %s", freeze_reason(d, by, sizeof(by)));
}

static void link_text(const struct drive *d, char *text, size_t size)
{
	snprintf(text, size, "the far end is lost: %s", d->medium->reason);
}

static const char *link_owner(const struct drive *d)
{
	return source_type_str(d->medium->source->type);
}

static void empty_text(const struct drive *d, char *text, size_t size)
{
	char buf[400];
	const char *why;

	if (drive_has_medium(d)) {
		snprintf(text, size, "its medium is not served by this spicebdd: eject it");
		return;
	}
	why = drive_why_empty(d, buf, sizeof(buf));
	snprintf(text, size, "it has no medium%s%s", why ? ": " : "", why ?: "");
}

static void full_text(const struct drive *d, char *text, size_t size)
{
	const char *name = d->medium ? d->medium->name : NULL;

	snprintf(text, size, "it has a medium%s%s: eject it first, or use force",
		 name ? ": " : "", name ?: "");
}

/*
 * What the reasons are, in the order in which they are told. Those with a function
 * are somebody's by name, who says it himself; those without an owner are what the
 * drive is, which its state says already.
 */
static const struct {
	unsigned int bits;
	int code;
	const char *owner, *text;
	void (*describe)(const struct drive *d, char *text, size_t size);
	const char *(*name)(const struct drive *d);
} reasons[] = {
	{ BLOCK_INSERT, EBUSY, "insert", "insert in progress", NULL, NULL },
	{ BLOCK_DELETE, EBUSY, "delete", "it is being deleted", NULL, NULL },
	{ BLOCK_ADOPT, EBUSY, "adoption", "its medium is being adopted from an earlier spicebdd",
	  NULL, NULL },
	{ BLOCK_MIGRATE, EBUSY, "migration", "it is being migrated", NULL, NULL },
	{ BLOCK_FREEZE | BLOCK_HELD, EBUSY, "freeze", NULL, freeze_text, freeze_first_holder },
	{ BLOCK_SNAPSHOT, EBUSY, "snapshot", NULL, snapshots_reason, snapshots_owner },
	{ BLOCK_EXPORT, EBUSY, "export", NULL, exports_reason, exports_owner },
	{ BLOCK_LINK, ENOTCONN, "source", NULL, link_text, link_owner },
	{ BLOCK_EMPTY, ENOMEDIUM, NULL, NULL, empty_text, NULL },
	{ BLOCK_FULL, EEXIST, NULL, NULL, full_text, NULL },
	{ BLOCK_SIZE, EOPNOTSUPP, NULL, "NBD tells a size only when a connection is made: eject "
	  "it and insert it again", NULL, NULL },
};

static bool stopping;

void blockers_stop(void)
{
	stopping = true;
}

bool blockers_stopped(void)
{
	return stopping;
}

const char *operation_str(enum operation op)
{
	return table[op].name;
}

static unsigned int what_it_is(const struct drive *d)
{
	unsigned int now = drive_has_medium(d) ? BLOCK_FULL | BLOCK_SIZE : BLOCK_EMPTY;
	const struct medium *m = d->medium;

	if (!m || m->state != MEDIUM_IN)
		now |= BLOCK_EMPTY;
	else if (!m->io || !m->link_up)
		now |= BLOCK_LINK;
	return now;
}

static unsigned int current(const struct drive *d)
{
	unsigned int now = d->blockers;

	if (freeze_held(d))
		now |= freeze_at_start(d) ? BLOCK_FREEZE : BLOCK_FREEZE | BLOCK_HELD;
	if (snapshots_block(d))
		now |= BLOCK_SNAPSHOT;
	return now | what_it_is(d);
}

static const char *reason_text(const struct drive *d, size_t i, char *text, size_t size)
{
	if (!reasons[i].describe)
		return reasons[i].text;
	reasons[i].describe(d, text, size);
	return text;
}

static int check(const struct drive *d, enum operation op, bool force, unsigned int now,
		 struct derr *e)
{
	char text[600];

	now &= force ? table[op].blocked_forced : table[op].blocked;
	for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++)
		if (now & reasons[i].bits)
			return derr_set(e, reasons[i].code, "drive %s: cannot %s: %s", d->k.name,
					table[op].verb, reason_text(d, i, text, sizeof(text)));
	return 0;
}

int blockers_check(const struct drive *d, enum operation op, bool force, struct derr *e)
{
	if (stopping)
		return derr_set(e, EBUSY, "drive %s: cannot %s: spicebdd is ending", d->k.name,
				table[op].verb);
	return check(d, op, force, current(d), e);
}

int blockers_check_begun(const struct drive *d, enum operation op, bool force, struct derr *e)
{
	return check(d, op, force, what_it_is(d), e);
}

void blockers_each(const struct drive *d,
		   void (*fn)(const struct blocker_info *i, void *arg), void *arg)
{
	unsigned int now = current(d);
	char text[600], owner[200];

	for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
		struct blocker_info b = { .owner = reasons[i].owner };

		if (!b.owner || !(now & reasons[i].bits))
			continue;
		for (unsigned int op = 0; op < OPERATIONS; op++)
			if (table[op].blocked & now & reasons[i].bits)
				b.blocks |= 1u << op;
		b.text = reason_text(d, i, text, sizeof(text));
		if (reasons[i].name) {
			snprintf(owner, sizeof(owner), "%s %.150s", reasons[i].owner,
				 reasons[i].name(d));
			b.owner = owner;
		}
		fn(&b, arg);
	}
}
