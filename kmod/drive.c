// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: a drive's life: gendisk, add, delete, open, release, references
 *
 * A drive is as old as its gendisk: one reference count, the gendisk's. The
 * table holds one, each bound socket holds one, and an opener has one through
 * the block layer, with the module's. Nothing else pins the module, so an
 * attached helper does not either.
 */
#include <linux/freezer.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <net/sock.h>

#include "drive.h"

/* How long a delete waits for its own work, so that an add can follow it. */
#define SBD_DELETE_WAIT		(HZ / 2)
/* How long an eject waits for others who have the drive open for a moment. */
#define SBD_ALONE_WAIT		(2 * HZ)

/*
 * The drives by number, guarded by sbd_table_lock. A number is taken from
 * before its gendisk is made until after it was deleted; in between it may have
 * no drive in the table.
 */
static DEFINE_SPINLOCK(sbd_table_lock);
static struct sbd_drive *sbd_table[SPICEBD_MAX_DRIVES];
static DECLARE_BITMAP(sbd_taken, SPICEBD_MAX_DRIVES);

/* Drives whose memory is not freed yet; the module stays until it is zero. */
static atomic_t sbd_nr_drives = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(sbd_drives_wait);

/**
 * sbd_ctl_lock - stop all other verbs of a drive
 * @d: the drive
 *
 * Under it no allocation waits for I/O, which may be the drive's own.
 *
 * Return: for sbd_ctl_unlock().
 */
unsigned int sbd_ctl_lock(struct sbd_drive *d)
{
	unsigned int noio = memalloc_noio_save();

	mutex_lock(&d->ctl);
	return noio;
}

/**
 * sbd_ctl_unlock - let other verbs go on
 * @d: the drive
 * @noio: from sbd_ctl_lock()
 */
void sbd_ctl_unlock(struct sbd_drive *d, unsigned int noio)
{
	mutex_unlock(&d->ctl);
	memalloc_noio_restore(noio);
}

/**
 * sbd_drive_hold - take a reference
 * @d: the drive, on which the caller has one
 */
void sbd_drive_hold(struct sbd_drive *d)
{
	get_device(disk_to_dev(d->disk));
}

/**
 * sbd_drive_put - drop a reference
 * @d: the drive
 *
 * Context: process, may sleep.
 */
void sbd_drive_put(struct sbd_drive *d)
{
	put_disk(d->disk);
}

/**
 * sbd_drive_get - a drive by number
 * @index: the number
 *
 * Return: a reference, or NULL.
 */
struct sbd_drive *sbd_drive_get(u32 index)
{
	struct sbd_drive *d = NULL;

	if (index >= SPICEBD_MAX_DRIVES)
		return NULL;
	spin_lock(&sbd_table_lock);
	d = sbd_table[index];
	if (d)
		sbd_drive_hold(d);
	spin_unlock(&sbd_table_lock);
	return d;
}

/**
 * sbd_drive_get_next - the first drive with at least this number
 * @index: the number
 *
 * Return: a reference, or NULL.
 */
struct sbd_drive *sbd_drive_get_next(u32 index)
{
	struct sbd_drive *d = NULL;

	while (!d && index < SPICEBD_MAX_DRIVES)
		d = sbd_drive_get(index++);
	return d;
}

/**
 * sbd_drives_released - a generic netlink socket was closed
 * @portid: its port id
 *
 * Context: the closing process, inside a notifier: flags and schedules only.
 */
void sbd_drives_released(u32 portid)
{
	int i;

	spin_lock(&sbd_table_lock);
	for (i = 0; i < SPICEBD_MAX_DRIVES; i++) {
		struct sbd_drive *d = sbd_table[i];

		if (!d)
			continue;
		spin_lock(&d->lock);
		if (d->helper.ctl && d->helper.portid == portid &&
		    sock_flag(d->helper.ctl, SOCK_DEAD))
			queue_work(sbd_wq, &d->helper_work);
		spin_unlock(&d->lock);
	}
	spin_unlock(&sbd_table_lock);
}

/* An open would find the drive frozen, its medium not shown; drive->lock held. */
static bool awaits_release(const struct sbd_drive *d)
{
	return d->freeze && !d->ready && !(d->gate & SBD_GATE_GONE);
}

/*
 * There is nothing more to wait for. That a medium which was there, or has come
 * since, was taken out again is an end, too.
 */
