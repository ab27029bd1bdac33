// SPDX-License-Identifier: GPL-2.0-only
#include "tlsguard.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/ssl.h>
#include <spice/protocol.h>

#include "log.h"

#define TICKET_LEN	(SPICE_TICKET_KEY_PAIR_LENGTH / 8)
#define SHORT_HEADER	6	/* type, length */
#define FULL_HEADER	18	/* serial, type, length, sub list */
#define MSG_COMPRESSED	102	/* of a port; never agreed on */
#define CHANNEL_TYPE	4	/* its place in the link message */

const char *(*tlsguard_judge)(uint32_t session, uint8_t channel_type);
void (*tlsguard_refused)(int fd);

static uint16_t get16(const uint8_t *p)
{
	return p[0] | p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static void expect(struct tlsguard *g, enum tlsguard_state state, uint32_t n)
{
	g->state = state;
	g->left = n;
	g->have = 0;
}

static void expect_header(struct tlsguard *g)
{
	expect(g, TLSGUARD_HEADER, g->full_headers ? FULL_HEADER : SHORT_HEADER);
}

void tlsguard_init(struct tlsguard *g)
{
	memset(g, 0, sizeof(*g));
	expect(g, TLSGUARD_LINK, sizeof(SpiceLinkHeader));
}

/* A client's first word of common capabilities; what is malformed has none. */
static uint32_t capabilities(const struct tlsguard *g)
{
	SpiceLinkMess m;
	uint32_t offset;

	memcpy(&m, g->head, sizeof(m));
	offset = get32((const uint8_t *)&m.caps_offset);
	if (!m.num_common_caps || offset > g->have || g->have - offset < sizeof(uint32_t))
		return 0;
	return get32(g->head + offset);
}

static const char *linked(struct tlsguard *g)
{
	uint32_t size = get32(g->head + 12);

	if (size < sizeof(SpiceLinkMess) || size > TLSGUARD_LINK_MAX)
		return "a link message of an impossible length";
	expect(g, TLSGUARD_MESS, size);
	return NULL;
}

static const char *chose(struct tlsguard *g)
{
	uint32_t caps = capabilities(g);
	bool selects = caps & 1u << SPICE_COMMON_CAP_PROTOCOL_AUTH_SELECTION;

	const char *why = tlsguard_judge ? tlsguard_judge(get32(g->head), g->head[CHANNEL_TYPE]) :
					   NULL;

	g->full_headers = !(caps & 1u << SPICE_COMMON_CAP_MINI_HEADER);
	expect(g, TLSGUARD_AUTH, TICKET_LEN + (selects ? sizeof(uint32_t) : 0));
	return why;
}

static const char *begun(struct tlsguard *g)
{
	const uint8_t *h = g->head + (g->full_headers ? 8 : 0);
	uint32_t size = get32(h + 2);

	if (size > TLSGUARD_MESSAGE_MAX || get16(h) == MSG_COMPRESSED)
		return "a Spice message that is not allowed here";
	if (size)
		expect(g, TLSGUARD_BODY, size);
	else
		expect_header(g);
	return NULL;
}

static const char *next(struct tlsguard *g)
{
	switch (g->state) {
	case TLSGUARD_LINK:
		return linked(g);
	case TLSGUARD_MESS:
		return chose(g);
	case TLSGUARD_HEADER:
		return begun(g);
	default:
		expect_header(g);
		return NULL;
	}
}

const char *tlsguard_feed(struct tlsguard *g, const uint8_t *p, size_t n)
{
	uint32_t k;

	while (n && !g->refused) {
		k = n < g->left ? n : g->left;
		if (g->state != TLSGUARD_AUTH && g->state != TLSGUARD_BODY)
			memcpy(g->head + g->have, p, k);
		g->have += k;
		g->left -= k;
		p += k;
		n -= k;
		if (!g->left)
			g->refused = next(g);
	}
	return g->refused;
}

/* ---- in the way of libspice-server */

static void guard_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl,
		       void *argp)
{
	free(ptr);
}

static int guard_index(void)
{
	static int index = -1;

	if (index < 0)
		index = SSL_get_ex_new_index(0, NULL, NULL, NULL, guard_free);
	return index;
}

/* One for each connection; it goes with it. */
static struct tlsguard *guard_of(SSL *ssl)
{
	struct tlsguard *g = SSL_get_ex_data(ssl, guard_index());

	if (g)
		return g;
	g = malloc(sizeof(*g));
	if (!g || !SSL_set_ex_data(ssl, guard_index(), g)) {
		free(g);
		return NULL;
	}
	tlsguard_init(g);
	return g;
}

static int refuse(const char *why)
{
	errno = EPROTO;
	if (why)
		log_warn("%s: the client is disconnected", why);
	return -1;
}

/*
 * A header is looked at before the library sees it: the bytes that would make it
 * allocate are never handed on.
 */
int SSL_read(SSL *ssl, void *buf, int len)
{
	static int (*real)(SSL *ssl, void *buf, int len);
	struct tlsguard *g = guard_of(ssl);
	int n;

	if (!real)
		real = (int (*)(SSL *, void *, int))dlsym(RTLD_NEXT, "SSL_read");
	if (!real)
		abort();
	if (!g || g->refused)
		return refuse(g ? NULL : "out of memory");
	n = real(ssl, buf, len);
	if (n <= 0 || !tlsguard_feed(g, buf, n))
		return n;
	if (tlsguard_refused)
		tlsguard_refused(SSL_get_fd(ssl));
	return refuse(g->refused);
}
