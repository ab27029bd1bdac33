/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What systemd keeps while a link is started again: its listening sockets, so
 * that a client that connects meanwhile waits instead of being refused. Under
 * anybody else (NOTIFY_SOCKET unset) all of it does nothing.
 */
#ifndef SPICEBD_LINK_KEEP_H
#define SPICEBD_LINK_KEEP_H

/**
 * keep_take() - the socket that a predecessor or the starter left for us
 * @name: as in LISTEN_FDNAMES
 * @address: where it is to listen: HOST:PORT, [v6]:PORT or unix:/PATH
 *
 * One that systemd kept and that listens elsewhere, since the configuration was
 * changed or its file was removed, is given up.
 * Return: descriptor or -1
 */
int keep_take(const char *name, const char *address);

/**
 * keep_store() - have @fd kept; it comes back as @name
 */
void keep_store(const char *name, int fd);

/**
 * keep_ready_prepare() - before the sandbox, which forbids new sockets
 */
void keep_ready_prepare(void);

/**
 * keep_ready() - tell systemd that we serve
 */
void keep_ready(void);

#endif /* SPICEBD_LINK_KEEP_H */
