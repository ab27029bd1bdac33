/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The transmission phase of an NBD connection that libnbd has negotiated.
 *
 * libnbd makes about three system calls for a request. Here all requests of one
 * turn of the loop go out with one call, and replies are taken as many at a
 * time as have come, payload straight to its place. Used where the connection
 * is a plain socket; TLS stays with libnbd, whose handle keeps the socket open
 * in any case. The server is not trusted: a reply that does not fit a request
 * ends the connection.
 *
 * One thread. Source: the NBD protocol document, "Transmission phase".
 */
#ifndef SPICEBD_NBDWIRE_H
#define SPICEBD_NBDWIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libnbd.h>

/* NBD command types and flags */
enum wire_cmd {
	WIRE_READ = 0,
	WIRE_WRITE = 1,
	WIRE_FLUSH = 3,
	WIRE_TRIM = 4,
	WIRE_ZEROES = 6,
};
#define WIRE_FUA	(1u << 0)
#define WIRE_NO_HOLE	(1u << 1)

/* Requests under way at one time, over which nobody is let. */
#define WIRE_PARTS	1024

struct wire;

/**
 * typedef wire_done_fn - a request was answered
 * @owner: of wire_submit()
 * @error: errno value, 0 for success; ESHUTDOWN: the server goes down, and the
 *	request was not carried out
 */
typedef void (*wire_done_fn)(void *owner, int error, void *arg);

/**
 * wire_take() - take over a connection's transmission
 * @h: connected and idle; stays the caller's, must not be used for requests
 *	while the wire lives
 *
 * Return: the wire, or NULL: libnbd has to go on with it.
 */
struct wire *wire_take(struct nbd_handle *h, wire_done_fn done, void *arg);

/**
 * wire_new() - on any stream socket, which stays the caller's; tests
 * @structured: structured replies were negotiated
 */
struct wire *wire_new(int fd, bool structured, wire_done_fn done, void *arg);

/**
 * wire_may_wait() - wait a moment for a payload whose header has come
 *
 * wire_take() does it. Until wire_free() the socket is a blocking one for those
 * who do not say MSG_DONTWAIT.
 */
void wire_may_wait(struct wire *w);

/* Forgets what is under way, without a word to its owners. */
void wire_free(struct wire *w);

/* The socket, for poll(). */
int wire_fd(const struct wire *w);

/* How many more requests it takes. */
unsigned int wire_room(const struct wire *w);

/**
 * wire_submit() - a request; it goes out with the next wire_send()
 * @buf: payload of a write, place for a read's; untouched by others until it is
 *	answered
 *
 * At most wire_room() of them; for more than @len bytes there is no room.
 */
void wire_submit(struct wire *w, enum wire_cmd cmd, uint16_t flags, uint64_t offset,
		 uint32_t len, void *buf, void *owner);

/* Whether something waits for the socket to become writable. */
bool wire_wants_write(const struct wire *w);

/**
 * wire_send() - send what was submitted, as far as the socket takes it
 * Return: 0; -errno: the connection is of no use
 */
int wire_send(struct wire *w);

/**
 * wire_receive() - take the replies that have come
 * Return: 0; -errno: the connection is of no use; wire_error() tells why
 */
int wire_receive(struct wire *w);

/* Whether the server answers at once, as far as is known. */
bool wire_quick(const struct wire *w);

/**
 * wire_receive_wait() - wait a moment for a reply, and take it
 *
 * If none comes the connection is not quick any more.
 *
 * Return: 1; 0: none has come; -errno: as wire_receive()
 */
int wire_receive_wait(struct wire *w);

const char *wire_error(const struct wire *w);

#endif /* SPICEBD_NBDWIRE_H */
