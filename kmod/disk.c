// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: the disk personality: a slot for sticks
 *
 * No tray, no lock; CDROMEJECT takes the medium out, as of any removable disk.
 */
#include <linux/cdrom.h>
#include <linux/module.h>

#include "drive.h"

static int sbd_disk_open(struct gendisk *disk, blk_mode_t mode)
{
	struct sbd_drive *d = disk->private_data;
	int ret = sbd_drive_await_release(d, mode);

	return ret ? ret : sbd_drive_opened(d, mode);
}
SBD_DEFINE_OPEN(sbd_disk_open)

static void sbd_disk_release(struct gendisk *disk, enum sbd_closer closer)
{
	/* Whoever has a slot open uses what is in it, also with O_NONBLOCK. */
	sbd_drive_released(disk->private_data, SBD_CLOSER_USER);
}
SBD_DEFINE_RELEASE(sbd_disk_release)

static int sbd_disk_ioctl(struct block_device *bdev, blk_mode_t mode,
			  unsigned int cmd, unsigned long arg)
{
	struct sbd_drive *d = bdev->bd_disk->private_data;
	int ret;

	if (bdev_is_partition(bdev) && !capable(CAP_SYS_RAWIO))
		return -ENOTTY;
	switch (cmd) {
	case CDROMEJECT:
		sbd_drive_wait_alone(d);
		ret = sbd_verb(d, SBD_VERB_EJECT, SBD_ARG_SELF, NULL, NULL);
		/* How an ioctl says that the drive is locked. */
		return ret == -EINPROGRESS ? -EBUSY : ret;
	case CDROM_LOCKDOOR:
		/* eject(1) begins with an unlock, and gives up if it fails. */
		return arg ? -EDRIVE_CANT_DO_THIS : 0;
	default:
		return -ENOTTY;
	}
}

const struct block_device_operations sbd_disk_fops = {
	.owner = THIS_MODULE,
	.open = SBD_OPEN(sbd_disk_open),
	.release = SBD_RELEASE(sbd_disk_release),
	.ioctl = sbd_disk_ioctl,
	.free_disk = sbd_free_disk,
};
