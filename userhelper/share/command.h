/* SPDX-License-Identifier: GPL-2.0-only */
/* Commands on standard input while the program runs. */
#ifndef SPICEBD_SHARE_COMMAND_H
#define SPICEBD_SHARE_COMMAND_H

#include "share.h"
#include "ui.h"

struct command_hooks {
	/* How a file that is added is to be offered; path and name are set by us. */
	struct spicebd_share_medium defaults;
	/* "quit", or the end of the input: as if by a signal */
	void (*quit)(void *user);
	void *user;
};

/**
 * commands_start() - read standard input from now on
 */
void commands_start(struct spicebd_share *share, const struct command_hooks *hooks);
void commands_stop(void);
/* forgets what still waits; after the share was freed */
void commands_free(void);

/* The one that has waited longest for its drives, if any does. */
void commands_waiting(struct ui_wait *w);

/* READY and FAILED of a folder may be what a command waits for. */
void commands_share_event(const struct spicebd_share_event *ev);

#endif /* SPICEBD_SHARE_COMMAND_H */
