// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-nbdkit's look at whether its nbdkit serves: whatever answers there, in
 * pieces, ends in one of four results and in bounded memory.
 */
#include <errno.h>
#include <sys/socket.h>

#include "fuzz.h"
#include "server.h"

static int near_end;

int paths_connect(const struct server *s)
{
	return near_end;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	static struct server server;
	struct probe p = { .fd = -1 };
	enum probe_result r = PROBE_WAIT;
	int sv[2], fds = open_fds();

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
	near_end = sv[0];
	must(probe_begin(&p, &server) == 0);
	while (s.left && r == PROBE_WAIT) {
		size_t n = take8(&s);
		const uint8_t *b = take_bytes(&s, &n);

		(void)!send(sv[1], b, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		r = probe_step(&p);
		must(r == PROBE_WAIT || r == PROBE_OK || r == PROBE_REFUSED || r == PROBE_BROKEN);
		must(p.len <= sizeof(p.buf));
	}
	probe_end(&p);
	close(sv[1]);
	must(open_fds() == fds);
	return 0;
}
