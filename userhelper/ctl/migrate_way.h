/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_MIGRATE_WAY_H
#define SPICEBD_MIGRATE_WAY_H

#include <sys/types.h>

#include "ctl.h"

/**
 * migrate_way() - a stream to another spicebdd
 * @uri: unix:PATH, ssh://[USER@]HOST[:PORT] or tls://HOST:PORT
 * @certificates: folder for TLS, or NULL: where they are by default
 * @pid: out: the program that makes the way, or -1
 * Return: descriptor, or negative with @f set
 */
int migrate_way(const char *uri, const char *certificates, pid_t *pid, struct fault *f);
void migrate_way_end(int fd, pid_t pid);

#endif /* SPICEBD_MIGRATE_WAY_H */
