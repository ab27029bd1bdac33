/* SPDX-License-Identifier: GPL-2.0-only */
/* Starting a child that has what it needs, nothing else, and dies with us. */
#ifndef SPICEBD_CHILDPROC_H
#define SPICEBD_CHILDPROC_H

#include <stdbool.h>
#include <sys/types.h>

#include "errtext.h"

struct childproc_fd {
	int from, to;
};

/**
 * childproc_spawn() - start a program
 * @fds: the descriptors it gets beside 0 (null) and 1 and 2 (@err), which they
 *	may replace; each @from is above all @to
 * @cwd: descriptor of its working directory, or -1
 * @listens: descriptor 3 is a listening socket (LISTEN_FDS protocol)
 * @err: gets what it says
 * Return: pid or -errno
 */
pid_t childproc_spawn(char *const argv[], const struct childproc_fd *fds, int n_fds, int cwd,
		      bool listens, struct errtext *err);

#endif /* SPICEBD_CHILDPROC_H */
