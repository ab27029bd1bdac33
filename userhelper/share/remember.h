/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a server told this user's share: the secret that opens its later sessions
 * when the password is spent. In $XDG_STATE_HOME/spicebd/sessions, for the user's
 * eyes only, so that a share that is started again can go on.
 */
#ifndef SPICEBD_SHARE_REMEMBER_H
#define SPICEBD_SHARE_REMEMBER_H

#include <stdbool.h>

#define REMEMBER_DIGITS	32	/* of a ticket made of a secret */

/**
 * remember_load() - the ticket of the last session with a server
 * Return: REMEMBER_DIGITS hex digits to be freed, or NULL: there is none, or it
 *	cannot be trusted (logged)
 */
char *remember_load(const char *uri);

/**
 * remember_save() - keep it; on the disk when this returns
 *
 * A failure is logged: the session goes on, but a new process could not resume it.
 */
void remember_save(const char *uri, const char *ticket);

#endif /* SPICEBD_SHARE_REMEMBER_H */
