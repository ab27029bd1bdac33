/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_SHARE_HELP_H
#define SPICEBD_SHARE_HELP_H

extern const char help_text[];
extern const char help_commands[];

#endif /* SPICEBD_SHARE_HELP_H */
