// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: insert, remove, change: what verbs do to the medium, and how the
 * block layer and userspace come to know
 *
 * A verb (sbd_verb()) changes the drive's state at once: when a medium ceases
 * to be readable the gate closes, the generation counts up, and every request
 * has ended before the verb returns. The rest is a work item's (one for each
 * drive, so never two at a time), which brings what the block layer was shown
 * in line with the state: it freezes queues, scans partitions, invalidates
 * caches, and so takes open_mutex and waits for I/O.
 *
 * Shown: limits, read-only flag, capacity, gate open, partitions, then ready
 * and one DISK_MEDIA_CHANGE uevent. Until it is ready no open that means I/O
 * succeeds, so nothing of the old medium is cached under the new one.
 * Hidden: capacity 0, users told, partitions gone, then one such uevent.
 */
#include <linux/backing-dev.h>
#include <linux/delay.h>
#include <linux/kobject.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>

#include "drive.h"

/* How often, and after how long, a uevent that found no memory is sent again. */
#define SBD_ANNOUNCE_TRIES		20
#define SBD_ANNOUNCE_WAIT_MS		50

/* What is discarded or zeroed at once unless the medium says otherwise. */
#define SBD_DEFAULT_MAX_DISCARD		(1024U * 1024 * 1024)

static u32 logical_block(const struct sbd_drive *d)
{
	return d->personality == SPICEBD_PERSONALITY_CDROM ? SBD_CDROM_BLOCK :
							     SBD_DISK_BLOCK;
}

/**
 * sbd_medium_check - can a drive take this medium?
 * @d: the drive
 * @m: the medium; what was not given is filled in
 * @why: what is wrong, when an error is returned
 *
 * Return: 0, -ENOMEDIUM if it has not one whole block, -EFBIG, -EINVAL.
 */
int sbd_medium_check(const struct sbd_drive *d, struct sbd_medium *m,
		     const char **why)
{
	u32 block = logical_block(d);

	if (m->size < block) {
		*why = "the medium is smaller than one block";
		return -ENOMEDIUM;
	}
	if (m->size > LLONG_MAX) {
		*why = "the medium is larger than 8 EiB - 512";
		return -EFBIG;
	}
	if (!m->block_size)
		m->block_size = block;
	if (!is_power_of_2(m->block_size)) {
		*why = "the block size is not a power of two";
		return -EINVAL;
	}
	m->block_size = max(m->block_size, block);
	if (d->personality == SPICEBD_PERSONALITY_CDROM)
		m->flags |= SPICEBD_MEDIUM_READ_ONLY;
	if (m->flags & SPICEBD_MEDIUM_READ_ONLY)
		m->flags &= ~(SPICEBD_MEDIUM_FLUSH | SPICEBD_MEDIUM_FUA |
			      SPICEBD_MEDIUM_DISCARD |
			      SPICEBD_MEDIUM_WRITE_ZEROES);
	if (!m->discard_align)
		m->discard_align = m->block_size;
	if (!is_power_of_2(m->discard_align)) {
		*why = "the discard granularity is not a power of two";
		return -EINVAL;
	}
	m->discard_align = max(m->discard_align, m->block_size);
	if (!m->max_discard)
		m->max_discard = SBD_DEFAULT_MAX_DISCARD;
	m->max_discard = round_down(m->max_discard, m->discard_align);
	if (!m->max_discard)
		m->flags &= ~(SPICEBD_MEDIUM_DISCARD |
			      SPICEBD_MEDIUM_WRITE_ZEROES);
	m->io_opt = round_down(m->io_opt, m->block_size);
	return 0;
}

/**
 * sbd_medium_limits - the limits that the block layer has to keep
 * @d: the drive
 * @m: the medium, or NULL for an empty drive
 * @lim: what to change
 */
void sbd_medium_limits(const struct sbd_drive *d, const struct sbd_medium *m,
		       struct queue_limits *lim)
{
	lim->logical_block_size = logical_block(d);
	lim->physical_block_size = m ? m->block_size : logical_block(d);
	lim->io_min = lim->physical_block_size;
	lim->io_opt = m ? m->io_opt : 0;
	lim->max_hw_sectors = d->max_io >> SECTOR_SHIFT;
	lim->max_segments = USHRT_MAX;
	lim->max_segment_size = UINT_MAX;
	lim->max_hw_discard_sectors = 0;
	lim->max_write_zeroes_sectors = 0;
	lim->discard_granularity = 0;
	lim->features &= ~(BLK_FEAT_WRITE_CACHE | BLK_FEAT_FUA |
			   BLK_FEAT_ROTATIONAL);
	if (!m)
		return;
	if (m->flags & SPICEBD_MEDIUM_FLUSH)
		lim->features |= BLK_FEAT_WRITE_CACHE;
	if (m->flags & SPICEBD_MEDIUM_FUA)
		lim->features |= BLK_FEAT_FUA;
	if (m->flags & SPICEBD_MEDIUM_ROTATIONAL)
		lim->features |= BLK_FEAT_ROTATIONAL;
	if (m->flags & SPICEBD_MEDIUM_DISCARD) {
		lim->max_hw_discard_sectors = m->max_discard >> SECTOR_SHIFT;
		lim->discard_granularity = m->discard_align;
	}
	if (m->flags & SPICEBD_MEDIUM_WRITE_ZEROES)
		lim->max_write_zeroes_sectors = m->max_discard >> SECTOR_SHIFT;
}

