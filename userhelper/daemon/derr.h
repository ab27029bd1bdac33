/* SPDX-License-Identifier: GPL-2.0-only */
/* An error on its way to the user: one line that says what, why, what to do. */
#ifndef SPICEBD_DERR_H
#define SPICEBD_DERR_H

#include "qmp.h"

struct derr {
	enum qmp_class cls;
	int code;		/* errno value */
	char text[512];
};

/* Return: -code; @e may be NULL. */
int derr_set(struct derr *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int derr_class(struct derr *e, enum qmp_class cls, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif /* SPICEBD_DERR_H */
