/* SPDX-License-Identifier: GPL-2.0-only */
/* A share that wants its medium back, another one in its place, or one in an empty drive. */
#ifndef SPICEBD_ASKS_H
#define SPICEBD_ASKS_H

#include "links.h"

/**
 * asks_take() - do what a share asks for, and answer it
 *
 * The user of the drive is asked to let go and has some time for it (polite.h); with
 * force nobody is asked. The answer is a notice: what was done, or that the
 * drive is busy, and through whom. At most one request of a drive waits: more
 * of them get that one's answer.
 */
void asks_take(const struct link_ask *a);

#endif /* SPICEBD_ASKS_H */