static bool released(struct sbd_drive *d, u64 since)
{
	bool shown_soon, taken, ret;

	spin_lock(&d->lock);
	shown_soon = sbd_readable(d) && !d->ready;
	taken = d->generation != since && !d->tray.medium;
	ret = taken || !(awaits_release(d) || shown_soon);
	spin_unlock(&d->lock);
	return ret;
}

/**
 * sbd_drive_await_release - an open of a held drive waits, if it is to
 * @d: the drive
 * @mode: of the open
 *
 * The mutex is dropped for the time of the wait: to show the medium takes it,
 * and to delete the drive, and whoever closes the drive or opens it with
 * O_NONBLOCK would wait for it, and could not be killed. The block layer has
 * pinned the disk and the module before ->open, and looks at nothing that the
 * mutex guards until afterwards, but that the disk is live: that is looked at
 * again here. Nobody opens a partition here, since there is none yet. What
 * remains is that others who claim the drive, as a mount does, wait for one who
 * has claimed it and waits here, and cannot be killed: so there is a limit.
 *
 * Context: ->open, under open_mutex.
 *
 * Return: 0, also when the time is over, -ERESTARTSYS or -ENXIO.
 */
int sbd_drive_await_release(struct sbd_drive *d, blk_mode_t mode)
{
	struct gendisk *disk = d->disk;
	long left = (long)d->open_wait * HZ;
	bool wait;
	u64 since;

	spin_lock(&d->lock);
	wait = left && !(mode & BLK_OPEN_NDELAY) && awaits_release(d);
	since = d->generation;
	spin_unlock(&d->lock);
	if (!wait)
		return 0;
	mutex_unlock(&disk->open_mutex);
	left = wait_event_freezable_timeout(d->ready_wait, released(d, since),
					    left);
	mutex_lock(&disk->open_mutex);
	if (left < 0)
		return left;
	return READ_ONCE(d->gate) & SBD_GATE_GONE ? -ENXIO : 0;
}

/* Does this opener hold the medium? drive->lock held. */
static bool is_user(const struct sbd_drive *d, blk_mode_t mode)
{
	/* As with any CD drive, O_NONBLOCK is for those who only watch it. */
	return d->personality != SPICEBD_PERSONALITY_CDROM ||
	       !(mode & BLK_OPEN_NDELAY);
}

/**
 * sbd_drive_opened - may this open go on?
 * @d: the drive
 * @mode: of the open
 *
 * Context: ->open, under open_mutex.
 *
 * Return: 0 and the opener is counted, or -ENXIO, -ENOMEDIUM, -EROFS.
 */
int sbd_drive_opened(struct sbd_drive *d, blk_mode_t mode)
{
	int ret = 0;

	spin_lock(&d->lock);
	if (d->gate & SBD_GATE_GONE) {
		ret = -ENXIO;
	} else if (!(mode & BLK_OPEN_NDELAY)) {
		if (!d->ready)
			ret = -ENOMEDIUM;
		else if ((mode & BLK_OPEN_WRITE) && get_disk_ro(d->disk))
			ret = -EROFS;
	}
	if (!ret) {
		d->openers++;
		d->users += is_user(d, mode);
	}
	spin_unlock(&d->lock);
	return ret;
}

/**
 * sbd_drive_released - an opener has gone
 * @d: the drive
 * @closer: who
 *
 * If nobody tells who closes, drive->users is the largest number that can be:
 * the medium may count as used for longer than it is, never the other way. It
 * is exact again when no more are left than were users.
 *
 * Context: ->release, under open_mutex. With the last user of an old medium
 * the drive is stale no more.
 */
void sbd_drive_released(struct sbd_drive *d, enum sbd_closer closer)
{
	bool last;

	spin_lock(&d->lock);
	d->openers--;
	if (closer == SBD_CLOSER_USER)
		d->users--;
	d->users = min(d->users, d->openers);
	last = !d->users;
	if (last)
		d->gate &= ~SBD_GATE_STALE;
	/* Under the lock: a delete cancels the work after it closed the gate. */
	if (last && !(d->gate & SBD_GATE_GONE) && sbd_medium_due(d))
		queue_work(sbd_slow_wq, &d->medium_work);
	spin_unlock(&d->lock);
	wake_up_all(&d->alone_wait);
	if (last)
		sbd_event_unused(d);
}

