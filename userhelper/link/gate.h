/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The gate: who gets in. Accepts the connections of the Spice listener, looks
 * at what each one wants, and gives it to libspice-server or refuses it.
 *
 * libspice-server lets every new session throw out the one before it. Here a
 * person who is being served is not thrown out by the next.
 */
#ifndef SPICEBD_LINK_GATE_H
#define SPICEBD_LINK_GATE_H

#include <spice.h>
#include <stdbool.h>
#include <stdint.h>

struct gate_hooks {
	bool (*speaks)(void);			/* the client's share said hello and lives */
	unsigned int (*expected)(void);		/* ports that the client may still link */
	unsigned int (*linked)(void);		/* ports that it has linked */
	void (*client)(bool came, const char *who);
};

struct gate_params {
	int listener;
	bool tls;			/* and nothing else */
	unsigned int hello_timeout;	/* ms that a new client has to say hello */
};

bool gate_init(SpiceServer *server, const struct gate_params *params,
	       const struct gate_hooks *hooks);

/* From the core interface of libspice-server. */
void gate_channel_event(int event, SpiceChannelEventInfo *info);

void gate_replay(void);		/* tell hooks->client again who is here */
void gate_spoken(void);		/* the client's share said hello */
/*
 * For a char device's state(): the connection of the channel that is being
 * linked, if its messages can be told apart (short headers, no TLS); or -1.
 */
int gate_port_fd(void);
void gate_end_client(const char *why);

#endif /* SPICEBD_LINK_GATE_H */
