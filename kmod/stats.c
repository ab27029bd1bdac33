// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: counters and state, as sysfs shows them
 *
 * One value for each file, in /sys/block/spicebdN/spicebd/.
 */
#include <linux/atomic.h>
#include <linux/device.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/sysfs.h>

#include "drive.h"

/**
 * sbd_stats_read - a counter's value
 * @d: the drive
 * @which: SPICEBD_A_STATS_*
 *
 * Return: the sum over all CPUs.
 */
u64 sbd_stats_read(struct sbd_drive *d, unsigned int which)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(d->stats, cpu)->count[which]);
	return sum;
}

/* Replies on sockets that are bound to no drive. */
static atomic64_t sbd_strays = ATOMIC64_INIT(0);

/**
 * sbd_stats_stray - count and tell a reply on a socket that serves no drive
 *
 * Anybody can send one, so hardly any of them is told.
 */
void sbd_stats_stray(void)
{
	static DEFINE_RATELIMIT_STATE(limit, 60 * HZ, 1);

	atomic64_inc(&sbd_strays);
	if (__ratelimit(&limit))
		pr_notice("refused a reply of %s (pid %d): its socket is bound to no drive\n",
			  current->comm, task_tgid_nr(current));
}

static int strays_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%lld\n", (long long)atomic64_read(&sbd_strays));
}

static int strays_set(const char *val, const struct kernel_param *kp)
{
	return -EPERM;
}

static const struct kernel_param_ops strays_ops = {
	.get = strays_get,
	.set = strays_set,
};
module_param_cb(stray_replies, &strays_ops, NULL, 0444);
MODULE_PARM_DESC(stray_replies, "Read only: replies refused because their socket is bound to no drive");

/**
 * sbd_drive_state - what is true of the drive right now
 * @d: the drive, its lock held
 *
 * Return: SPICEBD_STATE_*
 */
u32 sbd_drive_state(const struct sbd_drive *d)
{
	u32 state = 0;

	if (d->tray.medium)
		state |= SPICEBD_STATE_MEDIUM;
	if (d->ready)
		state |= SPICEBD_STATE_READY;
	if (d->tray.locked)
		state |= SPICEBD_STATE_LOCKED;
	if (d->gate & SBD_GATE_STALE)
		state |= SPICEBD_STATE_STALE;
	if (d->nr_held)
		state |= SPICEBD_STATE_HOLDING;
	if (d->tray.locked_admin)
		state |= SPICEBD_STATE_LOCKED_ADMIN;
	if (d->freeze)
		state |= SPICEBD_STATE_FREEZING;
	return state;
}

static struct sbd_drive *dev_drive(struct device *dev)
{
	return dev_to_disk(dev)->private_data;
}

static ssize_t personality_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", dev_drive(dev)->personality ==
			  SPICEBD_PERSONALITY_CDROM ? "cdrom" : "disk");
}
static DEVICE_ATTR_RO(personality);

static ssize_t tray_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%s\n", READ_ONCE(dev_drive(dev)->tray.open) ?
			  "open" : "closed");
}
static DEVICE_ATTR_RO(tray);

static ssize_t state_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sbd_condition_show(dev_drive(dev), buf);
}
static DEVICE_ATTR_RO(state);

static ssize_t cause_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sbd_cause_show(dev_drive(dev), buf);
}
static DEVICE_ATTR_RO(cause);

static ssize_t deferred_show(struct device *dev,
			     struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(dev_drive(dev)->deferred));
}

/* 1: udev has put off its probe. When it is no longer needed a uevent says so. */
static ssize_t deferred_store(struct device *dev,
			      struct device_attribute *attr, const char *buf,
			      size_t count)
{
	struct sbd_drive *d = dev_drive(dev);
	bool value;
	int ret;

	ret = kstrtobool(buf, &value);
	if (ret)
		return ret;
	spin_lock(&d->lock);
	/* A medium that is not ready yet, or gone, has a uevent of its own. */
	d->deferred = value && d->ready;
	sbd_event_probe(d);
	spin_unlock(&d->lock);
	return count;
}
static DEVICE_ATTR_RW(deferred);

