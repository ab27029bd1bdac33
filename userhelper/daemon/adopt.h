/* SPDX-License-Identifier: GPL-2.0-only */
/* Taking over from a spicebdd that ended, in order or not. */
#ifndef SPICEBD_ADOPT_H
#define SPICEBD_ADOPT_H

#include <stdbool.h>

/* Begin; what cannot be taken over is ejected or ended. After drives_follow(). */
void adopt_start(void);

/* Nothing is being adopted any more. */
bool adopt_done(void);

#endif /* SPICEBD_ADOPT_H */
