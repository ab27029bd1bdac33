// SPDX-License-Identifier: GPL-2.0-only
/* nbdkit.sock: each connection becomes descriptor 3 of one spicebd-nbdkit. */
#include "sup.h"

#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

void nbdkit_accept(struct sup *s)
{
	int fd = accept4(s->nbdkit_fd, NULL, NULL, SOCK_CLOEXEC);
	struct proc *p;

	if (fd < 0)
		return;
	p = s->phase == RUN ? proc_new(s, K_NBDKIT, "") : NULL;
	if (!p) {
		log_warn("more than %d local media: one refused", NBDKITS_MAX);
		close(fd);
		return;
	}
	p->fds[0] = fd;
	proc_start(s, p);
	/* The asker must see the child's death: the child alone holds it. */
	close(fd);
	p->fds[0] = -1;
	if (!p->pid)
		proc_free(s, p);
}
