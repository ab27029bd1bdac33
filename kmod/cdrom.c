// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: the cdrom personality, behind the uniform CD-ROM layer
 *
 * drive->cdrom_lock serialises that layer, as it asks its drivers to do. Its
 * callbacks below run under that lock, those for ->open and ->release under
 * open_mutex too; but file systems call the ones about the table of contents as
 * they like.
 *
 * The door. The layer locks it whenever the drive is opened for data, and
 * unlocks it when nobody has it open at all, or when CDROM_LOCKDOOR says so.
 * Here it is also unlocked when no user is left but such as only watch. The
 * administrator's lock is another one, which the layer does not know of.
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
	ret = d->ready || !sbd_readable(d) || d->freeze;
	spin_unlock(&d->lock);
	return ret;
}

static int sbd_cdrom_tray_move(struct cdrom_device_info *cdi, int open)
{
	struct sbd_drive *d = cdi->handle;
	int ret;

	if (open) {
		ret = sbd_verb(d, SBD_VERB_OPEN, SBD_ARG_SELF, NULL, NULL);
		/* How an ioctl says that the drive is locked. */
		return ret == -EINPROGRESS ? -EBUSY : ret;
	}

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
	struct sbd_drive *d = cdi->handle;

	/*
	 * The layer unlocks when an open fails, whoever else needs the lock: a
	 * mount that tries to write would open the door of a mounted medium.
	 */
	if (!lock && d->cdrom_opening && (d->users || cdi->keeplocked))
		return 0;
	return sbd_verb(d, lock ? SBD_VERB_LOCK : SBD_VERB_UNLOCK,
			SBD_ARG_SELF, NULL, NULL);
}

/* Blocks of the medium, or 0 if there is none to be read. */
static u64 blocks(struct sbd_drive *d)
{
	u64 ret;

	spin_lock(&d->lock);
	ret = d->ready ? d->medium.size / SBD_CDROM_BLOCK : 0;
	spin_unlock(&d->lock);
	return ret;
}

/* One session, which begins with the medium. */
static int sbd_cdrom_last_session(struct cdrom_device_info *cdi,
				  struct cdrom_multisession *session)
{
	if (!blocks(cdi->handle))
		return -ENOMEDIUM;
	session->addr_format = CDROM_LBA;
	session->addr.lba = 0;
	session->xa_flag = 0;
	return 0;
}

/* As drives do, an address that is too large is the largest there is. */
static void set_msf(struct cdrom_msf0 *msf, u64 block)
{
	u64 frame = min_t(u64, block + CD_MSF_OFFSET,
			  256 * CD_SECS * CD_FRAMES - 1);
	u32 f = frame;

	msf->minute = f / (CD_SECS * CD_FRAMES);
	msf->second = f / CD_FRAMES % CD_SECS;
	msf->frame = f % CD_FRAMES;
}

/* One data track, and the lead-out behind it. The layer asks for MSF only. */
static int sbd_cdrom_toc_entry(u64 nr_blocks, struct cdrom_tocentry *entry)
{
	if (entry->cdte_track != 1 && entry->cdte_track != CDROM_LEADOUT)
		return -EINVAL;
	entry->cdte_adr = 1;
	entry->cdte_ctrl = CDROM_DATA_TRACK;
	entry->cdte_datamode = 1;
	entry->cdte_format = CDROM_MSF;
	set_msf(&entry->cdte_addr.msf, entry->cdte_track == 1 ? 0 : nr_blocks);
	return 0;
}

static int sbd_cdrom_audio_ioctl(struct cdrom_device_info *cdi,
				 unsigned int cmd, void *arg)
{
	struct cdrom_tochdr *header = arg;
	u64 nr_blocks = blocks(cdi->handle);

	if (cmd != CDROMREADTOCHDR && cmd != CDROMREADTOCENTRY)
		return -EINVAL;		/* data only */
	if (!nr_blocks)
		return -ENOMEDIUM;
	if (cmd == CDROMREADTOCENTRY)
		return sbd_cdrom_toc_entry(nr_blocks, arg);
	header->cdth_trk0 = 1;
	header->cdth_trk1 = 1;
	return 0;
}

