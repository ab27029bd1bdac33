/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPICEBD_PROGRAM_H
#define SPICEBD_PROGRAM_H

#include <stddef.h>

/**
 * program_path() - where another of our programs is, for execvp()
 *
 * In SPICEBD_BIN_DIR if that is set; else beside our own executable or in
 * ../sbin of it, by its name in /proc rather than argv[0], which the caller
 * chooses; else the bare name, which PATH decides.
 */
void program_path(const char *name, char *path, size_t size);

/**
 * program_object_path() - where a shared object of ours is
 *
 * Beside this program (as built), or in lib/spicebd beside its directory.
 */
void program_object_path(const char *name, char *path, size_t size);

#endif /* SPICEBD_PROGRAM_H */
