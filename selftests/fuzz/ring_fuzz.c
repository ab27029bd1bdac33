// SPDX-License-Identifier: GPL-2.0-only
/*
 * The messages of a queue socket as spicebdd takes them, built from the script
 * by attributes or as raw bytes, and answers to what came of them. A hostile
 * kernel is no threat; a length that is believed would be a fault all the same.
 *
 * What must hold: a request lies inside the ring's memory and within the largest
 * size, and no slot is given out twice.
 */
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "fuzz.h"
#include "ring.h"

#define FAMILY	42
#define MAX_IO	(256 * 1024)
#define CREDIT	4
#define MEMORY	(1u << 20)

static struct ring_slot *given[CREDIT];
static struct ring *ring;
static int peer;

static void on_request(struct ring_slot *slot, void *arg)
{
	volatile uint8_t *end;

	must(slot->state == RING_GIVEN);
	if (slot->op == SPICEBD_OP_READ || slot->op == SPICEBD_OP_WRITE) {
		must(slot->length && slot->length <= MAX_IO);
		end = slot->buf + slot->length - 1;
		slot->buf[0] ^= *end;
		*end = 1;
	}
	for (int i = 0; i < CREDIT; i++)
		must(given[i] != slot);
	for (int i = 0; i < CREDIT; i++) {
		if (given[i])
			continue;
		given[i] = slot;
		return;
	}
	must(!"more requests than slots");
}

static void feed(const uint8_t *b, size_t len)
{
	uint8_t *copy = malloc(len ?: 1);

	memcpy(copy, b, len);
	ring_parse(ring, copy, len, on_request, NULL);
	free(copy);
}

static size_t put_attr(uint8_t *b, struct script *s)
{
	uint8_t type = take8(s), how = take8(s);
	size_t n = how % 64, pad;
	const uint8_t *p;
	struct nlattr a;

	if (how >= 192)
		n = take16(s) % 4096;
	a = (struct nlattr) { .nla_len = NLA_HDRLEN + n, .nla_type = type };
	if (how & 64)
		a.nla_len = take16(s);
	memset(b, 0, NLA_HDRLEN + NLA_ALIGN(n));
	memcpy(b, &a, sizeof(a));
	pad = n;
	p = take_bytes(s, &n);
	memcpy(b + NLA_HDRLEN, p, n);
	return NLA_HDRLEN + NLA_ALIGN(pad);
}

static void message(struct script *s)
{
	static uint8_t b[65536 + 4096];
	uint8_t how = take8(s), n = how % 16;
	struct nlmsghdr h = { .nlmsg_type = how & 16 ? NLMSG_ERROR : FAMILY };
	struct genlmsghdr g = { .cmd = take8(s), .version = 1 };
	size_t len = NLMSG_HDRLEN + GENL_HDRLEN;

	while (n-- && len < 60000)
		len += put_attr(b + len, s);
	h.nlmsg_len = how & 32 ? take16(s) : len;
	memcpy(b, &h, sizeof(h));
	memcpy(b + NLMSG_HDRLEN, &g, sizeof(g));
	feed(b, len);
}

static void answer(unsigned int which, uint32_t error)
{
	struct ring_slot *slot = given[which % CREDIT];

	if (!slot)
		return;
	given[which % CREDIT] = NULL;
	ring_complete(ring, slot, error);
}

static void step(struct script *s)
{
	static uint8_t drop[1 << 17];
	uint8_t op = take8(s);
	size_t n;

	switch (op % 6) {
	case 0:
		n = take8(s);
		feed(s->p, n < s->left ? n : s->left);
		take_bytes(s, &n);
		break;
	case 1:
	case 2:
	case 3:
		message(s);
		break;
	case 4:
		answer(op >> 4, op & 8 ? 5 : 0);
		break;
	case 5:
		ring_flush(ring);
		if (op & 8)
			while (recv(peer, drop, sizeof(drop), MSG_DONTWAIT) > 0)
				;
		if (op & 16)
			ring_relax(ring);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int sv[2], fds = open_fds();

	must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv) == 0);
	peer = sv[1];
	memset(given, 0, sizeof(given));
	ring = ring_new(sv[0], FAMILY, MAX_IO);
	must(ring);
	if (take8(&s) & 1)
		must(ring_map(ring, MEMORY) == 0);
	must(ring_prepare(ring, CREDIT) == 0);
	while (s.left)
		step(&s);
	ring_free(ring);
	close(peer);
	must(open_fds() == fds);
	return 0;
}
