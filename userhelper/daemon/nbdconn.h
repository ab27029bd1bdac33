/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One NBD connection while it is set up: handshake, properties, and the few
 * reads that tell what the medium is. Each wait ends by the task's deadline.
 */
#ifndef SPICEBD_NBDCONN_H
#define SPICEBD_NBDCONN_H

#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>

#include "work.h"

#define NBD_DIGEST_LEN	32

enum medium_kind {
	KIND_UNKNOWN,
	KIND_CDROM,
	KIND_DISK,
};

/**
 * struct nbd_props - what an export says of itself
 * @digest: over name, size, flags, description and, if the server says that it
 *	is read-only, some blocks: two exports with different digests are
 *	different media
 * @rtt_us: how long the smallest read took, us: about a round trip
 */
struct nbd_props {
	uint64_t size;
	bool read_only, flush, fua, trim, zero, multi, rotational;
	uint32_t min_block, pref_block, max_payload;
	uint8_t digest[NBD_DIGEST_LEN];
	uint32_t rtt_us;
};

/**
 * nbdconn_socket() - handshake over a connected socket, which is taken over
 * nbdconn_uri() - connect and handshake
 * @export: name of the export, or NULL for the default one
 * Return: handle that is ready for transmission, or NULL with @e filled in
 */
struct nbd_handle *nbdconn_socket(int fd, struct task *t, struct derr *e);
struct nbd_handle *nbdconn_uri(const char *uri, struct task *t, struct derr *e);

int nbdconn_props(struct nbd_handle *h, struct nbd_props *p, struct task *t, struct derr *e);
int nbdconn_kind(struct nbd_handle *h, uint64_t size, enum medium_kind *kind,
		 struct task *t, struct derr *e);

#endif /* SPICEBD_NBDCONN_H */
