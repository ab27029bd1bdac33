/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which Spice ticket is good at the moment: the password of the configuration,
 * until a share has come in by it; from then on that share's resume secret,
 * which nobody else has. libspice-server takes one ticket at a time.
 *
 *   password --all channels linked--> secret, on trial --a share spoke--> secret
 *      ^                                    |
 *      +--- no share, or it went away ------+
 *
 * A share that spoke before all of its channels were linked has the secret: when
 * it goes, the password is not good again either.
 *
 * That a share spoke is written down in link/NAME.ticket of the run directory,
 * so a link that is started again goes on with the secret. A share that comes from
 * another host, with its medium, has been given a ticket of its own, an invitation:
 * for a while that is good in the place of the password, or of a secret whose share
 * is not here. Without a password
 * there are no tickets, and all of this does nothing but make secrets.
 */
#ifndef SPICEBD_LINK_TICKET_H
#define SPICEBD_LINK_TICKET_H

#include <spice.h>
#include <stdbool.h>
#include <stdint.h>

/**
 * ticket_init() - before the sandbox: opens link/NAME.ticket
 * @password: empty: none; copied
 *
 * A file of another password is no obstacle: it begins anew.
 * Return: false (logged) when there is a password and the file cannot be used
 */
bool ticket_init(SpiceServer *server, const char *name, const char *password);

/* For who comes next, within a minute; "": not any more. */
void ticket_invite(const char *text);

/* A client's main channel was linked, by the ticket that is good now. */
void ticket_client_came(void);

/* It has linked all of its channels: what opened this session opens no other. */
void ticket_all_linked(void);

/* Its share said hello, and so has the secret. */
void ticket_spoken(void);

/**
 * ticket_learn() - the share has another secret than ours
 * @secret: of a guest's link, whose hello it answered; FRAME_SECRET_LEN bytes
 *
 * Before ticket_spoken(). That guest knows its client's next ticket, then; with it
 * it could come in its client's place, and be served its own requests.
 */
void ticket_learn(const uint8_t *secret);

/* It is gone, or is no share. The password is good again if no share ever came by it. */
void ticket_released(void);

/* Whether the secret is what is asked for. */
bool ticket_is_secret(void);

const uint8_t *ticket_secret(void);	/* FRAME_SECRET_LEN bytes */

#endif /* SPICEBD_LINK_TICKET_H */
