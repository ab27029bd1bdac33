// SPDX-License-Identifier: GPL-2.0-only
#include "blockers.h"

#include <errno.h>
#include <stdio.h>

#include "drive.h"
#include "export.h"
#include "freeze.h"
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
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_HELD | BLOCK_MIGRATE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_HELD | BLOCK_MIGRATE,
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
		BLOCK_MIGRATE | BLOCK_FREEZE,
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
		BLOCK_MIGRATE | BLOCK_FREEZE,
		~0u,
	},
	[OP_SNAPSHOT] = {
		"snapshot", "make a snapshot",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_SNAPSHOT | BLOCK_MIGRATE,
		~0u,
	},
};

/*
 * What the reasons are, in the order in which they are told. Those with a function
 * are somebody's by name, who says it himself.
 */
static void freeze_text(const struct drive *d, char *text, size_t size)
{
	char by[480];

	snprintf(text, size, "it is %s", freeze_reason(d, by, sizeof(by)));
}

static const struct {
	unsigned int bits;
	const char *owner, *text;
	void (*describe)(const struct drive *d, char *text, size_t size);
	const char *(*name)(const struct drive *d);
} reasons[] = {
	{ BLOCK_INSERT, "insert", "insert in progress", NULL, NULL },
	{ BLOCK_DELETE, "delete", "it is being deleted", NULL, NULL },
	{ BLOCK_ADOPT, "adoption", "its medium is being adopted from an earlier spicebdd", NULL,
	  NULL },
	{ BLOCK_MIGRATE, "migration", "it is being migrated", NULL, NULL },
	{ BLOCK_FREEZE | BLOCK_HELD, "freeze", NULL, freeze_text, freeze_first_holder },
	{ BLOCK_SNAPSHOT, "snapshot", NULL, snapshots_reason, snapshots_owner },
	{ BLOCK_EXPORT, "export", NULL, exports_reason, exports_owner },
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

static unsigned int current(const struct drive *d)
{
	unsigned int now = d->blockers;

	if (freeze_held(d))
		now |= freeze_at_start(d) ? BLOCK_FREEZE : BLOCK_FREEZE | BLOCK_HELD;
	if (snapshots_block(d))
		now |= BLOCK_SNAPSHOT;
	return now;
}

static const char *reason_text(const struct drive *d, size_t i, char *text, size_t size)
{
	if (!reasons[i].describe)
		return reasons[i].text;
	reasons[i].describe(d, text, size);
	return text;
}

int blockers_check(const struct drive *d, enum operation op, bool force, struct derr *e)
{
	unsigned int now = current(d) &
		(force ? table[op].blocked_forced : table[op].blocked);
	char text[500];

	if (stopping)
		return derr_set(e, EBUSY, "drive %s: cannot %s: spicebdd is ending", d->k.name,
				table[op].verb);
	for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++)
		if (now & reasons[i].bits)
			return derr_set(e, EBUSY, "drive %s: cannot %s: %s", d->k.name,
					table[op].verb, reason_text(d, i, text, sizeof(text)));
	return 0;
}

void blockers_each(const struct drive *d,
		   void (*fn)(const struct blocker_info *i, void *arg), void *arg)
{
	unsigned int now = current(d);
	char text[500], owner[200];

	for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
		struct blocker_info b = { .owner = reasons[i].owner };

		if (!(now & reasons[i].bits))
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
