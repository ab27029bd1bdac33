/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What of a stranger's text may reach a person's line: one rule for terminals,
 * logs, names of media and the texts of the Spice wire.
 */
#ifndef SPICEBD_TEXT_H
#define SPICEBD_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * text_decode() - the first character of a UTF-8 string
 * @len: bytes at @s, at least 1
 * @cp: out
 * Return: its length in bytes; 0 when none stands there (also: not the shortest
 * form, a surrogate, beyond U+10FFFF, cut off)
 */
size_t text_decode(const void *s, size_t len, uint32_t *cp);

/**
 * text_is_control() - what could move, hide or break the line it is shown on
 *
 * C0, DEL, C1, line and paragraph separators, bidirectional controls.
 */
bool text_is_control(uint32_t cp);

/**
 * text_ok() - whether it is UTF-8 without such characters
 */
bool text_ok(const void *s, size_t len);

/**
 * text_clean() - make it so: '?' for each byte or character that is not
 * @out: out: NUL-terminated; cut before the character that does not fit; may
 *	be @s itself, as the text never grows
 * @size: of @out, at least 1
 * Return: length of the text in @out
 */
size_t text_clean(char *out, size_t size, const void *s, size_t len);

#endif /* SPICEBD_TEXT_H */
