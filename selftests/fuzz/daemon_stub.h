/* SPDX-License-Identifier: GPL-2.0-only */
/* spicebdd without a kernel and without threads. */
#ifndef SPICEBD_DAEMON_STUB_H
#define SPICEBD_DAEMON_STUB_H

#include "fuzz.h"
#include "kernel.h"

void stub_init(void);		/* once */
void stub_reset(void);		/* two empty drives, a CD and a disk */
void stub_settle(void);		/* the main loop, until it has nothing to do */
const char *stub_dir(void);	/* SPICEBD_RUN_DIR */
struct kernel_drive *stub_drive(uint32_t index);
void stub_event(uint32_t index, uint32_t event);
void stub_fail_later(uint8_t calls);	/* the call after so many fails */

#endif /* SPICEBD_DAEMON_STUB_H */
