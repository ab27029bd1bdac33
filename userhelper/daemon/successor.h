/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a medium was, and another one is now. */
#ifndef SPICEBD_SUCCESSOR_H
#define SPICEBD_SUCCESSOR_H

struct drive;
struct medium;
struct source;

/**
 * successor_expect() - put another medium into a drive whose old one failed
 * @d: after drive_fail() of @old
 * @s: where the other one is; taken over
 *
 * As soon as nobody has the old one open any more, unless somebody decides
 * something else about the drive first. Main thread.
 */
void successor_expect(struct drive *d, const struct medium *old, struct source *s);

#endif /* SPICEBD_SUCCESSOR_H */
