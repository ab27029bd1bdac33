/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A snapshot as one client of it reads it: what was copied comes from the scratch
 * file, the rest from the medium itself. Part of the plugin of spicebd-export's
 * nbdkits; any number of threads.
 */
#ifndef SPICEBD_SNAPSHOT_VIEW_H
#define SPICEBD_SNAPSHOT_VIEW_H

#include <stddef.h>
#include <stdint.h>

#define VIEW_FDS	3	/* the scratch file, the map, the end of the pipe */

struct view;

/* Reads the medium; 0, or -1 with the error told. */
typedef int (*view_read_fn)(void *arg, void *buf, uint32_t count, uint64_t offset);

/* @fd: taken over. Return: NULL, and they are closed */
struct view *view_open(const int fd[VIEW_FDS], uint64_t size);
void view_close(struct view *v);

/**
 * view_pread() - the bytes of that moment
 * Return: 0; errno value; -1: @read failed
 */
int view_pread(struct view *v, void *buf, uint32_t count, uint64_t offset, view_read_fn read,
	       void *arg);

/**
 * view_copied() - what the scratch file has of some bytes
 * @fn: called for each run of them; what is not among them by now was not written
 *	when the medium was asked before
 * Return: 0, errno value, or what @fn returned
 */
int view_copied(struct view *v, uint64_t offset, uint64_t count,
		int (*fn)(void *arg, uint64_t offset, uint64_t count), void *arg);

/* Why there is no more to read; 0: there is. @why: SNAPMAP_WHY_MAX bytes */
int view_over(const struct view *v, char *why);

#endif /* SPICEBD_SNAPSHOT_VIEW_H */
