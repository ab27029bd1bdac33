// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: one word for what a drive is now, and why
 *
 * Everything here is computed from the drive's state, except why a drive lost its
 * medium: only its helper knows that, and says so when it takes the medium out.
 */
#include <linux/jiffies.h>
#include <linux/sysfs.h>

#include "drive.h"

/* Made held, and nobody else keeps it frozen; drive->lock held. */
static bool made_held(const struct sbd_drive *d)
{
	return d->nr_holders == 1 &&
	       !strcmp(d->holders[0].name, SPICEBD_DEFAULT_HOLDER);
}

/**
 * sbd_condition - the first that is true of the drive
 * @d: the drive, its lock held
 *
 * Return: enum spicebd_condition.
 */
enum spicebd_condition sbd_condition(const struct sbd_drive *d)
{
	if (d->gate & SBD_GATE_GONE)
		return SPICEBD_CONDITION_GONE;
	if (!d->tray.medium && d->verdict == SPICEBD_VERDICT_ERROR)
		return SPICEBD_CONDITION_ERROR;
	if (!d->tray.medium && d->verdict == SPICEBD_VERDICT_INACTIVE)
		return SPICEBD_CONDITION_INACTIVE;
	if (d->gate & SBD_GATE_STALE)
		return SPICEBD_CONDITION_STALE;
	if (made_held(d))
		return SPICEBD_CONDITION_HELD;
	if (!sbd_readable(d))
		return SPICEBD_CONDITION_EMPTY;
	if (d->freeze)
		return SPICEBD_CONDITION_FROZEN;
	if (!d->ready)
		return SPICEBD_CONDITION_SETTLING;
	if (sbd_flowing(d))
		return SPICEBD_CONDITION_READY;
	return d->nr_socks ? SPICEBD_CONDITION_RECONNECTING :
			     SPICEBD_CONDITION_HELD;
}

/**
 * sbd_hold_left - for how long held requests still wait
 * @d: the drive, its lock held
 * @ms: where that goes
 *
 * Return: false if no limit runs.
 */
bool sbd_hold_left(const struct sbd_drive *d, u32 *ms)
{
	unsigned long end = d->clock_start + d->reconnect_timeout * HZ;
	unsigned long now = jiffies;

	if (!d->clock_running || d->reconnect_timeout < 0)
		return false;
	*ms = time_after(end, now) ? jiffies_to_msecs(end - now) : 0;
	return true;
}

/**
 * sbd_verdict_age - since when it is so
 * @d: the drive, its lock held
 *
 * Return: ms.
 */
u64 sbd_verdict_age(const struct sbd_drive *d)
{
	return jiffies_to_msecs(jiffies - d->verdict_since);
}

static const char *sbd_condition_word(enum spicebd_condition c)
{
	static const char * const words[] = {
		[SPICEBD_CONDITION_EMPTY] = "empty",
		[SPICEBD_CONDITION_READY] = "ready",
		[SPICEBD_CONDITION_SETTLING] = "settling",
		[SPICEBD_CONDITION_HELD] = "held",
		[SPICEBD_CONDITION_RECONNECTING] = "reconnecting",
		[SPICEBD_CONDITION_FROZEN] = "frozen",
		[SPICEBD_CONDITION_ERROR] = "error",
		[SPICEBD_CONDITION_INACTIVE] = "inactive",
		[SPICEBD_CONDITION_STALE] = "stale",
		[SPICEBD_CONDITION_GONE] = "gone",
	};

	return words[c];
}

/**
 * sbd_condition_show - sysfs: the word
 * @d: the drive
 * @buf: for the text
 *
 * Return: its length.
 */
ssize_t sbd_condition_show(struct sbd_drive *d, char *buf)
{
	enum spicebd_condition c;

	spin_lock(&d->lock);
	c = sbd_condition(d);
	spin_unlock(&d->lock);
	return sysfs_emit(buf, "%s\n", sbd_condition_word(c));
}

/* drive->lock held */
static ssize_t show_wait(const struct sbd_drive *d, const char *why, char *buf)
{
	u32 ms;

	if (sbd_hold_left(d, &ms))
		return sysfs_emit(buf, "%s: requests fail in %u s\n", why,
				  DIV_ROUND_UP(ms, 1000));
	if (!d->reconnect_timeout)
		return sysfs_emit(buf, "%s: requests fail\n", why);
	return sysfs_emit(buf, "%s: requests wait\n", why);
}

/* drive->lock held */
static ssize_t show_freeze(const struct sbd_drive *d, char *buf)
{
	unsigned long since = jiffies;
	u32 i;

	if (made_held(d))
		return sysfs_emit(buf, "made held %u s ago: requests wait for a thaw\n",
				  jiffies_to_msecs(jiffies - d->holders[0].since) / 1000);
	for (i = 0; i < d->nr_holders; i++)
		if (time_before(d->holders[i].since, since))
			since = d->holders[i].since;
	return sysfs_emit(buf, "frozen by %u holder%s, the first since %u s\n",
			  d->nr_holders, d->nr_holders == 1 ? "" : "s",
			  jiffies_to_msecs(jiffies - since) / 1000);
}

/* drive->lock held */
static ssize_t show_verdict(const struct sbd_drive *d, const char *what,
			    char *buf)
{
	return sysfs_emit(buf, "%s %llu s ago: insert another, or eject\n", what,
			  sbd_verdict_age(d) / 1000);
}

/**
 * sbd_cause_show - sysfs: why it is so
 * @d: the drive
 * @buf: for the text
 *
 * No names, and nothing that only an administrator may know.
 *
 * Return: its length.
 */
ssize_t sbd_cause_show(struct sbd_drive *d, char *buf)
{
	ssize_t n;

	spin_lock(&d->lock);
	switch (sbd_condition(d)) {
	case SPICEBD_CONDITION_EMPTY:
		n = sysfs_emit(buf, d->tray.medium ? "the tray is open\n" :
						     "no medium\n");
		break;
	case SPICEBD_CONDITION_SETTLING:
		n = sysfs_emit(buf, "the medium is being shown\n");
		break;
	case SPICEBD_CONDITION_HELD:
		n = made_held(d) ? show_freeze(d, buf) :
				   show_wait(d, "no helper serves it", buf);
		break;
	case SPICEBD_CONDITION_RECONNECTING:
		n = show_wait(d, "the far end is lost", buf);
		break;
	case SPICEBD_CONDITION_FROZEN:
		n = show_freeze(d, buf);
		break;
	case SPICEBD_CONDITION_ERROR:
		n = show_verdict(d, "the medium failed", buf);
		break;
	case SPICEBD_CONDITION_INACTIVE:
		n = show_verdict(d, "the medium moved to another host", buf);
		break;
	case SPICEBD_CONDITION_STALE:
		n = sysfs_emit(buf, "a medium ejected by force has %u user%s\n",
			       d->users, d->users == 1 ? "" : "s");
		break;
	case SPICEBD_CONDITION_GONE:
		n = sysfs_emit(buf, "the drive is being deleted\n");
		break;
	default:
		n = sysfs_emit(buf, "requests are answered\n");
		break;
	}
	spin_unlock(&d->lock);
	return n;
}
