// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every state of a drive's tray, medium and locks, with every verb, every
 * argument and number of users, against the rules told in another way than kmod/tray.c tells them;
 * and the sequences that people know from real drives.
 *
 * BUILD: gcc -g -Wall -Wextra -fsanitize=address,undefined -Ikmod -Iuapi selftests/unit/tray_test.c kmod/tray.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tray.h"

static int nr, failures;

static const char * const verbs[] = {
	"open", "close", "insert", "remove", "eject", "lock", "unlock",
	"lock by the administrator", "unlock by the administrator",
};

static void ok(bool good, const char *name)
{
	printf("%sok %d %s\n", good ? "" : "not ", ++nr, name);
	failures += !good;
}

struct result {
	int error;
	struct sbd_tray tray;
	unsigned int happened;
};

/* Can the medium be read? */
static bool readable(const struct sbd_tray *t)
{
	return t->medium && !t->open;
}

/* May a verb that takes the medium from its user go on? */
static bool refused(const struct sbd_tray *t, unsigned int args)
{
	if (args & SBD_ARG_FORCE)
		return false;
	return t->locked || t->locked_admin || (args & SBD_ARG_IN_USE);
}

/* Verbs that a drive without a tray has, too. */
static bool for_slots(enum sbd_verb verb)
{
	return verb == SBD_VERB_INSERT || verb == SBD_VERB_REMOVE ||
	       verb == SBD_VERB_EJECT || verb == SBD_VERB_LOCK_ADMIN ||
	       verb == SBD_VERB_UNLOCK_ADMIN;
}

/*
 * What has to come out. What happened follows from the states before and
 * after, but for requests, which follow from the refusal.
 */
static struct result expect(struct sbd_tray t, enum sbd_verb verb,
			    unsigned int args)
{
	struct result r = { .tray = t };
	bool moves = (verb == SBD_VERB_OPEN || verb == SBD_VERB_EJECT) &&
		     t.has_tray && !t.open;

	bool takes = (verb == SBD_VERB_REMOVE || verb == SBD_VERB_EJECT) &&
		     !t.has_tray && t.medium;

	if (!t.has_tray && !for_slots(verb)) {
		r.error = -ENOSYS;
		return r;
	}
	if (moves && refused(&t, args)) {
		r.error = -EINPROGRESS;
		r.happened = SBD_TRAY_REQUEST;
		return r;
	}
	if ((verb == SBD_VERB_INSERT || verb == SBD_VERB_REMOVE) &&
	    t.has_tray && !t.open) {
		r.error = -EINVAL;
		return r;
	}
	if (verb == SBD_VERB_INSERT && t.medium) {
		r.error = -EEXIST;
		return r;
	}
	if (verb == SBD_VERB_INSERT && (args & SBD_ARG_STALE)) {
		r.error = -EBUSY;
		return r;
	}
	if (takes && refused(&t, args)) {
		r.error = t.locked_admin ? -EINPROGRESS : -EBUSY;
		r.happened = SBD_TRAY_REQUEST;
		return r;
	}

	if (moves)
		r.tray.open = true;
	if (verb == SBD_VERB_CLOSE)
		r.tray.open = false;
	if (verb == SBD_VERB_INSERT)
		r.tray.medium = true;
	if (verb == SBD_VERB_REMOVE || verb == SBD_VERB_EJECT)
		r.tray.medium = false;
	if (verb == SBD_VERB_LOCK)
		r.tray.locked = true;
	if (verb == SBD_VERB_UNLOCK ||
	    (verb == SBD_VERB_UNLOCK_ADMIN && (args & SBD_ARG_FORCE)))
		r.tray.locked = false;
	if (verb == SBD_VERB_LOCK_ADMIN)
		r.tray.locked_admin = true;
	if (verb == SBD_VERB_UNLOCK_ADMIN)
		r.tray.locked_admin = false;

	if (r.tray.open != t.open)
		r.happened |= SBD_TRAY_MOVED;
	if (readable(&r.tray) && !readable(&t))
		r.happened |= SBD_TRAY_READABLE;
	if (!readable(&r.tray) && readable(&t))
		r.happened |= SBD_TRAY_UNREADABLE;
	if (t.medium && !r.tray.medium)
		r.happened |= SBD_TRAY_REMOVED;
	if (r.tray.locked != t.locked || r.tray.locked_admin != t.locked_admin)
		r.happened |= SBD_TRAY_LOCK;
	if ((moves || takes) && (t.locked || t.locked_admin))
		r.happened |= SBD_TRAY_REQUEST;
	return r;
}

static bool equal(const struct sbd_tray *a, const struct sbd_tray *b)
{
	return a->has_tray == b->has_tray && a->open == b->open &&
	       a->medium == b->medium && a->locked == b->locked &&
	       a->locked_admin == b->locked_admin;
}

