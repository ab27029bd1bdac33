/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_HEX_H
#define SPICEBD_HEX_H

#include <stdbool.h>
#include <stddef.h>

/**
 * hex_encode() - bytes as lower-case hex digits
 * @out: 2 * @len + 1 bytes
 */
void hex_encode(const void *data, size_t len, char *out);

/**
 * hex_decode() - exactly 2 * @len hex digits of either case to @len bytes
 * Return: whether @text was that; if not, @out has any content
 */
bool hex_decode(const char *text, void *out, size_t len);

#endif /* SPICEBD_HEX_H */
