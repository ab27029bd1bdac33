// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: suspend and hibernation
 *
 * A machine that is to sleep stops its processes first, and the helper with
 * them. So before that each drive with a medium has to be quiet: what is out is
 * answered, and the far end's cache is flushed, which also shows that there is a
 * far end. A drive that cannot is named, and the machine stays awake: its users
 * could not be stopped either, since they wait for it.
 *
 * That is a freeze by a holder of our own, which ends before the processes are
 * stopped. It must not last: hibernation syncs all file systems after its
 * notifiers have run, newer kernels can freeze file systems then, and whoever
 * waits for a drive that holds its requests cannot be stopped.
 *
 * From then on, until the processes run again, a helper that does not answer is
 * no silent helper, and nobody's time to wait runs.
 */
#include <linux/suspend.h>

#include "drive.h"

/* How long the drives may take to become quiet, all together. */
#define SBD_QUIET_WAIT	(5 * HZ)

static bool sbd_asleep;

/**
 * sbd_suspended - processes are stopped, or about to be
 *
 * Context: any. A clock that is set by the answer is set again when it changes.
 */
bool sbd_suspended(void)
{
	return READ_ONCE(sbd_asleep);
}

/* There is a medium whose users may wait for it; drive->lock held. */
static bool in_use(const struct sbd_drive *d)
{
	return d->tray.medium && !(d->gate & ~SBD_GATE_EMPTY);
}

static bool connected(struct sbd_drive *d)
{
	bool ret;

	spin_lock(&d->lock);
	ret = !in_use(d) ||
	      (d->nr_socks && d->helper.link != SPICEBD_LINK_LOST);
	spin_unlock(&d->lock);
	return ret;
}

/* A flush that failed does not become better by staying awake. */
static bool quiet(struct sbd_drive *d)
{
	bool ret;

	spin_lock(&d->lock);
	ret = !in_use(d) || d->freeze == SPICEBD_FREEZE_FROZEN ||
	      d->freeze == SPICEBD_FREEZE_FAILED;
	spin_unlock(&d->lock);
	return ret;
}

/* Starts or stops the clocks of all drives. */
static void set_asleep(bool asleep)
{
	struct sbd_drive *d;
	struct sbd_sock *s;
	u32 i;

	WRITE_ONCE(sbd_asleep, asleep);
	for (i = 0; (d = sbd_drive_get_next(i)); sbd_drive_put(d)) {
		i = d->index + 1;
		spin_lock(&d->lock);
		list_for_each_entry(s, &d->socks, node)
			WRITE_ONCE(s->last_answer, jiffies);
		/* Where time was over before, it stays over. */
		if (!asleep || !(d->gate & SBD_GATE_EXPIRED))
			sbd_queue_clock(d);
		spin_unlock(&d->lock);
	}
}

/*
 * Waits until it is true of every drive.
 *
 * Return: 0, or -EBUSY if @end came first.
 */
static int await_all(bool (*test)(struct sbd_drive *d), unsigned long end,
		     const char *what)
{
	struct sbd_drive *d;
	int ret = 0;
	u32 i;

	for (i = 0; (d = sbd_drive_get_next(i)); sbd_drive_put(d)) {
		long left = max_t(long, end - jiffies, 0);

		i = d->index + 1;
		if (wait_event_timeout(sbd_freeze_wait, test(d), left))
			continue;
		pr_warn("%s: %s: the machine cannot sleep now; eject the medium, by force if need be\n",
			d->disk->disk_name, what);
		ret = -EBUSY;
	}
	return ret;
}

/* A drive that others have frozen may have no room for one more holder. */
static void hold_all(unsigned long *held)
{
	struct sbd_drive *d;
	bool want;
	u32 i;

	for (i = 0; (d = sbd_drive_get_next(i)); sbd_drive_put(d)) {
		i = d->index + 1;
		spin_lock(&d->lock);
		want = in_use(d);
		spin_unlock(&d->lock);
		if (want && !sbd_freeze(d, SBD_SUSPEND_HOLDER, 0))
			__set_bit(d->index, held);
	}
}

/* One that was deleted and made anew meanwhile is not ours to thaw, and says so. */
static void release_all(const unsigned long *held)
{
	struct sbd_drive *d;
	u32 i;

	for_each_set_bit(i, held, SPICEBD_MAX_DRIVES) {
		d = sbd_drive_get(i);
		if (!d)
			continue;
		sbd_thaw(d, SBD_SUSPEND_HOLDER);
		sbd_drive_put(d);
	}
}

/*
 * A drive without helper or far end is not frozen: its clock would begin anew.
 *
 * Context: the process that suspends; waits for helpers, but not for long.
 */
static int prepare(void)
{
	DECLARE_BITMAP(held, SPICEBD_MAX_DRIVES) = {};
	unsigned long end = jiffies + SBD_QUIET_WAIT;
	int ret;

	ret = await_all(connected, end,
			"it waits for its helper or its far end");
	if (ret)
		return ret;
	hold_all(held);
	ret = await_all(quiet, end, "its requests are not answered");
	release_all(held);
	if (!ret)
		set_asleep(true);
	return ret;
}

static int sbd_pm_notify(struct notifier_block *nb, unsigned long action,
			 void *unused)
{
	switch (action) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
		return notifier_from_errno(prepare());
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
		set_asleep(false);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block sbd_pm = {
	.notifier_call = sbd_pm_notify,
};

/**
 * sbd_suspend_init - be asked before the machine sleeps
 *
 * Return: 0 or an error.
 */
int sbd_suspend_init(void)
{
	return register_pm_notifier(&sbd_pm);
}

/**
 * sbd_suspend_exit - be asked no more
 *
 * Context: process; waits for a notification that is under way.
 */
void sbd_suspend_exit(void)
{
	unregister_pm_notifier(&sbd_pm);
}
