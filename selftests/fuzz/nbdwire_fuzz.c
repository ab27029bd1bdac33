// SPDX-License-Identifier: GPL-2.0-only
/*
 * A server that answers anything: the input is what it sends, in pieces of the
 * sizes that its first bytes tell, to four requests that are under way. Payload
 * must stay inside the buffers, and no request be answered twice.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "nbdwire.h"

#define NR	4
#define LEN	128

static int answered[NR];

static void done(void *owner, int error, void *arg)
{
	int *n = owner;

	if (++*n > 1)
		abort();
}

/* Handles are told apart by what the fuzzer can guess: use 1, places 0 to 3. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char drop[4096];
	uint8_t *buf[NR];
	struct wire *w;
	int sv[2];

	if (size < 2 || socketpair(AF_UNIX, SOCK_STREAM, 0, sv) < 0)
		return 0;
	w = wire_new(sv[0], data[0] & 1, done, NULL);
	memset(answered, 0, sizeof(answered));
	for (int i = 0; i < NR; i++) {
		/* Each alone, so that the sanitizer sees one byte too far. */
		buf[i] = calloc(1, LEN);
		wire_submit(w, i < 3 ? WIRE_READ : WIRE_WRITE, 0, 4096 * i, LEN, buf[i],
			    &answered[i]);
	}
	if (wire_send(w) < 0)
		abort();
	while (recv(sv[1], drop, sizeof(drop), MSG_DONTWAIT) > 0)
		;
	for (size_t at = 2, step = data[1] + 1; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		if (send(sv[1], data + at, n, MSG_DONTWAIT) != (ssize_t)n ||
		    wire_receive(w) < 0)
			break;
	}
	wire_free(w);
	for (int i = 0; i < NR; i++)
		free(buf[i]);
	close(sv[0]);
	close(sv[1]);
	return 0;
}
