/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd-nbdkit: one medium, one nbdkit process at a time, one owner: us.
 *
 * The NBD socket is ours and is only lent to each nbdkit, so that connections
 * wait in its backlog while one is fenced and the next is started.
 */
#ifndef SPICEBD_NBDKIT_SERVER_H
#define SPICEBD_NBDKIT_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "childproc.h"
#include "errtext.h"
#include "nbdkitproto.h"

#define PEERS_MAX	8
#define RESTARTS_MAX	5		/* in RESTART_WINDOW_MS */
#define RESTART_WINDOW_MS 60000
#define START_TIMEOUT_MS 15000		/* from fork to an answered handshake */
#define KILL_TIMEOUT_MS	10000		/* then FENCE and STOP answer with an error */
#define IMAGE_TIMEOUT_MS 600000		/* making the image of a folder */
#define JOB_TIMEOUT_MS	10000		/* from our start to the job */

/* The handshake by which a new nbdkit shows that it serves the medium. */
struct probe {
	int fd;				/* -1: none */
	int step;
	uint8_t buf[256];
	size_t len;
	size_t skip;			/* bytes of a reply that are of no interest */
};

enum probe_result { PROBE_WAIT, PROBE_OK, PROBE_REFUSED, PROBE_BROKEN };

struct peer {
	int fd;				/* -1: free */
	uint32_t waits;			/* NBDKIT_CTL_FENCE or _STOP to be answered; 0 */
};

enum state {
	ST_IMAGE,			/* pid makes the image of a folder */
	ST_STARTING,			/* pid is nbdkit, not proven yet */
	ST_RUNNING,
	ST_DYING,			/* pid was killed, not reaped yet */
	ST_BACKOFF,			/* no pid; starts again at the deadline */
	ST_DONE,			/* no pid; the loop ends */
};

struct server {
	struct nbdkit_job job;
	int medium_fd, listen_fd, ctl_fd, lock_fd, sig_fd;
	int image_fd;			/* being made from the folder; -1 */
	enum state state;
	pid_t pid;
	uint8_t incarnation[16];
	long long deadline;		/* of the state; -1: none */
	bool answered;			/* the job has its answer: we outlive the asker */
	bool locked;			/* our memory is, so nbdkit can lock its own */
	bool stopping;			/* ends when pid is gone */
	int exit_status;
	uint32_t fail_error;		/* why this start failed; 0 */
	char fail_text[228];
	long long restarts[RESTARTS_MAX];
	unsigned int n_restarts;
	struct errtext err;
	struct probe probe;
	struct peer peers[PEERS_MAX];	/* [0]: the one who gave the job */
};

/* job.c */
int job_receive(int sock, struct nbdkit_job *job, int *medium_fd, struct nbdkit_answer *a);
int job_check_medium(const struct nbdkit_job *job, int fd, struct nbdkit_answer *a);
void answer_error(struct nbdkit_answer *a, int error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* paths.c: what there is in the file system for one ID */
int paths_claim(struct server *s, struct nbdkit_answer *a);
void paths_release(struct server *s);
int paths_connect(const struct server *s);

/* image.c */
int image_start(struct server *s, struct nbdkit_answer *a);
void image_finish(struct server *s);

/* child.c */
int child_start(struct server *s);

/* probe.c */
int probe_begin(struct probe *p, const struct server *s);
enum probe_result probe_step(struct probe *p);
void probe_end(struct probe *p);

/* server.c */
void server_run(struct server *s);
void server_begin(struct server *s);
void server_fence(struct server *s);
void server_stop(struct server *s, int exit_status);

/* peers.c */
void peers_accept(struct server *s);
void peers_read(struct server *s, struct peer *p);
void peers_answer(struct server *s, uint32_t cmd, uint32_t error, const char *text);
void peers_close(struct peer *p);

#endif /* SPICEBD_NBDKIT_SERVER_H */
