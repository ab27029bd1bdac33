/* SPDX-License-Identifier: GPL-2.0-only */
/* What a Spice port carries bytes for: a session of our own, or a relay's guest. */
#ifndef SPICEBD_LINK_END_H
#define SPICEBD_LINK_END_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct port;

/* A frame by pieces, as session_begin() and what follows it. */
struct port_end_direct {
	bool (*begin)(void *end, const uint8_t *head, size_t len);
	int (*sink)(void *end);
	void (*moved)(void *end, size_t n);
	void (*part)(void *end, const uint8_t *data, size_t len);
	bool (*hold)(void *end);
};

/* All but make() get what that returned. */
struct port_end {
	/* @port: for the functions of port.h that an end calls; NULL: no memory */
	void *(*make)(uint32_t number, struct port *port);
	void (*free)(void *end);
	/* A client has linked the port, or has left it. */
	void (*start)(void *end, const uint8_t *secret);
	void (*stop)(void *end, const char *why);
	/* Bytes from the client, all of them taken. */
	void (*input)(void *end, const uint8_t *data, size_t len);
	/* Whole frames for the client; @size is at least FRAME_MAX. */
	size_t (*output)(void *end, uint8_t *buf, size_t size);
	bool (*is_up)(const void *end);		/* the client's share speaks */
	long long (*last_heard)(const void *end);
	bool (*is_open)(const void *end);	/* somebody serves the port */
	const struct port_end_direct *direct;	/* or NULL */
};

extern const struct port_end session_end;	/* struct session */
extern const struct port_end relay_end;		/* struct relay */

#endif /* SPICEBD_LINK_END_H */