/* What a verb that succeeded means for the drive; drive->lock held. */
static void apply(struct sbd_drive *d, unsigned int args,
		  unsigned int happened, const struct sbd_medium *m)
{
	if (m) {
		d->medium = *m;
		d->generation++;
	}
	if (sbd_tray_goes_stale(&d->tray, args, happened, d->users))
		d->gate |= SBD_GATE_STALE;
	if (happened & SBD_TRAY_UNREADABLE) {
		d->gate |= SBD_GATE_EMPTY;
		d->ready = false;
		d->generation++;
		d->deferred = false;
	}
	/* It was asked for and is free, or on its way back in. */
	if (happened & (SBD_TRAY_MOVED | SBD_TRAY_REMOVED))
		d->asked = false;
	if (happened & SBD_TRAY_REMOVED) {
		memset(&d->medium, 0, sizeof(d->medium));
		sbd_helper_forget_locked(d);
	}
	sbd_queue_clock(d);
}

/* Would it take the medium from a frozen drive? drive->lock held. */
static bool takes_medium(const struct sbd_drive *d, enum sbd_verb verb)
{
	return d->tray.medium && (verb == SBD_VERB_OPEN ||
				  verb == SBD_VERB_REMOVE ||
				  verb == SBD_VERB_EJECT);
}

/**
 * sbd_verb - carry out a verb of the drive's tray
 * @d: the drive
 * @verb: what to do
 * @args: SBD_ARG_FORCE, SBD_ARG_SELF; of an eject, enum spicebd_verdict shifted
 *	by SBD_ARG_VERDICT_SHIFT
 * @m: the medium, for SBD_VERB_INSERT; the asker is the drive's helper
 * @generation: where the new generation goes, or NULL
 *
 * Context: a netlink command, or an ioctl, open or release through the CD-ROM
 * layer, so with or without open_mutex. Waits for no I/O and no helper. When
 * it returns, every request for a medium that cannot be read any more has
 * ended.
 *
 * Return: as sbd_tray_do(), or -ENODEV, or -EBUSY if the drive is frozen, or
 * -ENOTCONN for an insert with no queue bound.
 */
int sbd_verb(struct sbd_drive *d, enum sbd_verb verb, unsigned int args,
	     const struct sbd_medium *m, u64 *generation)
{
	u32 verdict = args >> SBD_ARG_VERDICT_SHIFT;
	unsigned int noio = sbd_ctl_lock(d);
	unsigned int happened = 0;
	struct sbd_tray tray;
	int ret;

	args &= BIT(SBD_ARG_VERDICT_SHIFT) - 1;
	spin_lock(&d->lock);
	if (d->gate & SBD_GATE_GONE) {
		ret = -ENODEV;
		goto unlock;
	}
	if (d->freeze && takes_medium(d, verb) && !(args & SBD_ARG_FORCE)) {
		ret = -EBUSY;
		goto unlock;
	}
	args = sbd_tray_args(&d->tray, args, d->users,
			     d->gate & SBD_GATE_STALE);
	tray = d->tray;
	ret = sbd_tray_do(&tray, verb, args, &happened);
	if (!ret && m && !d->nr_socks)
		ret = -ENOTCONN;
	if (!ret) {
		if (verb == SBD_VERB_INSERT || verb == SBD_VERB_REMOVE ||
		    verb == SBD_VERB_EJECT) {
			d->verdict = verdict;
			d->verdict_since = jiffies;
		}
		d->tray = tray;
		apply(d, args, happened, m);
	} else if (happened & SBD_TRAY_REQUEST) {
		d->asked = true;
	}
	if (verb == SBD_VERB_UNLOCK_ADMIN && (args & SBD_ARG_FORCE))
		atomic_set(&d->cdrom_unlock, 1);
	if (generation)
		*generation = d->generation;
unlock:
	spin_unlock(&d->lock);

	if (happened & SBD_TRAY_REQUEST)
		sbd_event_eject_request(d);
	if (!ret) {
		if (happened & SBD_TRAY_UNREADABLE)
			sbd_queue_end_all(d);
		if (happened & SBD_TRAY_LOCK)
			sbd_event(d, SPICEBD_EVENT_LOCK_CHANGED);
		if (happened & SBD_TRAY_LOCK)
			sbd_event_unused(d);
		if (happened & SBD_TRAY_MOVED)
			sbd_event(d, SPICEBD_EVENT_TRAY_MOVED);
		if (happened & (SBD_TRAY_READABLE | SBD_TRAY_UNREADABLE))
			queue_work(sbd_slow_wq, &d->medium_work);
	}
	sbd_ctl_unlock(d, noio);
	return ret;
}

