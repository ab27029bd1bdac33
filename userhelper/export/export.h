/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd-export: an NBD server's listening sockets, the table of its exports,
 * and one nbdkit for each client, so that one client can be ended, and shown to
 * have ended, without any other.
 *
 * What an export is made of only spicebdd knows: for each client that opens one
 * it is asked for a connected stream. While no spicebdd runs, the clients that
 * are there go on, and those that come wait for it.
 */
#ifndef SPICEBD_EXPORT_H
#define SPICEBD_EXPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "errtext.h"
#include "exportproto.h"

#define LISTENERS_MAX	8
#define JOB_TIMEOUT_MS	10000
#define HANDSHAKE_MS	30000		/* a client without an export is sent away */
#define STREAM_MS	15000		/* spicebdd finds a stream, or is started again */
#define END_MS		10000		/* a nbdkit whose client has gone */

/**
 * struct exp - an export
 * @number: spicebdd's; 0: this place is free
 * @confirmed: named since the last SYNC_BEGIN
 * @removing: nobody opens it any more; it goes with its last client
 * @del_tag: whom to tell then; 0: nobody
 * @told: number of clients that spicebdd knows of
 */
struct exp {
	uint32_t number;
	uint32_t flags;
	char *name, *description;
	bool confirmed, removing;
	uint32_t del_tag;
	uint32_t told;
};

/**
 * struct client - a connection and its nbdkit
 * @pid: 0: this place is free
 * @sock: the connection, to see its end and to make it
 * @ctl: to the plugin
 * @number: the export that it has open; 0
 * @tag: of the stream asked for; 0
 * @gone: the connection is over, the process not yet
 * @deadline: it is killed then; -1
 */
struct client {
	pid_t pid;
	int sock, ctl;
	uint32_t number;
	uint32_t tag;
	bool gone;
	long long deadline;
	struct errtext err;
};

struct server {
	struct export_job job;
	int listeners[LISTENERS_MAX];
	int n_listeners;
	struct stat file;		/* of the unix socket, to know it again */
	bool bound;
	int ctl_fd, lock_fd, sig_fd;
	int owner;			/* spicebdd; -1 */
	uint32_t next_tag;
	bool stopping;
	uint32_t stop_tag;
	long long stop_deadline;
	struct exp exports[EXPORTS_MAX];
	struct client clients[EXPORT_CLIENTS_MAX];
};

/* listen.c */
int listen_open(struct server *s, char *err, size_t errlen);
void listen_close(struct server *s);

/* paths.c: export/ID.ctl and .lock in the run directory */
int paths_claim(struct server *s, char *err, size_t errlen);
void paths_release(struct server *s);

/* table.c */
struct exp *exp_by_number(struct server *s, uint32_t number);
struct exp *exp_by_name(struct server *s, const char *name);
struct exp *exp_by_index(struct server *s, uint32_t index);
uint32_t exp_clients(const struct server *s, const struct exp *e);
void exp_add(struct server *s, const struct export_ctl *c);
void exp_del(struct server *s, const struct export_ctl *c);
void exp_sync_begin(struct server *s);
void exp_sync_end(struct server *s, uint32_t tag);
/* Tell spicebdd of changed numbers, and end what waits for its last client. */
void exps_settle(struct server *s);

/* clients.c */
void clients_accept(struct server *s, int listener);
bool clients_full(const struct server *s);
bool clients_any(const struct server *s);
void client_hang_up(struct client *c);
/* Has it hung up? */
void client_look(struct client *c);
void client_expire(struct server *s, struct client *c);
void clients_reap(struct server *s);

/* requests.c: the plugins' questions */
void requests_read(struct server *s, struct client *c);
void requests_stream(struct server *s, const struct export_ctl *ctl, const int *fd,
		     unsigned int n);
void requests_ask_again(struct server *s);
void requests_expired(struct server *s, struct client *c);

/* owner.c: spicebdd */
void owner_accept(struct server *s);
void owner_read(struct server *s);
void owner_send(struct server *s, uint32_t event, uint32_t tag, uint32_t number,
		uint32_t error, uint32_t clients, const char *text);
void owner_close(struct server *s);

/* loop.c */
void server_run(struct server *s);
void server_stop(struct server *s, uint32_t tag);

#endif /* SPICEBD_EXPORT_H */
