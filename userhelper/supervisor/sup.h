/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd-supervisor: owns the listening sockets of spicebdd, of the links and
 * of spicebd-nbdkit and spicebd-export, so that they outlive them, and starts these programs.
 */
#ifndef SPICEBD_SUPERVISOR_H
#define SPICEBD_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "linkconf.h"

#define NBDKITS_MAX	128
#define EXPORT_SERVERS_MAX	8
#define PROCS_MAX	(1 + LINKCONF_LINKS_MAX + NBDKITS_MAX + EXPORT_SERVERS_MAX)
#define PEERS_MAX	16
#define REQUEST_MAX	256

#define BACKOFF_MIN_MS	100
#define BACKOFF_MAX_MS	5000
#define GOOD_LIFE_MS	10000		/* a life this long resets the backoff */
#define READY_TIMEOUT_MS 15000		/* --detach: until spicebdd answers */
#define READY_DEATHS	4		/* ... or has died so often */
#define LINK_EXIT_CONFIG 2		/* spicebd-link: its configuration is wrong */
#define LOG_FILE_MAX	(4 << 20)

enum kind { K_NONE, K_DAEMON, K_LINK, K_NBDKIT, K_EXPORT };

/* A program to be kept running (daemon, links) or once started (nbdkits, exports). */
struct proc {
	enum kind kind;
	char name[LINKCONF_NAME_MAX + 1];	/* of a link */
	pid_t pid;			/* 0: does not run */
	int fds[2];			/* its listening sockets: LISTEN_FDNAMES order */
	const char *fdnames;
	bool keep;			/* start it again when it dies */
	bool on_demand;			/* it ended well: a connection starts it */
	long long started, due;		/* ms; due: of the next start, 0: none */
	long long kill_at;		/* it was asked to end; SIGKILL then; 0: no */
	int backoff;
};

struct peer {
	int fd;				/* -1: free */
	struct proc *awaits;		/* link-stop: answered when it is gone */
	bool stop;			/* stop: answered last */
};

enum phase { RUN, END_DAEMON, END_EXPORTS, END_LINKS, END_NBDKITS, END };

struct sup {
	int lock_fd, sig_fd, request_fd, nbdkit_fd, export_fd, log_fd;
	int ready_fd;			/* to the process that detached us; -1 */
	enum phase phase;
	unsigned int daemon_deaths;
	struct proc procs[PROCS_MAX];
	struct peer peers[PEERS_MAX];
};

/* main.c */
extern bool debug;

/* sockets.c */
int sockets_dirs(char *err, size_t errlen);
int sockets_lock(void);
int sockets_bind(struct sup *s, char *err, size_t errlen);
void socket_remove(int fd);

/* procs.c */
struct proc *proc_new(struct sup *s, enum kind kind, const char *name);
struct proc *proc_find(struct sup *s, enum kind kind, const char *name);
void proc_free(struct sup *s, struct proc *p);
void proc_start(struct sup *s, struct proc *p);
void proc_end(struct proc *p, int grace_ms);
void procs_reap(struct sup *s);
void procs_timers(struct sup *s);
long long procs_next_due(const struct sup *s);

/* spawn.c */
pid_t spawn(const char *program, const char *arg, const int *fds, int n_fds,
	    const char *fdnames, bool dies_with_us);

/* leftover.c: children of a supervisor that was killed */
void leftover_end(void);
void leftover_record(const struct sup *s);
void leftover_forget(void);
void leftover_stop_servers(void);

/* links.c */
int link_start(struct sup *s, const char *name, char *err, size_t errlen);
void links_start_all(struct sup *s);

/* accepted.c */
void accepted_start(struct sup *s, int listener, enum kind kind);

/* requests.c */
void requests_accept(struct sup *s);
void requests_read(struct sup *s, struct peer *p);
void requests_proc_gone(struct sup *s, struct proc *p);
void requests_stopped(struct sup *s);
void peer_close(struct peer *p);
int request_send(const char *text, char *answer, size_t size, int timeout_ms);

/* loop.c */
void loop_run(struct sup *s);
void loop_stop(struct sup *s);

/* detach.c */
int detach(int *ready_fd, char *err, size_t errlen);
int await_ready(int ready_fd, pid_t pid);
int log_open(void);
void log_bound(struct sup *s);

#endif /* SPICEBD_SUPERVISOR_H */