static bool check(struct sbd_tray t, enum sbd_verb verb, unsigned int args)
{
	struct result want = expect(t, verb, args);
	unsigned int happened = ~0U;
	struct sbd_tray got = t;
	int error = sbd_tray_do(&got, verb, args, &happened);

	if (error == want.error && happened == want.happened &&
	    equal(&got, &want.tray))
		return true;
	printf("# %s tray=%d open=%d medium=%d locked=%d/%d args=%x: error %d, expected %d; happened %x, expected %x\n",
	       verbs[verb], t.has_tray, t.open, t.medium, t.locked,
	       t.locked_admin, args,
	       error, want.error, happened, want.happened);
	return false;
}

/* Every state that can be, with one verb and all arguments. */
static void exhaustive(enum sbd_verb verb, bool has_tray)
{
	bool good = true;
	char name[64];
	int state;
	unsigned int args;

	for (state = 0; state < 16; state++) {
		struct sbd_tray t = {
			.has_tray = has_tray,
			.open = state & 1,
			.medium = state & 2,
			.locked = state & 4,
			.locked_admin = state & 8,
		};

		if (!has_tray && (t.open || t.locked))
			continue;
		for (args = 0; args < 16; args++)
			good &= check(t, verb, args);
	}
	snprintf(name, sizeof(name), "%s, %s", verbs[verb],
		 has_tray ? "with a tray" : "without");
	ok(good, name);
}

/*
 * Every state, verb, number of users and way to ask, as the driver asks: who
 * stands in the way, and whether old users are left behind.
 */
static void users(bool has_tray)
{
	unsigned int n, how, happened;
	bool good = true;
	int state, verb;

	for (state = 0; state < 16; state++)
	for (verb = 0; verb < SBD_NR_VERBS; verb++)
	for (n = 0; n < 4; n++)
	for (how = 0; how < 8; how++) {
		struct sbd_tray t = {
			.has_tray = has_tray,
			.open = has_tray && (state & 1),
			.medium = state & 2,
			.locked = has_tray && (state & 4),
			.locked_admin = state & 8,
		}, before = t;
		unsigned int asked = (how & 1 ? SBD_ARG_FORCE : 0) |
				     (how & 2 ? SBD_ARG_SELF : 0);
		bool self = how & 2, stale = how & 4;
		unsigned int others = !self ? n : has_tray || !n ? 0 : n - 1;
		unsigned int args = sbd_tray_args(&t, asked, n, stale);
		bool left, gone;

		if (!!(args & SBD_ARG_IN_USE) != !!others ||
		    !!(args & SBD_ARG_STALE) != stale ||
		    (args & (SBD_ARG_FORCE | SBD_ARG_SELF)) != asked)
			good = false;
		sbd_tray_do(&t, verb, args, &happened);
		gone = readable(&before) && !readable(&t);
		left = sbd_tray_goes_stale(&t, args, happened, n);
		if (left != (gone && n && !(self && has_tray)))
			good = false;
		/* Without force nobody but the asker loses a medium. */
		if (gone && others && !(how & 1))
			good = false;
		if (!good) {
			printf("# %s tray=%d state=%x users=%u how=%x: args %x, happened %x, stale %d\n",
			       verbs[verb], has_tray, state, n, how, args,
			       happened, left);
			ok(false, "users");
			return;
		}
	}
	ok(true, has_tray ? "users, with a tray" : "users, without");
}

struct step {
	enum sbd_verb verb;
	unsigned int args;
	int error;
	unsigned int happened;
};

static void sequence(const char *name, bool has_tray, bool filled,
		     const struct step *steps, int n)
{
	struct sbd_tray t = { .has_tray = has_tray, .medium = filled };
	bool good = true;
	int i;

	for (i = 0; i < n; i++) {
		unsigned int happened;
		int error = sbd_tray_do(&t, steps[i].verb, steps[i].args,
					&happened);

		if (error != steps[i].error || happened != steps[i].happened) {
			printf("# step %d: error %d, happened %x\n", i, error,
			       happened);
			good = false;
		}
	}
	ok(good, name);
}

#define SEQUENCE(name, has_tray, filled, ...)				\
	do {								\
		static const struct step steps[] = { __VA_ARGS__ };	\
									\
		sequence(name, has_tray, filled, steps,			\
			 sizeof(steps) / sizeof(steps[0]));		\
	} while (0)

