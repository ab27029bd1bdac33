/* SPDX-License-Identifier: GPL-2.0-only */
/* The program's own Spice session: connects, comes back, says why not. */
#ifndef SPICEBD_SHARE_CONNECT_H
#define SPICEBD_SHARE_CONNECT_H

#include <stdbool.h>
#include <stdint.h>

#include <spice-client.h>

struct connect_options {
	const char *uri;
	const char *password;		/* or NULL */
	const char *ca_file;		/* or NULL */
	const char *subject;		/* of the server's certificate, or NULL: its name counts */
	bool wait;			/* the first attempt may fail, too */
	bool reconnect;
};

enum connect_event {
	CONNECT_UP,
	CONNECT_RETRY,		/* text: why; another attempt follows by itself */
	CONNECT_LOST,		/* text: why; a stood connection is gone, for good */
	CONNECT_FAILED,		/* text: why; no connection was made */
	CONNECT_REFUSED,	/* text: why; the password is wrong or missing */
};

struct connection;

typedef void (*connect_fn)(void *user, struct connection *c, enum connect_event ev,
			   const char *text);

/**
 * connection_new() - check the options and make the session, connect later
 * @error: out: one line, to be freed, when NULL is returned
 */
struct connection *connection_new(const struct connect_options *o, connect_fn fn,
				  void *user, char **error);
SpiceSession *connection_session(struct connection *c);
const char *connection_uri(struct connection *c);
void connection_start(struct connection *c);
/* gives the present connection up and makes another; safe in any callback */
void connection_restart(struct connection *c, const char *why);
/* the session's resume secret: the ticket of its later links; is put away at once */
void connection_set_secret(struct connection *c, const uint8_t *secret);
void connection_free(struct connection *c);

/* spice-glib's messages go to the log; the last warning explains a failure */
void connection_quiet_logs(void);

#endif /* SPICEBD_SHARE_CONNECT_H */
