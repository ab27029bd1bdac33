/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a medium was, and another one is now. */
#ifndef SPICEBD_SUCCESSOR_H
#define SPICEBD_SUCCESSOR_H

struct drive;
struct medium;

/**
 * successor_expect() - put another medium into a drive whose old one failed
 * @d: after drive_fail() of @old
 * @old: whose source tells where the other one is
 *
 * As soon as nobody has the old one open any more, unless somebody decides
 * something else about the drive first. What fails is tried again, a number of
 * times. Main thread.
 */
void successor_expect(struct drive *d, const struct medium *old);

#endif /* SPICEBD_SUCCESSOR_H */