/* Has the caller the drive for itself, or is there no use in waiting for that? */
static bool alone_or_claimed(struct sbd_drive *d)
{
	return READ_ONCE(d->openers) <= 1 ||
	       READ_ONCE(d->disk->part0->bd_holder) ||
	       (READ_ONCE(d->gate) & SBD_GATE_GONE);
}

/**
 * sbd_drive_wait_alone - give those who only look into a drive time to go
 * @d: the drive, which the caller has open
 *
 * udev opens a drive after every change, and whenever a writer has closed it,
 * as a file system does that is unmounted: an eject that follows would find it
 * busy. Whoever claims it, by a mount or O_EXCL, is not waited for.
 *
 * Context: ioctl, no lock held.
 */
void sbd_drive_wait_alone(struct sbd_drive *d)
{
	wait_event_interruptible_timeout(d->alone_wait, alone_or_claimed(d),
					 SBD_ALONE_WAIT);
}

/**
 * sbd_drive_defaults - how a drive is made if nobody says otherwise
 * @p: what to fill
 */
void sbd_drive_defaults(struct sbd_drive_params *p)
{
	*p = (struct sbd_drive_params) {
		.index = -1,
		.personality = SPICEBD_PERSONALITY_DISK,
		.nr_queues = min_t(u32, SPICEBD_DEFAULT_MAX_QUEUES,
				   num_online_cpus()),
		.depth = SPICEBD_DEFAULT_QUEUE_DEPTH,
		.max_io = SPICEBD_DEFAULT_MAX_IO,
		.reconnect_timeout = SPICEBD_DEFAULT_RECONNECT,
		.stall_timeout = SPICEBD_DEFAULT_STALL,
	};
}

static void free_drive(struct sbd_drive *d)
{
	u32 i;

	for (i = 0; d->queues && i < d->nr_queues; i++)
		kvfree(d->queues[i].io);
	kfree(d->queues);
	free_percpu(d->stats);
	kfree(d);
	if (atomic_dec_and_test(&sbd_nr_drives))
		wake_up_all(&sbd_drives_wait);
}

/**
 * sbd_free_disk - the last reference has gone
 * @disk: the gendisk
 *
 * Only now the tags go: a reply's handler that has just ended the last request
 * may still run the queues.
 */
void sbd_free_disk(struct gendisk *disk)
{
	struct sbd_drive *d = disk->private_data;

	blk_mq_free_tag_set(&d->tag_set);
	free_drive(d);
}

/* Context: worker. What takes open_mutex, or may wait for its holder. */
static void delete_work(struct work_struct *work)
{
	struct sbd_drive *d = container_of(work, struct sbd_drive,
					   delete_work);

	/* From here on nobody schedules any of the works again. */
	sbd_helper_remove(d);
	cancel_work_sync(&d->helper_work);
	cancel_delayed_work_sync(&d->clock_work);
	cancel_delayed_work_sync(&d->holders_work);
	cancel_work_sync(&d->freeze_work);
	cancel_work_sync(&d->medium_work);
	cancel_work_sync(&d->probe_work);

	if (READ_ONCE(d->openers))
		blk_mark_disk_dead(d->disk);
	del_gendisk(d->disk);
	if (d->personality == SPICEBD_PERSONALITY_CDROM)
		sbd_cdrom_unregister(d);

	spin_lock(&sbd_table_lock);
	__clear_bit(d->index, sbd_taken);
	spin_unlock(&sbd_table_lock);
	sbd_event(d, SPICEBD_EVENT_DRIVE_REMOVED);
	complete_all(&d->deleted);
	sbd_drive_put(d);
}

static int take_index(int index, const char **why)
{
	int ret;

	spin_lock(&sbd_table_lock);
	if (index < 0) {
		ret = find_first_zero_bit(sbd_taken, SPICEBD_MAX_DRIVES);
		if (ret == SPICEBD_MAX_DRIVES) {
			*why = "there are as many drives as there can be";
			ret = -ENOSPC;
		}
	} else if (!test_bit(index, sbd_taken)) {
		ret = index;
	} else if (sbd_table[index]) {
		*why = "there is a drive of that number";
		ret = -EEXIST;
	} else {
		*why = "a drive of that number is still being made or deleted";
		ret = -EBUSY;
	}
	if (ret >= 0)
		__set_bit(ret, sbd_taken);
	spin_unlock(&sbd_table_lock);
	return ret;
}

