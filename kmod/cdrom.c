// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: the cdrom personality, behind the uniform CD-ROM layer
 *
 * drive->cdrom_lock serialises that layer, as it asks its drivers to do. Its
 * callbacks below run under that lock; those for ->open and ->release under
 * open_mutex too.
 */
#include <linux/cdrom.h>
#include <linux/module.h>

#include "drive.h"

/* How long closing the tray waits for the medium to become readable. */
#define SBD_CDROM_READY_WAIT	HZ

static int sbd_cdrom_ops_open(struct cdrom_device_info *cdi, int purpose)
{
	return 0;
}

static void sbd_cdrom_ops_release(struct cdrom_device_info *cdi)
{
}

static int sbd_cdrom_drive_status(struct cdrom_device_info *cdi, int slot)
{
	struct sbd_drive *d = cdi->handle;
	int ret;

	spin_lock(&d->lock);
	if (d->gate & SBD_GATE_GONE)
		ret = CDS_NO_INFO;
	else if (d->tray.open)
		ret = CDS_TRAY_OPEN;
	else if (!d->tray.medium)
		ret = CDS_NO_DISC;
	else if (d->ready)
		ret = CDS_DISC_OK;
	else
		ret = CDS_DRIVE_NOT_READY;
	spin_unlock(&d->lock);
	return ret;
}

static unsigned int sbd_cdrom_check_events(struct cdrom_device_info *cdi,
					   unsigned int clearing, int slot)
{
	struct sbd_drive *d = cdi->handle;

	return atomic_xchg(&d->media_event, 0) ? DISK_EVENT_MEDIA_CHANGE : 0;
}

/* A medium that lies in the tray can be read when a closed tray is announced. */
static bool settled(struct sbd_drive *d)
{
	bool ret;

	spin_lock(&d->lock);
	ret = d->ready || !sbd_readable(d);
	spin_unlock(&d->lock);
	return ret;
}

static int sbd_cdrom_tray_move(struct cdrom_device_info *cdi, int open)
{
	struct sbd_drive *d = cdi->handle;
	int ret;

	if (open)
		return sbd_verb(d, SBD_VERB_OPEN, SBD_ARG_SELF, NULL, NULL);

	ret = sbd_verb(d, SBD_VERB_CLOSE, SBD_ARG_SELF, NULL, NULL);
	/*
	 * So that an open that closes the tray finds the medium. The work waits
	 * for no I/O here, since there are no partitions, nor for our locks.
	 */
	if (!ret)
		wait_event_timeout(d->ready_wait, settled(d),
				   SBD_CDROM_READY_WAIT);
	return ret;
}

static int sbd_cdrom_lock_door(struct cdrom_device_info *cdi, int lock)
{
	return sbd_verb(cdi->handle, lock ? SBD_VERB_LOCK : SBD_VERB_UNLOCK,
			SBD_ARG_SELF, NULL, NULL);
}

static int sbd_cdrom_audio_ioctl(struct cdrom_device_info *cdi,
				 unsigned int cmd, void *arg)
{
	return -EINVAL;		/* data only; the layer calls it unasked */
}

static const struct cdrom_device_ops sbd_cdrom_ops = {
	.open = sbd_cdrom_ops_open,
	.release = sbd_cdrom_ops_release,
	.drive_status = sbd_cdrom_drive_status,
	.check_events = sbd_cdrom_check_events,
	.tray_move = sbd_cdrom_tray_move,
	.lock_door = sbd_cdrom_lock_door,
	.audio_ioctl = sbd_cdrom_audio_ioctl,
	.generic_packet = cdrom_dummy_generic_packet,
	.capability = CDC_OPEN_TRAY | CDC_CLOSE_TRAY | CDC_LOCK |
		      CDC_MEDIA_CHANGED | CDC_DRIVE_STATUS | CDC_DVD,
};

static int sbd_cdrom_open(struct gendisk *disk, blk_mode_t mode)
{
	struct sbd_drive *d = disk->private_data;
	int ret;

	mutex_lock(&d->cdrom_lock);
	ret = cdrom_open(&d->cdi, mode);
	if (!ret) {
		ret = sbd_drive_opened(d, mode);
		if (ret)
			cdrom_release(&d->cdi);
	}
	mutex_unlock(&d->cdrom_lock);
	return ret;
}
SBD_DEFINE_OPEN(sbd_cdrom_open)

static void sbd_cdrom_release(struct gendisk *disk)
{
	struct sbd_drive *d = disk->private_data;

	mutex_lock(&d->cdrom_lock);
	cdrom_release(&d->cdi);
	sbd_drive_released(d);
	mutex_unlock(&d->cdrom_lock);
}
SBD_DEFINE_RELEASE(sbd_cdrom_release)

static int sbd_cdrom_ioctl(struct block_device *bdev, blk_mode_t mode,
			   unsigned int cmd, unsigned long arg)
{
	struct sbd_drive *d = bdev->bd_disk->private_data;
	int ret;

	mutex_lock(&d->cdrom_lock);
	ret = cdrom_ioctl(&d->cdi, bdev, cmd, arg);
	mutex_unlock(&d->cdrom_lock);
	return ret;
}

const struct block_device_operations sbd_cdrom_fops = {
	.owner = THIS_MODULE,
	.open = SBD_OPEN(sbd_cdrom_open),
	.release = SBD_RELEASE(sbd_cdrom_release),
	.ioctl = sbd_cdrom_ioctl,
	.free_disk = sbd_free_disk,
};

/**
 * sbd_cdrom_register - make the drive known to the uniform CD-ROM layer
 * @d: the drive; its gendisk is not added yet
 *
 * Return: 0 or what the layer said.
 */
int sbd_cdrom_register(struct sbd_drive *d)
{
	d->cdi.ops = &sbd_cdrom_ops;
	d->cdi.handle = d;
	d->cdi.capacity = 1;
	d->cdi.speed = 0;
	strscpy(d->cdi.name, d->disk->disk_name, sizeof(d->cdi.name));
	return register_cdrom(d->disk, &d->cdi);
}

/**
 * sbd_cdrom_unregister - take the drive back from the uniform CD-ROM layer
 * @d: the drive; those who have it open may still call into the layer
 */
void sbd_cdrom_unregister(struct sbd_drive *d)
{
	unregister_cdrom(&d->cdi);
}
