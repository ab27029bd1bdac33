/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A port's data past libspice-server, which reads it by pieces into fresh
 * buffers, clears 64 KiB for each message that it sends, and believes the length
 * that a client puts into a message.
 */
#ifndef SPICEBD_LINK_TAP_H
#define SPICEBD_LINK_TAP_H

#include "end.h"
#include "loop.h"

struct port_tap;

/**
 * port_tap_new() - put oneself between a channel's connection and libspice-server
 * @fd: what libspice-server has, which keeps its number; -1: none
 * @kind, @end: get the data
 * @pump: deferred when there is room for output again
 * Return: NULL when there is none, or no memory; the latter ends the connection
 */
struct port_tap *port_tap_new(int fd, const struct port_end *kind, void *end,
			      struct loop_task *pump);

/* libspice-server finds its end closed. NULL is fine. */
void port_tap_free(struct port_tap *p);

/* Sends what the end has. */
void port_tap_pump(struct port_tap *p);

#endif /* SPICEBD_LINK_TAP_H */
