/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A Spice port channel whose data goes past the Spice library.
 *
 * When a library (libspice-server, libspice-client-glib) has linked the channel,
 * its socket is exchanged for one end of a pair; tap has the other end and the
 * connection itself. DATA messages are taken out and put in here, all others are
 * passed on between the library and the connection, whole and in their order. So
 * the library keeps what it is good at (authentication, port events, migration)
 * and its buffers, copies and wakeups are not in the way of the data.
 *
 * For connections without TLS or SASL, with the short message headers, taken at
 * a boundary of messages. Knows no event loop: the owner calls tap_event().
 */
#ifndef SPICEBD_SPICETAP_H
#define SPICEBD_SPICETAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAP_HEADER	6		/* type and length of a Spice message */
#define TAP_OTHER_MAX	(1u << 20)	/* a message that is passed on, at most */

#define TAP_IN		1u
#define TAP_OUT		2u

enum tap_side { TAP_NET, TAP_LIB };

struct tap;

/* A DATA message on its way out; @data is preceded by room for its header. */
struct tap_buf {
	struct tap_buf *next;
	size_t len;			/* of data */
	bool passed_on;			/* the library's: data includes its header */
	uint8_t header[TAP_HEADER + 2];	/* 2 for alignment */
	uint8_t data[];
};

/*
 * For the owner of a DATA message that is large and goes on, as it is, to another
 * socket: its bytes are moved there without being copied through this process.
 */
struct tap_direct {
	size_t head;	/* bytes of such a message that begin() must see */
	/*
	 * A message of @len bytes begins with the @head ones at @p. Returns false when
	 * it is to be given by data(); else its @head bytes were taken, and for all
	 * others there will be calls of the three below, unless the tap ends first.
	 */
	bool (*begin)(void *opaque, const uint8_t *p, size_t len);
	/* Where bytes may be moved now: non-blocking, not TLS; or -1: give them by part() */
	int (*sink)(void *opaque);
	void (*moved)(void *opaque, size_t n);
	void (*part)(void *opaque, const uint8_t *p, size_t n);
	/* Whether to read nothing for now; the owner calls tap_go_on() soon. */
	bool (*hold)(void *opaque);
};

struct tap_ops {
	/* Payload of DATA messages, in any pieces. */
	void (*data)(void *opaque, const uint8_t *p, size_t n);
	/* The buffer was handed to the kernel, or dropped by tap_free(). */
	void (*written)(void *opaque, struct tap_buf *b);
	/* Wait for these events of a side (TAP_IN | TAP_OUT) from now on. */
	void (*watch)(void *opaque, enum tap_side side, unsigned int events);
	/* The library is moving the channel elsewhere: send no more through here. */
	void (*released)(void *opaque);
	/* Either side ended or broke the rules; call tap_free(), from here or later. */
	void (*ended)(void *opaque, const char *why);
	const struct tap_direct *direct;	/* or NULL */
};

/**
 * tap_new() - take over a connection
 * @net: the connection; taken over, made non-blocking
 * @lib: out: the end for the library
 * @release_at: type of a message to the library after which everything is passed
 *	on and nothing is taken out any more; 0: none
 * Return: NULL with errno, and @net left alone
 */
struct tap *tap_new(int net, int *lib, uint16_t release_at, const struct tap_ops *ops,
		    void *opaque);
void tap_start(struct tap *t);		/* watch() is called from here on */
/* Drops what is queued; the library's end then ends, too. The owner's watches go first. */
void tap_free(struct tap *t);
int tap_fd(const struct tap *t, enum tap_side side);

/* What was watched for happened. */
void tap_event(struct tap *t, enum tap_side side, unsigned int events);

void tap_go_on(struct tap *t);		/* after hold(); at any time */

/* Queues b, which stays the caller's until written(); tap_flush() sends. */
void tap_send(struct tap *t, struct tap_buf *b, size_t len);
void tap_flush(struct tap *t);
bool tap_idle(const struct tap *t);	/* nothing is queued */

#endif /* SPICEBD_SPICETAP_H */
