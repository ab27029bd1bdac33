// SPDX-License-Identifier: GPL-2.0-only
/*
 * nbdkit.sock and export.sock: each connection becomes descriptor 3 of one
 * spicebd-nbdkit or spicebd-export.
 */
#include "sup.h"

#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

void accepted_start(struct sup *s, int listener, enum kind kind)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct proc *p;

	if (fd < 0)
		return;
	p = s->phase == RUN ? proc_new(s, kind, "") : NULL;
	if (!p) {
		log_warn("more than %d %s: one refused",
			 kind == K_EXPORT ? EXPORT_SERVERS_MAX : NBDKITS_MAX,
			 kind == K_EXPORT ? "NBD servers" : "local media");
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