int main(void)
{
	int verb;
	struct sbd_tray t = { .has_tray = true };
	unsigned int happened;

	printf("TAP version 13\n1..%d\n", 2 * SBD_NR_VERBS + 12);
	for (verb = 0; verb < SBD_NR_VERBS; verb++) {
		exhaustive(verb, true);
		exhaustive(verb, false);
	}

	users(true);
	users(false);

	SEQUENCE("change the medium of a cdrom", true, true,
		 { SBD_VERB_OPEN, 0, 0, SBD_TRAY_MOVED | SBD_TRAY_UNREADABLE },
		 { SBD_VERB_REMOVE, 0, 0, SBD_TRAY_REMOVED },
		 { SBD_VERB_INSERT, 0, 0, 0 },
		 { SBD_VERB_CLOSE, 0, 0, SBD_TRAY_MOVED | SBD_TRAY_READABLE });
	SEQUENCE("change the medium of a disk", false, true,
		 { SBD_VERB_OPEN, 0, -ENOSYS, 0 },
		 { SBD_VERB_REMOVE, 0, 0, SBD_TRAY_REMOVED | SBD_TRAY_UNREADABLE },
		 { SBD_VERB_INSERT, 0, 0, SBD_TRAY_READABLE },
		 { SBD_VERB_CLOSE, 0, -ENOSYS, 0 });
	SEQUENCE("a medium survives opening and closing", true, true,
		 { SBD_VERB_OPEN, 0, 0, SBD_TRAY_MOVED | SBD_TRAY_UNREADABLE },
		 { SBD_VERB_OPEN, 0, 0, 0 },
		 { SBD_VERB_CLOSE, 0, 0, SBD_TRAY_MOVED | SBD_TRAY_READABLE },
		 { SBD_VERB_CLOSE, 0, 0, 0 });
	SEQUENCE("a locked tray is asked for, and opens when unlocked", true, true,
		 { SBD_VERB_LOCK, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_LOCK, 0, 0, 0 },
		 { SBD_VERB_EJECT, 0, -EINPROGRESS, SBD_TRAY_REQUEST },
		 { SBD_VERB_UNLOCK, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_EJECT, 0, 0, SBD_TRAY_MOVED | SBD_TRAY_UNREADABLE |
					 SBD_TRAY_REMOVED });
	SEQUENCE("force opens a locked tray", true, true,
		 { SBD_VERB_LOCK, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_OPEN, SBD_ARG_FORCE, 0, SBD_TRAY_MOVED |
			SBD_TRAY_UNREADABLE | SBD_TRAY_REQUEST });
	SEQUENCE("the administrator's lock outlives the user's", true, true,
		 { SBD_VERB_LOCK, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_LOCK_ADMIN, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_LOCK_ADMIN, 0, 0, 0 },
		 { SBD_VERB_UNLOCK, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_EJECT, 0, -EINPROGRESS, SBD_TRAY_REQUEST },
		 { SBD_VERB_UNLOCK_ADMIN, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_EJECT, 0, 0, SBD_TRAY_MOVED | SBD_TRAY_UNREADABLE |
					 SBD_TRAY_REMOVED });
	SEQUENCE("a locked slot", false, true,
		 { SBD_VERB_LOCK, 0, -ENOSYS, 0 },
		 { SBD_VERB_LOCK_ADMIN, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_EJECT, 0, -EINPROGRESS, SBD_TRAY_REQUEST },
		 { SBD_VERB_REMOVE, 0, -EINPROGRESS, SBD_TRAY_REQUEST },
		 { SBD_VERB_EJECT, SBD_ARG_FORCE, 0, SBD_TRAY_REQUEST |
			SBD_TRAY_UNREADABLE | SBD_TRAY_REMOVED },
		 { SBD_VERB_EJECT, 0, 0, 0 },
		 { SBD_VERB_INSERT, 0, 0, SBD_TRAY_READABLE },
		 { SBD_VERB_EJECT, 0, -EINPROGRESS, SBD_TRAY_REQUEST });
	SEQUENCE("a forced unlock opens both locks", true, true,
		 { SBD_VERB_LOCK, 0, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_UNLOCK_ADMIN, 0, 0, 0 },
		 { SBD_VERB_OPEN, 0, -EINPROGRESS, SBD_TRAY_REQUEST },
		 { SBD_VERB_UNLOCK_ADMIN, SBD_ARG_FORCE, 0, SBD_TRAY_LOCK },
		 { SBD_VERB_OPEN, 0, 0, SBD_TRAY_MOVED | SBD_TRAY_UNREADABLE });
	SEQUENCE("no second medium, and none over an old one", true, false,
		 { SBD_VERB_INSERT, 0, -EINVAL, 0 },
		 { SBD_VERB_OPEN, 0, 0, SBD_TRAY_MOVED },
		 { SBD_VERB_INSERT, SBD_ARG_STALE, -EBUSY, 0 },
		 { SBD_VERB_INSERT, 0, 0, 0 },
		 { SBD_VERB_INSERT, 0, -EEXIST, 0 });

	ok(sbd_tray_do(&t, SBD_NR_VERBS, 0, &happened) == -EINVAL && !happened,
	   "an unknown verb");
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
