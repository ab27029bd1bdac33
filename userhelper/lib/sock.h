/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Unix sockets and descriptors, as all programs need them. Every descriptor is
 * close-on-exec: a netlink or lock descriptor that a child inherits would hide
 * its owner's death.
 */
#ifndef SPICEBD_SOCK_H
#define SPICEBD_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/**
 * run_dir() - SPICEBD_RUN_DIR or /run/spicebd
 */
const char *run_dir(void);

/**
 * run_path() - path below run_dir()
 * @buf: at least 108 bytes: what a unix socket's address holds
 * Return: @buf, or NULL when it does not fit (errno ENAMETOOLONG)
 */
char *run_path(char *buf, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * sock_listen() - bind and listen on a unix socket
 * @path: removed first if it is a socket nobody listens on; if somebody does,
 *	-EADDRINUSE
 * @type: SOCK_STREAM or SOCK_SEQPACKET, also SOCK_NONBLOCK
 * @mode: of the socket's file, set before anybody can connect
 * Return: descriptor or -errno
 */
int sock_listen(const char *path, int type, mode_t mode);

/**
 * sock_remove_dead() - remove a socket on which nobody listens
 * Return: 0, also when nothing is there; -EEXIST: that is no socket; -EADDRINUSE:
 *	somebody listens; or -errno
 */
int sock_remove_dead(const char *path);

/**
 * sock_connect() - connect to a unix socket
 * Return: descriptor (close-on-exec; blocking unless SOCK_NONBLOCK) or -errno
 */
int sock_connect(const char *path, int type);

/**
 * sock_send_fd() - send one datagram or chunk with at most one descriptor
 * @fd: descriptor or -1
 * Return: bytes sent or -errno
 */
ssize_t sock_send_fd(int sock, const void *data, size_t len, int fd);

/**
 * sock_recv_fd() - receive one, with at most one descriptor
 * @fd: out: descriptor (close-on-exec) or -1; more than one: all are closed and
 *	-EPROTO comes back
 * Return: bytes, 0 at the end, or -errno. A datagram that did not fit: -EMSGSIZE
 */
ssize_t sock_recv_fd(int sock, void *data, size_t len, int *fd);

/**
 * sock_send_fds(), sock_recv_fds() - the same with up to SOCK_FDS_MAX descriptors
 * @fd: of the second, out: room for @max of them
 * @n: out: how many came; more than @max: all are closed, -EPROTO
 */
#define SOCK_FDS_MAX 16
ssize_t sock_send_fds(int sock, const void *data, size_t len, const int *fd, unsigned int n);
ssize_t sock_recv_fds(int sock, void *data, size_t len, int *fd, unsigned int max,
		      unsigned int *n);

/**
 * listen_fd_named() - a socket passed by the starter (LISTEN_FDS protocol)
 * @name: as in LISTEN_FDNAMES
 * Return: descriptor (close-on-exec) or -1
 */
int listen_fd_named(const char *name);

/* random bytes; never fails (aborts when the kernel has none) */
void random_bytes(void *buf, size_t len);

/* monotonic milliseconds */
long long now_ms(void);

#endif /* SPICEBD_SOCK_H */
