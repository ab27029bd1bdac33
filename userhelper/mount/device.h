/* SPDX-License-Identifier: GPL-2.0-only */
/* What sysfs says of a drive or one of its partitions. */
#ifndef SPICEBD_MOUNT_DEVICE_H
#define SPICEBD_MOUNT_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/**
 * struct device - what is mounted from
 * @name: spicebdN or spicebdNpM
 * @drive: spicebdN
 */
struct device {
	char name[32];
	char drive[32];
	bool partition;
};

/**
 * device_name() - check a name that came from outside
 */
bool device_name(struct device *d, const char *name);

/**
 * device_present() - is a medium in it, as far as can be seen without opening?
 */
bool device_present(const struct device *d);

bool device_is_cdrom(const struct device *d);
bool device_read_only(const struct device *d);

/**
 * device_diskseq() - the number of the medium; 0 if it cannot be told
 */
uint64_t device_diskseq(const struct device *d);

/**
 * device_open() - open the node, and see that it is the named device
 * @whole: of the whole medium, not of the partition
 * @rdev: out
 * Return: descriptor or -errno
 */
int device_open(const struct device *d, bool whole, dev_t *rdev);

#endif /* SPICEBD_MOUNT_DEVICE_H */
