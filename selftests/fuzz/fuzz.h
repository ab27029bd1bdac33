/* SPDX-License-Identifier: GPL-2.0-only */
/* What the fuzz targets share: an input read as a script, and a clock of its own. */
#ifndef SPICEBD_FUZZ_H
#define SPICEBD_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input is a script: what the other side does, step by step. */
struct script {
	const uint8_t *p;
	size_t left;
};

static inline uint8_t take8(struct script *s)
{
	if (!s->left)
		return 0;
	s->left--;
	return *s->p++;
}

static inline uint32_t take16(struct script *s)
{
	uint32_t v = take8(s);

	return v | take8(s) << 8;
}

static inline uint32_t take32(struct script *s)
{
	uint32_t v = take16(s);

	return v | take16(s) << 16;
}

/* At most @n bytes; a script that ends gives fewer. */
static inline const uint8_t *take_bytes(struct script *s, size_t *n)
{
	const uint8_t *p = s->p;

	if (*n > s->left)
		*n = s->left;
	s->p += *n;
	s->left -= *n;
	return p;
}

/* What must hold whatever the other side does. */
#define must(cond)								\
	do {									\
		if (!(cond)) {							\
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__,	\
				__LINE__, #cond);				\
			abort();						\
		}								\
	} while (0)

/* clock.c: now_ms() and random_bytes() of the program under test */
extern long long fuzz_now;
void fuzz_clock_reset(void);

/* clock.c: how many descriptors are open; the same before and after, or one was lost */
int open_fds(void);

#endif /* SPICEBD_FUZZ_H */
