/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd: the newest kernel's interface on older kernels
 *
 * Force-included before every file. Keyed on what Kbuild found in the kernel's
 * headers, never on a version number: distributions backport.
 */
#ifndef SPICEBD_COMPAT_H
#define SPICEBD_COMPAT_H

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/cdrom.h>

#ifdef SBD_HAVE_OPEN_DISK
/* ->open(disk, mode), ->release(disk) */
#define SBD_DEFINE_OPEN(fn)
#define SBD_DEFINE_RELEASE(fn)						\
static void fn##_any(struct gendisk *disk)				\
{									\
	fn(disk, SBD_CLOSER_UNKNOWN);					\
}
#define SBD_OPEN(fn)	fn
#define SBD_RELEASE(fn)	fn##_any
#else
/* ->open(bdev, fmode), ->release(disk, fmode) */
typedef fmode_t blk_mode_t;

#define BLK_OPEN_NDELAY	FMODE_NDELAY
#define BLK_OPEN_WRITE	FMODE_WRITE

#define SBD_DEFINE_OPEN(fn)						\
static int fn##_compat(struct block_device *bdev, fmode_t mode)	\
{									\
	return fn(bdev->bd_disk, mode);					\
}
#define SBD_DEFINE_RELEASE(fn)						\
static void fn##_compat(struct gendisk *disk, fmode_t mode)		\
{									\
	fn(disk, mode & FMODE_NDELAY ? SBD_CLOSER_WATCHER :		\
	   SBD_CLOSER_USER);						\
}
#define SBD_OPEN(fn)	fn##_compat
#define SBD_RELEASE(fn)	fn##_compat

/* These took more arguments then, which do not matter to us. */
static inline int sbd_compat_cdrom_open(struct cdrom_device_info *cdi,
					fmode_t mode)
{
	int ret = cdrom_open(cdi, NULL, mode);

	if (!ret && !(mode & FMODE_NDELAY))
		cdi->for_data = 1;
	return ret;
}

static inline void sbd_compat_cdrom_release(struct cdrom_device_info *cdi)
{
	/*
	 * Ejects on the last close, if it has to, only when this was for data.
	 * Now it does so if any open since the drive was idle was. for_data is
	 * a field that only writers' drivers made use of.
	 */
	cdrom_release(cdi, cdi->for_data ? 0 : FMODE_NDELAY);
	if (!cdi->use_count)
		cdi->for_data = 0;
}

static inline int sbd_compat_cdrom_ioctl(struct cdrom_device_info *cdi,
					 struct block_device *bdev,
					 unsigned int cmd, unsigned long arg)
{
	return cdrom_ioctl(cdi, bdev, 0, cmd, arg);
}

#define cdrom_open		sbd_compat_cdrom_open
#define cdrom_ioctl		sbd_compat_cdrom_ioctl
#define cdrom_release		sbd_compat_cdrom_release
#endif /* SBD_HAVE_OPEN_DISK */

#ifdef SBD_HAVE_SHOULD_MERGE
/* Merging had to be asked for. */
static inline int sbd_compat_alloc_tag_set(struct blk_mq_tag_set *set)
{
	set->flags |= BLK_MQ_F_SHOULD_MERGE;
	return blk_mq_alloc_tag_set(set);
}

#define blk_mq_alloc_tag_set	sbd_compat_alloc_tag_set
#endif

#ifndef SBD_HAVE_BDEV_MARK_DEAD
static inline void sbd_compat_mark_dead(struct block_device *bdev,
					bool surprise)
{
	__invalidate_device(bdev, true);
}

static inline void sbd_compat_force_media_change(struct gendisk *disk)
{
	disk_force_media_change(disk, DISK_EVENT_MEDIA_CHANGE);
}

#define bdev_mark_dead		sbd_compat_mark_dead
#define disk_force_media_change	sbd_compat_force_media_change
#endif

#ifndef SBD_HAVE_BD_MAPPING
#define bd_mapping		bd_inode->i_mapping
#endif

#ifndef SBD_HAVE_LIMITS_UPDATE
#include "limits.h"
#endif

#endif /* SPICEBD_COMPAT_H */
