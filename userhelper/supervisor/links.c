// SPDX-License-Identifier: GPL-2.0-only
/* Links: their listening sockets are ours, so a restart loses no address. */
#include "sup.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

static int bind_link(struct proc *p, const struct linkconf *c, char *err, size_t errlen)
{
	bool port = linkconf_is_port(c, NULL);
	char path[108];
	int *control = &p->fds[port ? 0 : 1];

	if (!port)
		p->fds[0] = linkconf_listen(c, err, errlen);
	if (!port && p->fds[0] < 0)
		return p->fds[0];
	p->fdnames = port ? "control" : "spice:control";
	/* As the link itself calls it. */
	if (!run_path(path, sizeof(path), "link/%s.%s", c->name,
		      c->relay[0] ? "relay" : "sock")) {
		snprintf(err, errlen, "the path of the link's socket is too long");
		return -ENAMETOOLONG;
	}
	*control = sock_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, 0600);
	if (*control < 0)
		snprintf(err, errlen, "cannot listen on %s: %s", path, strerror(-*control));
	return *control < 0 ? *control : 0;
}

int link_start(struct sup *s, const char *name, char *err, size_t errlen)
{
	struct linkconf c;
	struct proc *p;
	int r;

	r = linkconf_load(name, &c, err, errlen);
	if (r < 0)
		return r;
	if (proc_find(s, K_LINK, name)) {
		snprintf(err, errlen, "link \"%s\" runs already", name);
		return -EEXIST;
	}
	p = proc_new(s, K_LINK, name);
	if (!p) {
		snprintf(err, errlen, "there are %d links already", LINKCONF_LINKS_MAX);
		return -ENOSPC;
	}
	r = bind_link(p, &c, err, errlen);
	if (r < 0) {
		proc_free(s, p);
		return r;
	}
	p->keep = true;
	proc_start(s, p);
	return 0;
}

/* Those that appear later are told of by udev. */
static bool port_there(void)
{
	glob_t g = { 0 };
	bool there = glob(LINKCONF_PORT_DIR "/" LINKCONF_PORT_NAME ".*", 0, NULL, &g) == 0;

	globfree(&g);
	return there;
}

void links_start_all(struct sup *s)
{
	static char names[LINKCONF_LINKS_MAX][LINKCONF_NAME_MAX + 1];
	char err[256];
	int n;

	n = linkconf_list(names);
	if (n < 0)
		log_err("cannot read the link configurations: %s", strerror(-n));
	for (int i = 0; i < n; i++)
		if (link_start(s, names[i], err, sizeof(err)) < 0)
			log_err("link %s: %s", names[i], err);
	if (port_there() && !proc_find(s, K_LINK, LINKCONF_PORT_LINK) &&
	    link_start(s, LINKCONF_PORT_LINK, err, sizeof(err)) < 0)
		log_err("link %s: %s", LINKCONF_PORT_LINK, err);
}
