/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Does a file lie upon a drive? What a drive waits for may not wait for the drive.
 */
#ifndef SPICEBD_STACK_H
#define SPICEBD_STACK_H

#include <stdbool.h>
#include <stddef.h>

/**
 * stack_contains() - whether what an open file's bytes are kept on has the drive in it
 * @fd: of a file, a folder or a block device
 * @drive: as in /sys/block
 * @by: out: what lies between, "dm-0, loop1", or empty; cut to @size
 *
 * Down through partitions, device mapper, md, loop devices, all devices of a btrfs,
 * the upper folder of an overlay, and what stack_on_below() tells. What a network's or
 * a user's file system is kept on cannot be seen from here.
 */
bool stack_contains(int fd, const char *drive, char *by, size_t size);

/**
 * stack_on_below() - who knows what a device is kept on, where the kernel does not
 * @fn: of a disk's name as in /sys/block; returns a descriptor, to be closed, or -1
 */
void stack_on_below(int (*fn)(const char *name));

#endif /* SPICEBD_STACK_H */