/**
 * sbd_medium_due - has the work item anything to do?
 * @d: the drive
 *
 * Context: ->release; a guess that is wrong costs nothing.
 */
bool sbd_medium_due(const struct sbd_drive *d)
{
	return READ_ONCE(d->leftover) ||
	       (READ_ONCE(d->tray.medium) && !READ_ONCE(d->tray.open) &&
		!READ_ONCE(d->ready));
}

/*
 * Another medium, another number. disk_force_media_change() is the only way to
 * get one; it sends its uevent before it counts, with the old number, and udev
 * does not look at a device that has another number than it was told. So ours
 * is sent, by announce(), and that of a new medium is counted before its
 * partitions, whose uevents carry it too, are found. Context: the work item.
 */
static void count_medium(struct sbd_drive *d)
{
	struct device *dev = disk_to_dev(d->disk);

	dev_set_uevent_suppress(dev, true);
	disk_force_media_change(d->disk);
	dev_set_uevent_suppress(dev, false);
	/* Older kernels want to scan again now; that is done by us. */
	clear_bit(GD_NEED_PART_SCAN, &d->disk->state);
}

/*
 * One uevent, and what belongs to it. Nobody asks again whether there is another
 * medium, so where there is no memory to say so, it is tried for a while.
 * Context: the work item.
 */
static void announce(struct sbd_drive *d)
{
	char *envp[] = { "DISK_MEDIA_CHANGE=1", NULL };
	int tries = SBD_ANNOUNCE_TRIES;

	while (kobject_uevent_env(&disk_to_dev(d->disk)->kobj, KOBJ_CHANGE,
				  envp) == -ENOMEM && --tries)
		msleep(SBD_ANNOUNCE_WAIT_MS);
	atomic_set(&d->media_event, 1);
	sbd_stats_add(d, SPICEBD_A_STATS_MEDIUM_CHANGES, 1);
}

/*
 * Sets a mark, if the medium can still be read and is the one that is being
 * shown. Context: the work item.
 */
static bool still_shown(struct sbd_drive *d, bool ready)
{
	bool ret;

	spin_lock(&d->lock);
	ret = sbd_readable(d) && d->generation == d->shown;
	if (ret && ready)
		d->ready = true;
	else if (ret)
		d->gate &= ~SBD_GATE_EMPTY;
	spin_unlock(&d->lock);
	return ret;
}

/*
 * Drops the cached pages of the whole disk, mapped and referenced ones too:
 * whoever only watches a drive keeps it open over a change of medium, and must
 * not read the old one for the new one.
 *
 * Context: the work item, with the gate closed and every request ended, so no
 * page is being read or becomes valid meanwhile; partitions have pages of their
 * own, and nobody opens one over a change.
 */
static void drop_pages(struct gendisk *disk)
{
	truncate_inode_pages(disk->part0->bd_mapping, 0);
}

/*
 * What the medium wants, if it has a wish; else what the block layer set with
 * the limits, which is the default unless the medium has a preferred I/O size.
 * drive->lock held.
 */
static void apply_read_ahead(struct sbd_drive *d)
{
	u32 bytes = sbd_readable(d) ? d->medium.read_ahead : 0;

	if (bytes)
		WRITE_ONCE(d->disk->bdi->ra_pages,
			   max_t(unsigned long, bytes >> PAGE_SHIFT, 1));
	else if (d->own_read_ahead)
		WRITE_ONCE(d->disk->bdi->ra_pages, VM_READAHEAD_PAGES);
	d->own_read_ahead = bytes;
}

static void update_read_ahead(struct sbd_drive *d)
{
	spin_lock(&d->lock);
	apply_read_ahead(d);
	spin_unlock(&d->lock);
}

/**
 * sbd_medium_read_ahead - change the read-ahead of the medium that is in
 * @d: the drive
 * @bytes: how much, or 0 for the kernel's default
 *
 * Return: 0 or -ENOMEDIUM.
 */
int sbd_medium_read_ahead(struct sbd_drive *d, u32 bytes)
{
	int ret = -ENOMEDIUM;

	spin_lock(&d->lock);
	if (d->tray.medium) {
		d->medium.read_ahead = bytes;
		apply_read_ahead(d);
		ret = 0;
	}
	spin_unlock(&d->lock);
	return ret;
}

