/* SPDX-License-Identifier: GPL-2.0-only */
/* Who has a drive, or a partition of it: mounts, and open files of processes. */
#ifndef SPICEBD_HOLDERS_H
#define SPICEBD_HOLDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define HOLDERS_DEVS_MAX	260	/* the drive and its partitions */

/* The devices of a drive: to be remembered when it is about to be deleted. */
struct holders_devs {
	dev_t dev[HOLDERS_DEVS_MAX];
	bool mounted[HOLDERS_DEVS_MAX];
	int n;
};

void holders_devs(const char *name, struct holders_devs *v);

/**
 * holders_describe() - name the users of a drive
 * @name: of the disk, as in /sys/block
 * @users: how many opens the kernel counts: without CAP_SYS_PTRACE another
 *	user's processes cannot be seen, and are told as a number; 0: leave them out
 * @out: out: "mounted on A and B; open by PID 5 (dd), 7 (cat)", without control
 *	characters; cut to @size
 *
 * Return: false when nobody was found: it may be another mount namespace's
 * mount, swap, or a device stacked on it
 */
bool holders_describe(const char *name, unsigned int users, char *out, size_t size);
bool holders_describe_devs(struct holders_devs *v, unsigned int users, char *out, size_t size);

/* Its mounts alone: "mounted on A and B"; false: it has none here, and @out is empty. */
bool holders_mounts(const char *name, char *out, size_t size);

/* mountinfo and swaps write space, tab, line feed and backslash as \ooo. */
void holders_unescape(char *s);

#endif /* SPICEBD_HOLDERS_H */