static int make_queues(struct sbd_drive *d, const struct sbd_drive_params *p)
{
	u32 i;
	int ret;

	d->tag_set.ops = &sbd_mq_ops;
	d->tag_set.nr_hw_queues = p->nr_queues;
	/* Requests that wait while the drive is frozen may have all but one. */
	d->tag_set.queue_depth = p->depth + 1;
	d->tag_set.reserved_tags = 1;
	d->tag_set.numa_node = NUMA_NO_NODE;
	d->tag_set.cmd_size = sizeof(struct sbd_pdu);
	/*
	 * Requests that are held must not stop a CPU from going offline; what
	 * is out on a queue without CPUs is answered all the same.
	 */
	d->tag_set.flags = BLK_MQ_F_BLOCKING | BLK_MQ_F_STACKING;
	d->tag_set.timeout = HZ;
	d->tag_set.driver_data = d;
	ret = blk_mq_alloc_tag_set(&d->tag_set);
	if (ret)
		return ret;

	/* The block layer may have given less. */
	d->nr_queues = d->tag_set.nr_hw_queues;
	d->depth = d->tag_set.queue_depth - 1;
	d->queues = kcalloc(d->nr_queues, sizeof(*d->queues), GFP_KERNEL);
	if (!d->queues)
		goto no_memory;
	for (i = 0; i < d->nr_queues; i++) {
		d->queues[i].io = kvcalloc(sbd_nr_tags(d),
					   sizeof(struct sbd_io), GFP_KERNEL);
		if (!d->queues[i].io)
			goto no_memory;
	}
	return 0;

no_memory:
	blk_mq_free_tag_set(&d->tag_set);
	return -ENOMEM;
}

static int make_disk(struct sbd_drive *d)
{
	struct queue_limits lim = {};
	struct gendisk *disk;

	sbd_medium_limits(d, NULL, &lim);
	disk = blk_mq_alloc_disk(&d->tag_set, &lim, d);
	if (IS_ERR(disk))
		return PTR_ERR(disk);
	d->disk = disk;
	disk->private_data = d;
	disk->flags |= GENHD_FL_REMOVABLE;
	/* We say ourselves when something has changed: nobody polls. */
	disk->events = DISK_EVENT_MEDIA_CHANGE | DISK_EVENT_EJECT_REQUEST;
	snprintf(disk->disk_name, sizeof(disk->disk_name), "spicebd%u",
		 d->index);
	if (d->personality == SPICEBD_PERSONALITY_CDROM) {
		disk->fops = &sbd_cdrom_fops;
		disk->flags |= GENHD_FL_NO_PART;
		/* set_disk_ro() would send a uevent before the disk is there */
		set_bit(GD_READ_ONLY, &disk->state);
	} else {
		disk->fops = &sbd_disk_fops;
		disk->minors = 0;
	}
	return 0;
}

static struct sbd_drive *new_drive(u32 index, const struct sbd_drive_params *p)
{
	struct sbd_drive *d = kzalloc(sizeof(*d), GFP_KERNEL);

	if (!d)
		return NULL;
	atomic_inc(&sbd_nr_drives);
	d->index = index;
	d->personality = p->personality;
	d->max_io = p->max_io;
	d->reconnect_timeout = p->reconnect_timeout;
	d->stall_timeout = p->stall_timeout;
	d->open_wait = p->open_wait;
	d->tray.has_tray = p->personality == SPICEBD_PERSONALITY_CDROM;
	d->gate = SBD_GATE_EMPTY;
	mutex_init(&d->cdrom_lock);
	mutex_init(&d->ctl);
	spin_lock_init(&d->lock);
	INIT_LIST_HEAD(&d->socks);
	INIT_LIST_HEAD(&d->held);
	INIT_DELAYED_WORK(&d->clock_work, sbd_queue_clock_work);
	INIT_DELAYED_WORK(&d->holders_work, sbd_freeze_limits_work);
	INIT_WORK(&d->freeze_work, sbd_freeze_work);
	INIT_WORK(&d->helper_work, sbd_helper_work);
	INIT_WORK(&d->medium_work, sbd_medium_work);
	INIT_WORK(&d->probe_work, sbd_event_probe_work);
	INIT_WORK(&d->delete_work, delete_work);
	init_waitqueue_head(&d->ready_wait);
	init_waitqueue_head(&d->alone_wait);
	init_completion(&d->deleted);
	if (p->held)
		sbd_freeze_start(d);
	d->stats = alloc_percpu(struct sbd_stats);
	if (!d->stats) {
		free_drive(d);
		return NULL;
	}
	return d;
}

