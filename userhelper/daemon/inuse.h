/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whoever shares a medium is told that somebody uses it there, and where it is mounted:
 * a person ejects nothing that is wanted, and knows whom to ask. Main thread.
 */
#ifndef SPICEBD_INUSE_H
#define SPICEBD_INUSE_H

struct drive;

/* From now on changes of mounts are seen. */
void inuse_init(void);

/* The drive's lock may have changed. */
void inuse_look(struct drive *d);

/* The share was told that the medium is in: it knows nothing of users then. */
void inuse_again(struct drive *d);

#endif /* SPICEBD_INUSE_H */
