/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The data path of one queue socket: requests from the kernel, answers to it.
 *
 * Everything is allocated by ring_bind(); a request afterwards costs no
 * allocation, because the one that is made under memory pressure may wait for
 * the very write that it is to complete. A ring belongs to one thread.
 */
#ifndef SPICEBD_RING_H
#define SPICEBD_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/spicebd.h>

enum ring_slot_state {
	RING_FREE,
	RING_RECEIVING,		/* a write whose payload is not complete */
	RING_GIVEN,		/* the caller's */
	RING_ANSWERING,		/* completed, not sent yet */
};

/**
 * struct ring_slot - one request, from its arrival until its answer is sent
 * @buf: payload of a write, to be filled for a read; room for the request
 * @have: bytes of a write that have come
 * @error: of the answer
 * @next: of the list the slot is in; the caller's while RING_GIVEN
 * @parts, @part_error, @mark, @flags_io: the caller's
 */
struct ring_slot {
	enum ring_slot_state state;
	uint32_t op;
	uint32_t flags;
	uint32_t length;
	uint64_t cookie;
	uint64_t offset;
	uint64_t generation;
	uint32_t queue;
	uint32_t have;
	uint32_t error;
	uint32_t parts;
	uint32_t part_error;
	uint32_t flags_io;
	uint64_t mark;
	uint8_t *buf;
	void *owner;
	struct ring_slot *next;
	struct ring_slot *prev;
};

/* struct ring_stats - what should not happen is counted, not believed */
struct ring_stats {
	uint64_t requests;
	uint64_t answers;
	uint64_t refused;	/* error messages of the kernel: a late answer, mostly */
	uint64_t malformed;	/* messages that were dropped */
	uint64_t no_slot;	/* requests beyond the credit, answered with an error */
	uint64_t truncated;
};

/* @registered: payload goes through memory that the kernel copies from and to */
struct ring_info {
	uint32_t index;
	uint32_t credit;
	uint32_t credit_bytes;
	bool registered;
};

struct ring;

/* Called with a request that has come whole; the slot is the caller's until
 * ring_complete().
 */
typedef void (*ring_request_fn)(struct ring_slot *slot, void *arg);

#define RING_SNDBUF	(1 << 20)
/* How long ring_receive_wait() waits; the kernel rounds up to a tick. */
#define RING_WAIT_US	1000
/* Datagrams that ring_receive() takes at most. */
#define RING_RX		8

/**
 * ring_socket() - a netlink socket for ring_new()
 * @rcvbuf: receive buffer to force, bytes
 *
 * Needs CAP_NET_ADMIN to exceed the system's limit.
 *
 * Return: descriptor or -errno
 */
int ring_socket(uint32_t rcvbuf);

/**
 * ring_new() - a ring on a socket, which it then owns
 * @family: number of the generic netlink family
 * @max_io: largest request of the drive, bytes
 * Return: ring, or NULL (out of memory; @fd is closed)
 */
struct ring *ring_new(int fd, uint16_t family, uint32_t max_io);
void ring_free(struct ring *r);		/* closes the socket */
int ring_fd(const struct ring *r);
const struct ring_stats *ring_stats(const struct ring *r);

/**
 * ring_prepare() - make the slots; ring_bind() does it, tests call it alone
 */
int ring_prepare(struct ring *r, uint32_t credit);

/**
 * ring_map() - make the memory that is to be registered; likewise
 */
int ring_map(struct ring *r, size_t memory);

/**
 * ring_bind() - bind the socket to its drive's queues and make the slots
 * @memory: bytes to register, whole pages, at least the largest request; 0, or
 *	where the kernel does not take them: payload goes in messages
 * @text: out: why it failed, for people
 * Return: 0 or -errno
 */
int ring_bind(struct ring *r, const uint8_t key[SPICEBD_KEY_LEN], size_t memory,
	      struct ring_info *info, char *text, size_t size);

/**
 * ring_receive() - take what has come, without waiting
 * Return: datagrams taken; 0: none are there; -errno: the socket is of no use
 */
int ring_receive(struct ring *r, ring_request_fn fn, void *arg);

/**
 * ring_receive_wait() - take one datagram, waiting for it about RING_WAIT_US
 *
 * For whoever expects one at once and has nothing else to do: it saves the
 * poll() before it.
 *
 * Return: 1; 0: none has come; -errno: the socket is of no use
 */
int ring_receive_wait(struct ring *r, ring_request_fn fn, void *arg);

/**
 * ring_parse() - one datagram
 */
void ring_parse(struct ring *r, const void *data, size_t len, ring_request_fn fn, void *arg);

/**
 * ring_complete() - answer a request
 * @error: errno value, 0 for success; a successful read sends all of @slot->buf
 *
 * The answer goes out with the next ring_flush(), which needs @slot->buf
 * untouched.
 */
void ring_complete(struct ring *r, struct ring_slot *slot, uint32_t error);

/**
 * ring_flush() - send the answers that wait
 * Return: 0; -EAGAIN: some are left, call again soon; another -errno: the
 *	socket is of no use
 */
int ring_flush(struct ring *r);

/**
 * ring_relax() - give the memory of idle slots back to the system
 */
void ring_relax(struct ring *r);

#endif /* SPICEBD_RING_H */