/**
 * sbd_drive_add - make a drive
 * @p: how; nr_queues, depth and max_io are within their bounds
 * @why: what is wrong, when an error is returned
 *
 * Context: module init or a netlink command.
 *
 * Return: the drive with a reference for the caller, or -EEXIST, -EBUSY,
 * -ENOSPC, or what the block layer said.
 */
struct sbd_drive *sbd_drive_add(const struct sbd_drive_params *p,
				const char **why)
{
	struct sbd_drive *d;
	int index, ret;

	index = take_index(p->index, why);
	if (index < 0)
		return ERR_PTR(index);
	ret = -ENOMEM;
	d = new_drive(index, p);
	if (!d)
		goto free_index;
	ret = make_queues(d, p);
	if (ret)
		goto free_drive;
	ret = make_disk(d);
	if (ret)
		goto free_tags;
	if (p->personality == SPICEBD_PERSONALITY_CDROM) {
		ret = sbd_cdrom_register(d);
		if (ret)
			goto free_disk;
	}
	ret = device_add_disk(NULL, d->disk, sbd_sysfs_groups);
	if (ret) {
		*why = "the block layer did not take the disk";
		goto free_cdrom;
	}

	sbd_drive_hold(d);	/* for the caller */
	spin_lock(&sbd_table_lock);
	sbd_table[index] = d;
	spin_unlock(&sbd_table_lock);
	sbd_event(d, SPICEBD_EVENT_DRIVE_ADDED);
	sbd_freeze_kick(d);	/* if it is made held */
	return d;

free_cdrom:
	if (p->personality == SPICEBD_PERSONALITY_CDROM)
		sbd_cdrom_unregister(d);
free_disk:
	put_disk(d->disk);	/* ->free_disk is for disks that were added */
free_tags:
	blk_mq_free_tag_set(&d->tag_set);
free_drive:
	free_drive(d);
free_index:
	spin_lock(&sbd_table_lock);
	__clear_bit(index, sbd_taken);
	spin_unlock(&sbd_table_lock);
	return ERR_PTR(ret);
}

/**
 * sbd_drive_delete - delete a drive
 * @d: the drive
 * @force: even if it is open
 *
 * Context: module exit or a netlink command. Every request ends at once; a
 * worker does the rest, for which this waits a moment and no longer: the event
 * SPICEBD_EVENT_DRIVE_REMOVED says when the number is free again.
 *
 * Return: 0, -EBUSY if it is open, frozen or locked by the administrator, or
 * -ENODEV if somebody was faster.
 */
int sbd_drive_delete(struct sbd_drive *d, bool force)
{
	unsigned int noio = sbd_ctl_lock(d);
	int ret = 0;

	spin_lock(&d->lock);
	if (d->gate & SBD_GATE_GONE) {
		ret = -ENODEV;
	} else if ((d->openers || d->nr_holders || d->tray.locked_admin) &&
		   !force) {
		ret = -EBUSY;
	} else {
		d->gate |= SBD_GATE_GONE | SBD_GATE_EMPTY;
		d->ready = false;
		sbd_queue_clock(d);
	}
	spin_unlock(&d->lock);
	if (!ret) {
		spin_lock(&sbd_table_lock);
		sbd_table[d->index] = NULL;
		spin_unlock(&sbd_table_lock);
		wake_up_all(&d->ready_wait);
		sbd_queue_end_all(d);
		queue_work(sbd_slow_wq, &d->delete_work);
	}
	sbd_ctl_unlock(d, noio);
	if (!ret)
		wait_for_completion_timeout(&d->deleted, SBD_DELETE_WAIT);
	return ret;
}

/**
 * sbd_drives_exit - delete all drives and wait until the last is freed
 *
 * Context: module init or exit: no drive is open, since openers have a
 * reference on the module.
 */
void sbd_drives_exit(void)
{
	struct sbd_drive *d;

	while ((d = sbd_drive_get_next(0))) {
		sbd_drive_delete(d, true);
		sbd_drive_put(d);
	}
	wait_event(sbd_drives_wait, !atomic_read(&sbd_nr_drives));
	/* Whoever freed the last may be one instruction from its return. */
	synchronize_rcu();
}
