// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: tray, medium and lock of a drive, as a pure state machine
 */
#include "tray.h"

static int tray_open(struct sbd_tray *t, unsigned int args,
		     unsigned int *happened)
{
	bool force = args & SBD_ARG_FORCE;
	bool locked = t->locked || t->locked_admin;

	if (!t->has_tray)
		return -ENOSYS;
	if (t->open)
		return 0;
	if (locked || (!force && (args & SBD_ARG_IN_USE)))
		*happened |= SBD_TRAY_REQUEST;
	if (!force && (locked || (args & SBD_ARG_IN_USE)))
		return -EINPROGRESS;
	t->open = true;
	*happened |= SBD_TRAY_MOVED;
	if (t->medium)
		*happened |= SBD_TRAY_UNREADABLE;
	return 0;
}

static int tray_close(struct sbd_tray *t, unsigned int *happened)
{
	if (!t->has_tray)
		return -ENOSYS;
	if (!t->open)
		return 0;
	t->open = false;
	*happened |= SBD_TRAY_MOVED;
	if (t->medium)
		*happened |= SBD_TRAY_READABLE;
	return 0;
}

static int tray_insert(struct sbd_tray *t, unsigned int args,
		       unsigned int *happened)
{
	if (t->has_tray && !t->open)
		return -EINVAL;
	if (t->medium)
		return -EEXIST;
	if (args & SBD_ARG_STALE)
		return -EBUSY;
	t->medium = true;
	if (!t->open)
		*happened |= SBD_TRAY_READABLE;
	return 0;
}

static int tray_remove(struct sbd_tray *t, unsigned int args,
		       unsigned int *happened)
{
	bool force = args & SBD_ARG_FORCE;

	if (t->has_tray && !t->open)
		return -EINVAL;
	if (!t->medium)
		return 0;
	/* A medium on an open tray lies there for the taking. */
	if (!t->open) {
		if (t->locked_admin || (!force && (args & SBD_ARG_IN_USE)))
			*happened |= SBD_TRAY_REQUEST;
		if (!force && t->locked_admin)
			return -EINPROGRESS;
		if (!force && (args & SBD_ARG_IN_USE))
			return -EBUSY;
	}
	t->medium = false;
	*happened |= SBD_TRAY_REMOVED;
	if (!t->open)
		*happened |= SBD_TRAY_UNREADABLE;
	return 0;
}

static int tray_eject(struct sbd_tray *t, unsigned int args,
		      unsigned int *happened)
{
	int ret = 0;

	if (t->has_tray)
		ret = tray_open(t, args, happened);
	return ret ? ret : tray_remove(t, args, happened);
}

static int tray_lock(struct sbd_tray *t, bool lock, unsigned int *happened)
{
	if (!t->has_tray)
		return -ENOSYS;
	if (t->locked != lock)
		*happened |= SBD_TRAY_LOCK;
	t->locked = lock;
	return 0;
}

static int tray_lock_admin(struct sbd_tray *t, unsigned int *happened)
{
	if (!t->locked_admin)
		*happened |= SBD_TRAY_LOCK;
	t->locked_admin = true;
	return 0;
}

static int tray_unlock_admin(struct sbd_tray *t, unsigned int args,
			     unsigned int *happened)
{
	bool door = t->locked && (args & SBD_ARG_FORCE);

	if (t->locked_admin || door)
		*happened |= SBD_TRAY_LOCK;
	t->locked_admin = false;
	if (door)
		t->locked = false;
	return 0;
}

/**
 * sbd_tray_do - carry out one verb, or refuse it
 * @t: the state; unchanged when an error is returned
 * @verb: what is asked
 * @args: SBD_ARG_*
 * @happened: SBD_TRAY_*, what the caller has to make known; an error may come
 *	with SBD_TRAY_REQUEST
 *
 * Return: 0, also when there was nothing to do, or
 * -ENOSYS: there is no tray;
 * -EINPROGRESS: the drive is locked, or its tray in use; its user was asked;
 * -EINVAL: the tray is closed;
 * -EEXIST: there is a medium;
 * -EBUSY: the medium is in use, its user was asked; or (insert) an older one
 * still is.
 */
int sbd_tray_do(struct sbd_tray *t, enum sbd_verb verb, unsigned int args,
		unsigned int *happened)
{
	*happened = 0;
	switch (verb) {
	case SBD_VERB_OPEN:
		return tray_open(t, args, happened);
	case SBD_VERB_CLOSE:
		return tray_close(t, happened);
	case SBD_VERB_INSERT:
		return tray_insert(t, args, happened);
	case SBD_VERB_REMOVE:
		return tray_remove(t, args, happened);
	case SBD_VERB_EJECT:
		return tray_eject(t, args, happened);
	case SBD_VERB_LOCK:
		return tray_lock(t, true, happened);
	case SBD_VERB_UNLOCK:
		return tray_lock(t, false, happened);
	case SBD_VERB_LOCK_ADMIN:
		return tray_lock_admin(t, happened);
	case SBD_VERB_UNLOCK_ADMIN:
		return tray_unlock_admin(t, args, happened);
	default:
		return -EINVAL;
	}
}

/**
 * sbd_tray_args - what a verb has to know of the drive's users
 * @t: the state
 * @args: SBD_ARG_FORCE, SBD_ARG_SELF
 * @users: how many use the medium, the asker too if it does
 * @stale: ... one that was ejected by force
 *
 * Whoever asks from within (SBD_ARG_SELF) does not stand in its own way. Of a
 * tray the CD-ROM layer has made sure that nobody else has it open.
 *
 * Return: @args for sbd_tray_do().
 */
unsigned int sbd_tray_args(const struct sbd_tray *t, unsigned int args,
			   unsigned int users, bool stale)
{
	if (args & SBD_ARG_SELF) {
		if (t->has_tray)
			users = 0;
		else if (users)
			users--;
	}
	if (users)
		args |= SBD_ARG_IN_USE;
	if (stale)
		args |= SBD_ARG_STALE;
	return args;
}

/**
 * sbd_tray_goes_stale - has the drive old users after a verb?
 * @t: the state
 * @args: the verb's
 * @happened: what came of it
 * @users: how many use the medium, the asker too if it does
 *
 * Whoever used a medium that is no longer readable must not meet the next one.
 * One that opens its own tray may: that is how a CD is changed.
 */
bool sbd_tray_goes_stale(const struct sbd_tray *t, unsigned int args,
			 unsigned int happened, unsigned int users)
{
	if (!(happened & SBD_TRAY_UNREADABLE))
		return false;
	return users && !((args & SBD_ARG_SELF) && t->has_tray);
}