static const struct cdrom_device_ops sbd_cdrom_ops = {
	.open = sbd_cdrom_ops_open,
	.release = sbd_cdrom_ops_release,
	.drive_status = sbd_cdrom_drive_status,
	.check_events = sbd_cdrom_check_events,
	.tray_move = sbd_cdrom_tray_move,
	.lock_door = sbd_cdrom_lock_door,
	.get_last_session = sbd_cdrom_last_session,
	.audio_ioctl = sbd_cdrom_audio_ioctl,
	.generic_packet = cdrom_dummy_generic_packet,
	.capability = CDC_OPEN_TRAY | CDC_CLOSE_TRAY | CDC_LOCK |
		      CDC_MULTI_SESSION | CDC_MEDIA_CHANGED |
		      CDC_DRIVE_STATUS | CDC_DVD,
};

/* Before every call into the layer: takes cdrom_lock. */
static void enter(struct sbd_drive *d)
{
	mutex_lock(&d->cdrom_lock);
	if (atomic_xchg(&d->cdrom_unlock, 0))
		d->cdi.keeplocked = 0;
}

/* Whoever only watches does not need the door locked. cdrom_lock held. */
static void settle_door(struct sbd_drive *d)
{
	if (!d->users && !d->cdi.keeplocked && READ_ONCE(d->tray.locked))
		sbd_verb(d, SBD_VERB_UNLOCK, SBD_ARG_SELF, NULL, NULL);
}

/* cdrom_lock held */
static int layer_open(struct sbd_drive *d, blk_mode_t mode)
{
	int check = d->cdi.options & CDO_CHECK_TYPE;
	int ret;

	/*
	 * The layer can look whether a disc has data only if its drive plays
	 * audio too, and else takes it that there is none.
	 */
	d->cdi.options &= ~check;
	d->cdrom_opening = true;
	ret = cdrom_open(&d->cdi, mode);
	d->cdrom_opening = false;
	d->cdi.options |= check;
	return ret;
}

static int sbd_cdrom_open(struct gendisk *disk, blk_mode_t mode)
{
	struct sbd_drive *d = disk->private_data;
	int ret;

	ret = sbd_drive_await_release(d, mode);
	if (ret)
		return ret;
	enter(d);
	ret = layer_open(d, mode);
	if (!ret) {
		ret = sbd_drive_opened(d, mode);
		if (ret) {
			cdrom_release(&d->cdi);
			settle_door(d);
		}
	}
	mutex_unlock(&d->cdrom_lock);
	return ret;
}
SBD_DEFINE_OPEN(sbd_cdrom_open)

static void sbd_cdrom_release(struct gendisk *disk, enum sbd_closer closer)
{
	struct sbd_drive *d = disk->private_data;

	enter(d);
	cdrom_release(&d->cdi);
	sbd_drive_released(d, closer);
	settle_door(d);
	mutex_unlock(&d->cdrom_lock);
}
SBD_DEFINE_RELEASE(sbd_cdrom_release)

static int sbd_cdrom_ioctl(struct block_device *bdev, blk_mode_t mode,
			   unsigned int cmd, unsigned long arg)
{
	struct sbd_drive *d = bdev->bd_disk->private_data;
	int ret;

	if (cmd == CDROMEJECT)
		sbd_drive_wait_alone(d);
	enter(d);
	if (cmd == CDROM_DISC_STATUS)
		/* The layer knows only of drives that play audio. */
		ret = blocks(d) ? CDS_DATA_1 : CDS_NO_DISC;
	else if (cmd == CDROMEJECT && d->cdi.use_count == 1 &&
		 READ_ONCE(d->tray.locked_admin))
		/* The layer would unlock the user's door first, in vain. */
		ret = sbd_cdrom_tray_move(&d->cdi, 1);
	else
		ret = cdrom_ioctl(&d->cdi, bdev, cmd, arg);
	mutex_unlock(&d->cdrom_lock);
	/* The layer's word for what is no CD-ROM's ioctl at all. */
	if (ret == -ENOSYS && _IOC_TYPE(cmd) != _IOC_TYPE(CDROMEJECT))
		ret = -ENOTTY;
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
