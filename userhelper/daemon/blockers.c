// SPDX-License-Identifier: GPL-2.0-only
#include "blockers.h"

#include <errno.h>
#include <stddef.h>

#include "drive.h"
#include "export.h"
#include "freeze.h"

/*
 * A row for each operation: what blocks it, and what blocks it even with force.
 */
static const struct {
	const char *verb;
	unsigned int blocked, blocked_forced;
} table[] = {
	[OP_INSERT] = {
		"insert into it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_HELD | BLOCK_MIGRATE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_HELD | BLOCK_MIGRATE,
	},
	[OP_CHANGE] = {
		"change its medium",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_MIGRATE |
		BLOCK_FREEZE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE | BLOCK_FREEZE,
	},
	[OP_EJECT] = {
		"eject",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_EXPORT | BLOCK_MIGRATE | BLOCK_FREEZE,
		BLOCK_DELETE,
	},
	[OP_REMOVE] = {
		"remove its medium",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_MIGRATE |
		BLOCK_FREEZE,
		BLOCK_DELETE,
	},
	[OP_TRAY] = {
		"move its tray",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE | BLOCK_FREEZE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE,
	},
	[OP_DELETE] = {
		"delete it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_MIGRATE |
		BLOCK_FREEZE,
		BLOCK_DELETE,
	},
	[OP_FREEZE] = {
		"freeze it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE,
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_MIGRATE,
	},
	[OP_MIGRATE] = {
		"migrate it",
		BLOCK_INSERT | BLOCK_DELETE | BLOCK_ADOPT | BLOCK_EXPORT | BLOCK_MIGRATE |
		BLOCK_FREEZE,
		~0u,
	},
};

static const struct {
	enum blocker bit;
	const char *text;
} reasons[] = {
	{ BLOCK_INSERT, "insert in progress" },
	{ BLOCK_DELETE, "it is being deleted" },
	{ BLOCK_ADOPT, "its medium is being adopted from an earlier spicebdd" },
	{ BLOCK_MIGRATE, "it is being migrated" },
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

static unsigned int current(const struct drive *d)
{
	unsigned int now = d->blockers;

	if (freeze_held(d))
		now |= freeze_at_start(d) ? BLOCK_FREEZE : BLOCK_FREEZE | BLOCK_HELD;
	return now;
}

int blockers_check(const struct drive *d, enum operation op, bool force, struct derr *e)
{
	unsigned int now = current(d) &
		(force ? table[op].blocked_forced : table[op].blocked);

	if (stopping)
		return derr_set(e, EBUSY, "drive %s: cannot %s: spicebdd is ending", d->k.name,
				table[op].verb);
	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (now & reasons[i].bit)
			return derr_set(e, EBUSY, "drive %s: cannot %s: %s", d->k.name,
					table[op].verb, reasons[i].text);
	if (now & (BLOCK_FREEZE | BLOCK_HELD)) {
		char text[500];

		return derr_set(e, EBUSY, "drive %s: cannot %s: it is %s", d->k.name,
				table[op].verb, freeze_reason(d, text, sizeof(text)));
	}
	if (now & BLOCK_EXPORT) {
		char text[200];

		exports_reason(d, text, sizeof(text));
		return derr_set(e, EBUSY, "drive %s: cannot %s: %s", d->k.name, table[op].verb,
				text);
	}
	return 0;
}
