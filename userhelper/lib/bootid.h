/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_BOOTID_H
#define SPICEBD_BOOTID_H

#include <stdint.h>

/**
 * boot_id_read() - the id of this boot of this machine
 *
 * Random when the kernel does not tell it: each start then looks like a new
 * boot, which is the safe side (acknowledged writes may be lost).
 */
void boot_id_read(uint8_t id[16]);

#endif /* SPICEBD_BOOTID_H */
