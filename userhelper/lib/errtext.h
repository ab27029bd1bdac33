/* SPDX-License-Identifier: GPL-2.0-only */
/* What a child says on stderr: each line is logged, the last one kept. */
#ifndef SPICEBD_ERRTEXT_H
#define SPICEBD_ERRTEXT_H

#include <stddef.h>

/**
 * struct errtext - the lines of one child
 * @fd: pipe, non-blocking; -1
 * @last: the last line
 */
struct errtext {
	int fd;
	char line[512];
	size_t len;
	char last[200];
};

/* Take what there is, a bounded bite of it. */
void errtext_read(struct errtext *e);

/* The child is gone: the rest, and the end of the pipe. */
void errtext_finish(struct errtext *e);

#endif /* SPICEBD_ERRTEXT_H */
