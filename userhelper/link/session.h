/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The link's end of the frame layer on one port: hello, offers, streams, pings.
 *
 * Knows neither what carries the frames (a Spice channel, a virtio-serial port)
 * nor how the daemon is reached; both come as struct session_ops.
 */
#ifndef SPICEBD_LINK_SESSION_H
#define SPICEBD_LINK_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "linkproto.h"

struct session;

struct session_params {
	unsigned int ping_interval, ping_timeout, hello_timeout;	/* ms */
	bool client_force, client_change, client_insert;	/* what the administrator lets clients do */
	bool lossy;		/* the transport may lose bytes: frames must be checked */
	size_t credit_budget;	/* bytes that all streams of all ports may have in flight to us */
	uint8_t boot_id[FRAME_UUID_LEN];
	uint8_t instance[FRAME_UUID_LEN];
};

struct session_ops {
	/* There is output to fetch. Called at any time, also from session_input(). */
	void (*wakeup)(void *opaque);
	/* The share broke the protocol; end the transport, soon but not from here. */
	void (*fail)(void *opaque, const char *why);
	/* Nothing came for the ping timeout, or no hello in time after a reset. */
	void (*dead)(void *opaque);
	/* A share said hello. */
	void (*up)(void *opaque);
	/* To the daemon, if there is one; takes fd (or -1) in any case. */
	void (*emit)(struct link_msg *msg, int fd);
};

struct session *session_new(uint32_t port, const struct session_params *params,
			    const struct session_ops *ops, void *opaque);
void session_free(struct session *s);

/* The transport came up or went down; secret: FRAME_SECRET_LEN bytes. */
void session_start(struct session *s, const uint8_t *secret);
void session_stop(struct session *s, const char *why);

/* Bytes from the share, all of them taken. */
void session_input(struct session *s, const uint8_t *data, size_t len);

/**
 * session_begin() - the first bytes of a frame whose others are moved, not read
 * @head: FRAME_HEADER_LEN bytes
 * @len: of the whole frame
 *
 * Return: true: the rest comes as calls of the three below, or the session ends;
 * false: @head was not taken, session_input() is to get the frame
 */
bool session_begin(struct session *s, const uint8_t *head, size_t len);
int session_sink(const struct session *s);	/* takes bytes of it now; or -1 */
void session_moved(struct session *s, size_t n);
void session_part(struct session *s, const uint8_t *data, size_t len);
/* Whether nothing more should be read for now; ops->wakeup() when that is over. */
bool session_hold(struct session *s);

/**
 * session_output() - whole frames for the share
 * @size: at least FRAME_MAX
 * Return: bytes; 0 when there is nothing now; ops->wakeup tells when there is
 */
size_t session_output(struct session *s, uint8_t *buf, size_t size);

/* What the daemon asks for. */
void session_open_stream(struct session *s, uint32_t offer, uint32_t tag);
/* @text: for the share's user, or "" */
void session_notice(struct session *s, uint32_t offer, uint32_t what, const char *text);
void session_move(struct session *s, const struct link_msg *m);
void session_reset(struct session *s, const char *why);
void session_get_stats(struct session *s);
void session_replay(struct session *s);		/* a new daemon */
void session_daemon_gone(struct session *s);	/* its streams end */

bool session_is_up(const struct session *s);
long long session_last_heard(const struct session *s);	/* now_ms() of the last valid frame */

#endif /* SPICEBD_LINK_SESSION_H */
