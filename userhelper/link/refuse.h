/* SPDX-License-Identifier: GPL-2.0-only */
/* System calls that the sandbox refuses: each is logged, once. */
#ifndef SPICEBD_LINK_REFUSE_H
#define SPICEBD_LINK_REFUSE_H

#include <stdbool.h>
#include <stddef.h>

/**
 * refuse_init() - take the signal that SCMP_ACT_TRAP sends
 * @fail: calls that fail with EPERM; any other ends the process
 * @n: how many; the list must stay
 *
 * Who has taken the process over may take the signal back; the call that is
 * refused is not made in any case.
 * Return: false with errno
 */
bool refuse_init(const int *fail, size_t n);

#endif /* SPICEBD_LINK_REFUSE_H */