/* Context: the work item. */
static void show(struct sbd_drive *d, u64 generation,
		 const struct sbd_medium *m)
{
	bool partitions = d->personality == SPICEBD_PERSONALITY_DISK;
	struct gendisk *disk = d->disk;
	struct queue_limits lim;
	u64 size = round_down(m->size, logical_block(d));
	bool ok;
	int ret;

	d->shown = generation;
	drop_pages(disk);
	lim = queue_limits_start_update(disk->queue);
	sbd_medium_limits(d, m, &lim);
	ret = queue_limits_commit_update_frozen(disk->queue, &lim);
	if (ret) {
		pr_err("%s: the medium's limits cannot be set: error %d\n",
		       disk->disk_name, ret);
		return;
	}
	/* After the limits, which bring a value of their own. */
	update_read_ahead(d);
	if (partitions)
		set_disk_ro(disk, m->flags & SPICEBD_MEDIUM_READ_ONLY);
	set_capacity(disk, size >> SECTOR_SHIFT);
	if (!still_shown(d, false))
		return;

	/*
	 * Opens wait on open_mutex until all is done. A cdrom's may wait for
	 * us instead, holding that mutex (sbd_cdrom_tray_move()).
	 */
	if (partitions)
		mutex_lock(&disk->open_mutex);
	count_medium(d);
	if (partitions)
		bdev_disk_changed(disk, false);
	ok = still_shown(d, true);
	if (ok) {
		announce(d);
		d->announced = true;
	}
	if (partitions)
		mutex_unlock(&disk->open_mutex);
	if (ok)
		sbd_event(d, SPICEBD_EVENT_MEDIUM_CHANGED);
}

/* Tells whoever has a partition of the old medium open. */
static void mark_partitions_dead(struct gendisk *disk)
{
	struct block_device *part;
	unsigned long index;

	rcu_read_lock();
	xa_for_each_start(&disk->part_tbl, index, part, 1) {
		if (!kobject_get_unless_zero(&part->bd_device.kobj))
			continue;
		rcu_read_unlock();
		bdev_mark_dead(part, true);
		put_device(&part->bd_device);
		rcu_read_lock();
	}
	rcu_read_unlock();
}

/* Context: the work item; the capacity is 0. */
static void drop_partitions(struct sbd_drive *d)
{
	struct gendisk *disk = d->disk;

	if (d->personality != SPICEBD_PERSONALITY_DISK)
		return;
	mutex_lock(&disk->open_mutex);
	/* If one is open they stay until the last opener has gone. */
	WRITE_ONCE(d->leftover, bdev_disk_changed(disk, false) == -EBUSY);
	mutex_unlock(&disk->open_mutex);
}

/* Context: the work item; the gate is closed. */
static void hide(struct sbd_drive *d, bool unused)
{
	set_capacity(d->disk, 0);
	update_read_ahead(d);
	if (unused)
		drop_pages(d->disk);
	mark_partitions_dead(d->disk);
	drop_partitions(d);
	if (d->announced) {
		count_medium(d);
		announce(d);
	}
	d->announced = false;
	d->shown = 0;
	sbd_event(d, SPICEBD_EVENT_MEDIUM_CHANGED);
}

/*
 * A frozen drive's medium is not shown yet. But who opens the drive to wait for
 * it, as the target of a migration does, asks for its size only then. A disk's
 * comes with its partitions. Context: the work item.
 */
static void show_size(struct sbd_drive *d, u64 size)
{
	if (d->personality == SPICEBD_PERSONALITY_CDROM)
		set_capacity(d->disk, round_down(size, SBD_CDROM_BLOCK) >>
					      SECTOR_SHIFT);
}

/**
 * sbd_medium_work - bring what the block layer was shown in line with the state
 * @work: sbd_drive.medium_work
 *
 * Context: worker; may wait for I/O.
 */
void sbd_medium_work(struct work_struct *work)
{
	struct sbd_drive *d = container_of(work, struct sbd_drive,
					   medium_work);
	unsigned int noio = memalloc_noio_save();
	struct sbd_medium m;
	bool unused, frozen;
	u64 wanted;

	for (;;) {
		spin_lock(&d->lock);
		wanted = sbd_readable(d) ? d->generation : 0;
		m = d->medium;
		unused = !d->users;
		frozen = d->freeze;
		spin_unlock(&d->lock);

		if (d->leftover && unused && !d->shown)
			drop_partitions(d);
		if (wanted == d->shown) {
			if (!wanted)
				show_size(d, 0);
			break;
		}
		if (d->shown) {
			hide(d, unused);
			continue;
		}
		/* It would be read from. Thawing comes back here. */
		if (frozen) {
			show_size(d, m.size);
			break;
		}
		show(d, wanted, &m);
	}
	memalloc_noio_restore(noio);
	wake_up_all(&d->ready_wait);
}
