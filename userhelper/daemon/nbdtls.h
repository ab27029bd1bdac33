/* SPDX-License-Identifier: GPL-2.0-only */
/* Who may be at the other end of nbds://. */
#ifndef SPICEBDD_NBDTLS_H
#define SPICEBDD_NBDTLS_H

#include <libnbd.h>

#include "derr.h"

/**
 * nbdtls_prepare() - before the connection: what its TLS is proven by
 *
 * libnbd takes any certificate if it finds no authority, and asks for no name on
 * a socket that is no host's. Here such a server is refused, unless the address
 * itself says tls-verify-peer=false. Nothing is done for addresses without TLS.
 * Return: 0 or -errno, told in @e
 */
int nbdtls_prepare(struct nbd_handle *h, const char *uri, struct derr *e);

#endif /* SPICEBDD_NBDTLS_H */
