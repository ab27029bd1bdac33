// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: what userspace is told: multicast messages and uevents
 */
#include <net/genetlink.h>

#include "drive.h"

/*
 * From reading a drive's state to sending it: no older state is told after a
 * newer one. A leaf, but that drive->lock is taken inside it.
 */
static DEFINE_MUTEX(sbd_event_order);

/**
 * sbd_event - tell the multicast group "events"
 * @d: the drive
 * @event: what happened; the message also carries the drive's state
 *
 * Context: process, may sleep. Where there is no memory for the message,
 * listeners are told that they missed one (ENOBUFS), as netlink does if it is
 * they who have no room: they read the state anew then.
 */
void sbd_event(struct sbd_drive *d, enum spicebd_event event)
{
	struct sk_buff *skb;

	if (!READ_ONCE(sbd_netlink_up))
		return;
	skb = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_NOIO);
	if (!skb) {
		genl_set_err(&sbd_family, &init_net, 0, 0, -ENOBUFS);
		return;
	}
	mutex_lock(&sbd_event_order);
	if (sbd_netlink_fill(skb, d, 0, 0, 0, SPICEBD_CMD_DRIVE_NTF, event,
			     false))
		nlmsg_free(skb);
	else
		genlmsg_multicast(&sbd_family, skb, 0, 0, GFP_NOIO);
	mutex_unlock(&sbd_event_order);
}

/**
 * sbd_event_eject_request - ask the drive's user to let go of the medium
 * @d: the drive
 *
 * Context: process, may sleep.
 */
void sbd_event_eject_request(struct sbd_drive *d)
{
	char *env[] = { "DISK_EJECT_REQUEST=1", NULL };

	kobject_uevent_env(&disk_to_dev(d->disk)->kobj, KOBJ_CHANGE, env);
	sbd_event(d, SPICEBD_EVENT_EJECT_REQUEST);
}

/**
 * sbd_event_unused - tell that a medium that was asked for is free now
 * @d: the drive
 *
 * To be called whenever an opener has gone or a lock was opened.
 *
 * Context: process, may sleep.
 */
void sbd_event_unused(struct sbd_drive *d)
{
	bool tell;

	spin_lock(&d->lock);
	tell = d->asked && !d->users && !d->tray.locked &&
	       !d->tray.locked_admin && !(d->gate & SBD_GATE_GONE);
	if (tell)
		d->asked = false;
	spin_unlock(&d->lock);
	if (tell)
		sbd_event(d, SPICEBD_EVENT_UNUSED);
}

/**
 * sbd_event_probe - let udev look at a medium, if it waits for that
 * @d: the drive, its lock held
 *
 * To be called when requests may have begun to be answered.
 */
void sbd_event_probe(struct sbd_drive *d)
{
	lockdep_assert_held(&d->lock);
	if (!d->deferred || !sbd_flowing(d))
		return;
	d->deferred = false;
	queue_work(sbd_slow_wq, &d->probe_work);
}

/**
 * sbd_event_probe_work - what sbd_event_probe() may not do itself
 * @work: sbd_drive.probe_work
 *
 * Context: worker; may wait for I/O.
 */
void sbd_event_probe_work(struct work_struct *work)
{
	struct sbd_drive *d = container_of(work, struct sbd_drive,
					   probe_work);

	kobject_uevent(&disk_to_dev(d->disk)->kobj, KOBJ_CHANGE);
}
