/* SPDX-License-Identifier: GPL-2.0-only */
/* libspice-server, without a display and without a listener of its own. */
#ifndef SPICEBD_LINK_SPICE_H
#define SPICEBD_LINK_SPICE_H

#include <spice.h>

#include "conf.h"

/* Reads the TLS files. Returns NULL after a log line. */
SpiceServer *spice_start(const struct conf *c);

#endif /* SPICEBD_LINK_SPICE_H */
