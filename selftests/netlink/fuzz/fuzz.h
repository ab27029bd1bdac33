/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * netlink_fuzz: what its files share
 *
 * message.c makes one message, actor.c is a process that sends them on several
 * sockets, main.c starts the actors and says what came of it, io.c is the
 * traffic on drives that must not notice.
 */
#ifndef NETLINK_FUZZ_H
#define NETLINK_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Actors may do what they like to these drives, and to all but the safe ones. */
#define WILD_FIRST	2
#define WILD_NR		4
/* Served by good helpers, with traffic that is verified. */
#define SAFE_FIRST	62

#define MAX_ERRNO	140
#define MAX_CMDS	32
#define KEY_LEN		16
#define NR_KEYS		16
#define NR_COOKIES	64
#define SOCKETS		4
#define MSG_MAX		16384

enum kind { KIND_U32, KIND_S32, KIND_U64, KIND_FLAG, KIND_BINARY, KIND_STRING, KIND_NEST };

struct attr_spec {
	const char *name;
	uint16_t type;
	enum kind kind;
	int64_t min;
	uint64_t max;
	const struct attr_spec *nest;
	int nr_nest;
};

struct cmd_spec {
	const char *name;
	uint8_t cmd;
	const struct attr_spec *attrs;
	int nr_attrs;
};

extern const struct cmd_spec *const fuzz_commands;
extern const int fuzz_nr_commands;

/* A request that a bound socket was given. */
struct cookie {
	uint64_t cookie;
	uint32_t op;
	uint32_t length;
	unsigned int socket;
	bool listed;	/* its payload is in registered memory */
};

/* What an actor knows, and puts into messages. */
struct knows {
	uint64_t rnd;
	bool privileged;
	bool good;		/* messages that ought to succeed */
	bool registers;		/* ... memory, if it binds a socket */
	bool serving;		/* answers only */
	uint32_t drive;		/* ... on this one */
	uint8_t keys[NR_KEYS][KEY_LEN];
	unsigned int nr_keys;
	/* the oldest are overwritten; nr counts all there ever were */
	struct cookie cookies[NR_COOKIES];
	uint64_t nr_cookies;
	unsigned int socket;	/* where the message will go */
	struct cookie now;	/* what it is about */
	void *memory;
	size_t memory_len;
};

uint64_t fuzz_random(struct knows *k);
uint32_t fuzz_below(struct knows *k, uint32_t n);
/* With a chance of 1 in @n. */
bool fuzz_one_in(struct knows *k, uint32_t n);
/* A request of this socket, more likely a new one; or any, if it had none. */
struct cookie fuzz_cookie(struct knows *k, unsigned int socket);

/*
 * A message, with its padding; its length is returned. @last: none follows in
 * its datagram, so its header may lie about its length. *cmd: which of
 * fuzz_commands it began as.
 */
size_t fuzz_message(struct knows *k, uint8_t *buf, uint16_t family, uint32_t seq, bool last,
		    int *cmd);

/* A message with this command that ought to succeed, on drive @drive. */
size_t fuzz_good_message(struct knows *k, uint8_t *buf, uint16_t family, uint32_t seq,
			 uint8_t cmd, uint32_t drive, int *place);

/* Counters of one actor, in memory that all share. */
struct counts {
	uint64_t sent, answered;
	uint64_t error[MAX_ERRNO];
	uint64_t done[MAX_CMDS];	/* by place in fuzz_commands: succeeded */
	uint64_t requests;		/* given to its bound sockets */
};

enum role { ROLE_MANAGER, ROLE_SCOPED, ROLE_NOBODY, ROLE_NAMESPACE, ROLES };

/* Sends until *stop is set; @number: among all actors. */
int fuzz_actor(enum role role, unsigned int number, uint64_t seed, struct counts *c, int *stop);

int fuzz_io(int nr, char **devices, uint64_t seed);

#endif
