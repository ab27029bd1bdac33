/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A process on the way of a drive's requests must not wait for memory that is
 * freed by writing to that drive. See Documentation/memory.rst.
 */
#ifndef SPICEBD_RECLAIM_H
#define SPICEBD_RECLAIM_H

#include <stdbool.h>
#include <stddef.h>

/**
 * reclaim_prepare() - become one that memory may be freed through
 *
 * Of this thread and those it starts: what the kernel allocates for them starts
 * no I/O, and they are not slowed down for what others have made dirty. Of the
 * whole process: its memory stays where it is. To be called as the first thread,
 * with CAP_SYS_RESOURCE and CAP_IPC_LOCK; what is not permitted is gone without.
 *
 * The two survive exec() differently: a program that is started has the first,
 * and has to lock its own memory.
 *
 * @why: out: what was not permitted, for a warning, or ""
 *
 * Return: true if memory is locked.
 */
bool reclaim_prepare(char *why, size_t size);

#endif /* SPICEBD_RECLAIM_H */
