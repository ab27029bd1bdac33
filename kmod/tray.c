// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: tray, medium and lock of a drive, as a pure state machine
 */
#include "tray.h"

static int tray_open(struct sbd_tray *t, unsigned int args,
		     unsigned int *happened)
{
	bool force = args & SBD_ARG_FORCE;

	if (!t->has_tray)
		return -ENOSYS;
	if (t->open)
		return 0;
	if (t->locked || (!force && (args & SBD_ARG_IN_USE)))
		*happened |= SBD_TRAY_REQUEST;
	if (!force && (t->locked || (args & SBD_ARG_IN_USE)))
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
	if (t->has_tray && !t->open)
		return -EINVAL;
	if (!t->medium)
		return 0;
	/* A medium on an open tray lies there for the taking. */
	if (!t->open && (args & SBD_ARG_IN_USE) && !(args & SBD_ARG_FORCE)) {
		*happened |= SBD_TRAY_REQUEST;
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
 * -EINPROGRESS: the tray is locked or in use, its user was asked;
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
	default:
		return -EINVAL;
	}
}
