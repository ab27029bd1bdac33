/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a medium is to be made near: as the administrator said, for one medium or
 * by spicebdd's environment for all, and what that means for it.
 */
#ifndef SPICEBD_FAROPTS_H
#define SPICEBD_FAROPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "derr.h"

/* Values beside a number of bytes. */
#define FAR_UNSET	0		/* as spicebdd's environment says, else auto */
#define FAR_AUTO	(-1)
#define FAR_OFF		(-2)

/**
 * struct faropts - what is wanted
 * @cache: memory for what is fetched ahead of a read-only medium's readers
 * @read_ahead: of the kernel
 */
struct faropts {
	int64_t cache;
	int64_t read_ahead;
};

/**
 * faropts_cache(), faropts_read_ahead() - from "auto", "off" or a size
 * @text: NULL is FAR_UNSET; a size may end in K, M or G
 */
int faropts_cache(const char *text, int64_t *out, struct derr *e);
int faropts_read_ahead(const char *text, int64_t *out, struct derr *e);

/* With what spicebdd's environment says in the place of FAR_UNSET. */
struct faropts faropts_resolve(const struct faropts *o);

/**
 * faropts_cache_bytes() - memory for a cache, 0: none
 * @read_only: nothing is written through this drive
 * @store_read_only: nor can anybody else who asks that server
 * @rtt: us
 */
uint32_t faropts_cache_bytes(const struct faropts *o, bool read_only, bool store_read_only,
			     uint32_t rtt);

/* The first read-ahead, when nothing but the round trip is known; 0: the kernel's own. */
uint32_t faropts_first_read_ahead(const struct faropts *o, uint32_t rtt);

/* Whether the path has to be measured. */
bool faropts_measure(const struct faropts *o, uint32_t rtt);

#endif /* SPICEBD_FAROPTS_H */