static ssize_t helper_show(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	static const char * const names[] = { "none", "attached", "lost" };

	return sysfs_emit(buf, "%s\n",
			  names[READ_ONCE(dev_drive(dev)->helper.state)]);
}
static DEVICE_ATTR_RO(helper);

static ssize_t link_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%s\n", READ_ONCE(dev_drive(dev)->helper.link) ==
			  SPICEBD_LINK_UP ? "up" : "lost");
}
static DEVICE_ATTR_RO(link);

static ssize_t generation_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n",
			  READ_ONCE(dev_drive(dev)->generation));
}
static DEVICE_ATTR_RO(generation);

static ssize_t sockets_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(dev_drive(dev)->nr_socks));
}
static DEVICE_ATTR_RO(sockets);

static ssize_t openers_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(dev_drive(dev)->openers));
}
static DEVICE_ATTR_RO(openers);

static ssize_t users_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(dev_drive(dev)->users));
}
static DEVICE_ATTR_RO(users);

static ssize_t in_flight_show(struct device *dev,
			      struct device_attribute *attr, char *buf)
{
	struct sbd_drive *d = dev_drive(dev);
	u32 n;

	spin_lock(&d->lock);
	n = sbd_queue_in_flight(d);
	spin_unlock(&d->lock);
	return sysfs_emit(buf, "%u\n", n);
}
static DEVICE_ATTR_RO(in_flight);

static ssize_t held_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(dev_drive(dev)->nr_held));
}
static DEVICE_ATTR_RO(held);

#define SBD_COUNTER(_name, _which)					\
static ssize_t _name##_show(struct device *dev,				\
			    struct device_attribute *attr, char *buf)	\
{									\
	return sysfs_emit(buf, "%llu\n",				\
			  sbd_stats_read(dev_drive(dev), _which));	\
}									\
static DEVICE_ATTR_RO(_name)

SBD_COUNTER(reads, SPICEBD_A_STATS_READS);
SBD_COUNTER(writes, SPICEBD_A_STATS_WRITES);
SBD_COUNTER(flushes, SPICEBD_A_STATS_FLUSHES);
SBD_COUNTER(discards, SPICEBD_A_STATS_DISCARDS);
SBD_COUNTER(write_zeroes, SPICEBD_A_STATS_WRITE_ZEROES);
SBD_COUNTER(read_bytes, SPICEBD_A_STATS_READ_BYTES);
SBD_COUNTER(write_bytes, SPICEBD_A_STATS_WRITE_BYTES);
SBD_COUNTER(errors, SPICEBD_A_STATS_ERRORS);
SBD_COUNTER(refused, SPICEBD_A_STATS_REFUSED);
SBD_COUNTER(resent, SPICEBD_A_STATS_RESENT);
SBD_COUNTER(medium_changes, SPICEBD_A_STATS_MEDIUM_CHANGES);

static struct attribute *sbd_attrs[] = {
	&dev_attr_personality.attr,
	&dev_attr_tray.attr,
	&dev_attr_state.attr,
	&dev_attr_cause.attr,
	&dev_attr_deferred.attr,
	&dev_attr_openers.attr,
	&dev_attr_users.attr,
	&dev_attr_helper.attr,
	&dev_attr_link.attr,
	&dev_attr_generation.attr,
	&dev_attr_sockets.attr,
	&dev_attr_in_flight.attr,
	&dev_attr_held.attr,
	&dev_attr_reads.attr,
	&dev_attr_writes.attr,
	&dev_attr_flushes.attr,
	&dev_attr_discards.attr,
	&dev_attr_write_zeroes.attr,
	&dev_attr_read_bytes.attr,
	&dev_attr_write_bytes.attr,
	&dev_attr_errors.attr,
	&dev_attr_refused.attr,
	&dev_attr_resent.attr,
	&dev_attr_medium_changes.attr,
	NULL
};

static const struct attribute_group sbd_group = {
	.name = "spicebd",
	.attrs = sbd_attrs,
};

const struct attribute_group *sbd_sysfs_groups[] = { &sbd_group, NULL };
