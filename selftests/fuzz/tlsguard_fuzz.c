// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a client says inside TLS, as far as the link follows it: the verdict is the
 * same however the bytes are cut, and no message that passed is too long.
 */
#include "fuzz.h"
#include "tlsguard.h"

static const char *feed(struct tlsguard *g, const uint8_t *p, size_t n, size_t step)
{
	const char *why = NULL;

	tlsguard_init(g);
	while (n) {
		size_t k = n < step ? n : step;
		uint8_t *copy = malloc(k);

		memcpy(copy, p, k);
		why = tlsguard_feed(g, copy, k);
		free(copy);
		must(why || g->left);
		must(g->left <= TLSGUARD_MESSAGE_MAX && g->have <= TLSGUARD_MESSAGE_MAX);
		p += k;
		n -= k;
	}
	return why;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct tlsguard a, b;
	const char *why;

	if (!size)
		return 0;
	why = feed(&a, data + 1, size - 1, 1 + data[0]);
	must(feed(&b, data + 1, size - 1, size) == why);
	must(why || (a.state == b.state && a.left == b.left));
	return 0;
}
