// SPDX-License-Identifier: GPL-2.0-only
/*
 * One message: valid as the family's page has it, then spoiled, or not.
 */
#include <errno.h>
#include <string.h>

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/spicebd.h>

#include "fuzz.h"
#include "table.h"

const struct cmd_spec *const fuzz_commands = commands;
const int fuzz_nr_commands = NR_COMMANDS;

uint64_t fuzz_random(struct knows *k)
{
	/* xorshift64*: small, quick, and the same for the same seed */
	k->rnd ^= k->rnd >> 12;
	k->rnd ^= k->rnd << 25;
	k->rnd ^= k->rnd >> 27;
	return k->rnd * 2685821657736338717ULL;
}

uint32_t fuzz_below(struct knows *k, uint32_t n)
{
	return (fuzz_random(k) >> 32) % n;
}

bool fuzz_one_in(struct knows *k, uint32_t n)
{
	return !fuzz_below(k, n);
}

struct cookie fuzz_cookie(struct knows *k, unsigned int socket)
{
	unsigned int nr = k->nr_cookies < NR_COOKIES ? k->nr_cookies : NR_COOKIES;
	struct cookie c = { .cookie = fuzz_random(k) };

	for (int tries = 0; nr && tries < 16; tries++) {
		/* how old: twice at random makes the smaller ages more likely */
		unsigned int age = fuzz_below(k, 1 + fuzz_below(k, nr));

		c = k->cookies[(k->nr_cookies - 1 - age) % NR_COOKIES];
		if (c.socket == socket)
			break;
	}
	return c;
}

struct out {
	uint8_t *buf;
	size_t len;
};

static void put(struct out *o, uint16_t type, const void *data, size_t len)
{
	struct nlattr h = { .nla_len = NLA_HDRLEN + len, .nla_type = type };

	if (o->len + NLA_HDRLEN + NLA_ALIGN(len) > MSG_MAX)
		return;
	memcpy(o->buf + o->len, &h, sizeof(h));
	memset(o->buf + o->len + NLA_HDRLEN, 0, NLA_ALIGN(len));
	if (len)
		memcpy(o->buf + o->len + NLA_HDRLEN, data, len);
	o->len += NLA_HDRLEN + NLA_ALIGN(len);
}

/* Just inside and outside of what is allowed, or anything. */
static uint64_t number(struct knows *k, const struct attr_spec *a)
{
	uint64_t edges[] = {
		a->min, a->min - 1, a->max, a->max + 1, 0, ~0ULL, 1ULL << 31, 1ULL << 63,
	};

	switch (k->good ? 2 : fuzz_below(k, 8)) {
	case 0:
		return edges[fuzz_below(k, sizeof(edges) / sizeof(edges[0]))];
	case 1:
		return fuzz_random(k);
	default:
		if (a->max - a->min == ~0ULL)
			return fuzz_random(k) >> fuzz_below(k, 64);
		return a->min + fuzz_random(k) % (a->max - a->min + 1);
	}
}

static bool is(const struct attr_spec *a, const char *name)
{
	return !strcmp(a->name, name);
}

/* What a value has to be to get further than the policy, most of the time. */
static uint64_t sensible(struct knows *k, const struct cmd_spec *c, const struct attr_spec *a)
{
	if (is(a, "index")) {
		if (k->good)
			return k->drive;
		if (c->cmd == SPICEBD_CMD_DRIVE_ADD || c->cmd == SPICEBD_CMD_DRIVE_DEL)
			return WILD_FIRST + fuzz_below(k, 2 * WILD_NR);
		return WILD_FIRST + fuzz_below(k, WILD_NR);
	}
	if (is(a, "nr-queues"))
		return 1 + fuzz_below(k, 3);
	if (is(a, "queue-depth"))
		return 1 + fuzz_below(k, 16);
	if (is(a, "max-io") || is(a, "block-size"))
		return 4096U << fuzz_below(k, 4);
	/* as long as that, users of a drive that has lost its helper wait */
	if (is(a, "reconnect-timeout") || is(a, "stall-timeout"))
		return fuzz_below(k, k->good ? 2 : 4);
	if (is(a, "link"))
		return k->good ? SPICEBD_LINK_UP : fuzz_one_in(k, 4);
	if (is(a, "hold-limit"))
		return 1 + fuzz_below(k, 2);
	if (is(a, "cookie"))
		return k->now.cookie;
	if (is(a, "size"))
		return (uint64_t)(1 + fuzz_below(k, 64)) << 16;
	if (is(a, "queues"))
		return k->good ? 0 : fuzz_below(k, 4);
	if (is(a, "nr-keys"))
		return k->good ? SOCKETS : 1 + fuzz_below(k, SOCKETS);
	if (is(a, "buffer-addr"))
		return (uintptr_t)k->memory;
	if (is(a, "buffer-len"))
		return k->memory_len;
	if (is(a, "discard-align"))
		return 512U << fuzz_below(k, 8);
	if (is(a, "error"))
		return fuzz_one_in(k, 4) ? fuzz_below(k, 200) : 0;
	if (is(a, "data-offset"))
		return fuzz_one_in(k, 4) ? fuzz_below(k, 8) * 512 : 0;
	return number(k, a);
}

static uint64_t value(struct knows *k, const struct cmd_spec *c, const struct attr_spec *a)
{
	return !k->good && fuzz_one_in(k, 12) ? number(k, a) : sensible(k, c, a);
}

static size_t answers(struct knows *k, uint8_t *data)
{
	unsigned int n = 1 + fuzz_below(k, SPICEBD_BATCH_MAX);

	for (unsigned int i = 0; i < n; i++) {
		struct spicebd_io_answer a = { .cookie = fuzz_random(k) };

		if (!fuzz_one_in(k, 8))
			a.cookie = fuzz_cookie(k, k->socket).cookie;
		a.error = fuzz_one_in(k, 3) ? fuzz_below(k, 200) : 0;
		memcpy(data + i * sizeof(a), &a, sizeof(a));
	}
	return n * sizeof(struct spicebd_io_answer);
}

static size_t binary(struct knows *k, const struct attr_spec *a, uint8_t *data, size_t room)
{
	size_t len = a->min;

	if (is(a, "answers"))
		return answers(k, data);
	if (a->max > (uint64_t)a->min) {
		size_t most = a->max < room ? a->max : room;

		len = a->min + fuzz_below(k, most - a->min + 1);
		if (is(a, "data"))	/* of a read, what it asks for, or a part */
			len = k->now.length >> (fuzz_one_in(k, 4) ? fuzz_below(k, 4) : 0);
		if (len > room)
			len = room;
	}
	if (!k->good && fuzz_one_in(k, 16))
		len = fuzz_below(k, 80);
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = fuzz_random(k);

		memcpy(data + i, &v, len - i < 8 ? len - i : 8);
	}
	/* each is good for one socket */
	if (is(a, "key") && k->good)
		memcpy(data, k->keys[--k->nr_keys], KEY_LEN);
	else if (is(a, "key") && k->nr_keys && len == KEY_LEN && !fuzz_one_in(k, 8))
		memcpy(data, k->keys[fuzz_below(k, k->nr_keys)], KEY_LEN);
	return len;
}

/* Of one holder, mostly, so that it thaws what it froze. */
static size_t string(struct knows *k, const struct attr_spec *a, uint8_t *data)
{
	size_t len = !k->good && fuzz_one_in(k, 4) ? fuzz_below(k, a->max + 1) : 1;

	memset(data, !k->good && fuzz_one_in(k, 8) ? fuzz_random(k) : 'h', len);
	data[len] = k->good || !fuzz_one_in(k, 8) ? 0 : 'x';
	return len + 1;
}

/* Attributes that decide whether a command gets anywhere. */
static bool needed(const struct attr_spec *a)
{
	return is(a, "index") || is(a, "key") || is(a, "cookie") || is(a, "medium") ||
	       is(a, "answers") || is(a, "personality") || is(a, "read-ahead") ||
	       is(a, "reconnect-timeout") || is(a, "size") || is(a, "nr-keys") ||
	       is(a, "holder") || is(a, "hold-limit");
}

static bool wanted(struct knows *k, const struct attr_spec *a)
{
	/* a helper to be takes what is there; a drive that is held serves nobody */
	if (k->good && is(a, "force"))
		return true;
	if (k->good && is(a, "held-start"))
		return false;
	/* a read that succeeded has data, nothing else has */
	if (is(a, "data") && !fuzz_one_in(k, 8))
		return k->now.op == SPICEBD_OP_READ;
	if (is(a, "data-offset") || is(a, "error"))
		return fuzz_one_in(k, 4);
	/* address and length come together, or not */
	if (k->good && !strncmp(a->name, "buffer-", 7))
		return k->registers;
	if (!needed(a))
		return !fuzz_one_in(k, 2);
	return k->good || !fuzz_one_in(k, 20);
}

static void put_attr(struct knows *k, struct out *o, const struct cmd_spec *c,
		     const struct attr_spec *a)
{
	uint8_t data[MSG_MAX - 1024];
	uint64_t v = 0;
	size_t at = o->len, len = 0;
	struct nlattr h;

	switch (a->kind) {
	case KIND_FLAG:
		put(o, a->type, NULL, 0);
		return;
	case KIND_BINARY:
		len = binary(k, a, data, is(a, "data") ? sizeof(data) : 1536);
		put(o, a->type, data, len);
		return;
	case KIND_STRING:
		len = string(k, a, data);
		put(o, a->type, data, len);
		return;
	case KIND_NEST:
		put(o, a->type | (k->good || !fuzz_one_in(k, 8) ? NLA_F_NESTED : 0), NULL, 0);
		for (int i = 0; i < a->nr_nest; i++)
			if (wanted(k, &a->nest[i]))
				put_attr(k, o, c, &a->nest[i]);
		if (o->len < at + NLA_HDRLEN)
			return;
		memcpy(&h, o->buf + at, sizeof(h));
		h.nla_len = o->len - at;
		memcpy(o->buf + at, &h, sizeof(h));
		return;
	default:
		v = value(k, c, a);
		put(o, a->type, &v, a->kind == KIND_U64 ? 8 : 4);
	}
}

static void put_attrs(struct knows *k, struct out *o, const struct cmd_spec *c)
{
	for (int i = 0; i < c->nr_attrs; i++)
		if (wanted(k, &c->attrs[i]))
			put_attr(k, o, c, &c->attrs[i]);
}

/* Finds an attribute to spoil: its place, or 0. */
static size_t some_attr(struct knows *k, const struct out *o)
{
	size_t at = NLMSG_HDRLEN + GENL_HDRLEN, found = 0;
	struct nlattr h;

	for (int n = 1; at + sizeof(h) <= o->len; n++) {
		memcpy(&h, o->buf + at, sizeof(h));
		if (fuzz_one_in(k, n))
			found = at;
		at += h.nla_len < NLA_HDRLEN ? NLA_HDRLEN : NLA_ALIGN(h.nla_len);
	}
	return found;
}

static void spoil_attr(struct knows *k, struct out *o)
{
	static const uint16_t flags[] = { NLA_F_NESTED, NLA_F_NET_BYTEORDER, 0x1000 };
	size_t at = some_attr(k, o);
	struct nlattr h;

	if (!at)
		return;
	memcpy(&h, o->buf + at, sizeof(h));
	switch (fuzz_below(k, 6)) {
	case 0:
		h.nla_len = fuzz_below(k, 64);
		break;
	case 1:
		h.nla_len = fuzz_random(k);
		break;
	case 2:
		h.nla_type = fuzz_below(k, 40);
		break;
	case 3:
		h.nla_type ^= flags[fuzz_below(k, 3)];
		break;
	case 4:
		h.nla_len++;
		break;
	case 5:
		h.nla_len -= h.nla_len > NLA_HDRLEN;
		break;
	}
	memcpy(o->buf + at, &h, sizeof(h));
}

static void spoil(struct knows *k, struct out *o, struct genlmsghdr *g)
{
	size_t first = NLMSG_HDRLEN + GENL_HDRLEN;
	uint8_t more[64] = { 0 };

	switch (fuzz_below(k, 8)) {
	case 0:
	case 1:
		spoil_attr(k, o);
		break;
	case 2:		/* a few bits */
		for (int i = fuzz_below(k, 4); o->len > first && i >= 0; i--)
			o->buf[first + fuzz_below(k, o->len - first)] ^= 1 << fuzz_below(k, 8);
		break;
	case 3:		/* cut off */
		if (o->len > first)
			o->len = first + fuzz_below(k, o->len - first) / 4 * 4;
		break;
	case 4:		/* one that nobody knows, or one that is there already */
		put(o, fuzz_below(k, 40), more, fuzz_below(k, sizeof(more)));
		break;
	case 5:
		g->cmd = fuzz_below(k, 40);
		break;
	case 6:
		g->version = fuzz_random(k);
		g->reserved = fuzz_one_in(k, 2) ? fuzz_random(k) : 0;
		break;
	case 7:
		for (int i = 0; i < 3; i++)
			spoil_attr(k, o);
		break;
	}
}

/* Nothing that an actor with rights says may name a safe drive. */
static void spare_the_safe(struct out *o)
{
	for (size_t at = NLMSG_HDRLEN + GENL_HDRLEN; at + 4 <= o->len; at += 4) {
		uint32_t v;

		memcpy(&v, o->buf + at, sizeof(v));
		if (v == SAFE_FIRST || v == SAFE_FIRST + 1)
			o->buf[at] = WILD_FIRST;
	}
}

static bool is_answer(uint8_t cmd)
{
	return cmd == SPICEBD_CMD_IO_DATA || cmd == SPICEBD_CMD_IO_COMPLETE ||
	       cmd == SPICEBD_CMD_IO_ANSWERS;
}

/*
 * Making and deleting drives costs a thousand times what the others do. And
 * what takes a medium away is rare enough that there is one, most of the time.
 */
static int pick_command(struct knows *k)
{
	bool answer = k->serving || (k->nr_cookies && fuzz_one_in(k, 4));

	for (;;) {
		int i = fuzz_below(k, NR_COMMANDS);

		if (answer && !is_answer(commands[i].cmd))
			continue;

		switch (commands[i].cmd) {
		case SPICEBD_CMD_DRIVE_ADD:
		case SPICEBD_CMD_DRIVE_DEL:
			if (fuzz_one_in(k, 40))
				return i;
			continue;
		case SPICEBD_CMD_DETACH:
		case SPICEBD_CMD_MEDIUM_REMOVE:
		case SPICEBD_CMD_TRAY_OPEN:
		case SPICEBD_CMD_EJECT:
		case SPICEBD_CMD_LOCK:
		case SPICEBD_CMD_FREEZE:
			if (fuzz_one_in(k, 20))
				return i;
			continue;
		default:
			return i;
		}
	}
}

static uint16_t some_flags(struct knows *k)
{
	uint16_t flags = NLM_F_REQUEST | NLM_F_ACK;

	if (fuzz_one_in(k, 50))
		flags |= NLM_F_DUMP;
	if (fuzz_one_in(k, 50))
		flags |= fuzz_random(k) & ~NLM_F_MULTI;
	return flags;
}

size_t fuzz_good_message(struct knows *k, uint8_t *buf, uint16_t family, uint32_t seq,
			 uint8_t cmd, uint32_t drive, int *place)
{
	struct genlmsghdr g = { .cmd = cmd, .version = SPICEBD_FAMILY_VERSION };
	struct out o = { buf, NLMSG_HDRLEN + GENL_HDRLEN };
	struct nlmsghdr n = {
		.nlmsg_type = family, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK, .nlmsg_seq = seq,
	};

	*place = 0;
	while (commands[*place].cmd != cmd)
		++*place;
	k->good = true;
	k->drive = drive;
	put_attrs(k, &o, &commands[*place]);
	k->good = false;
	n.nlmsg_len = o.len;
	memcpy(buf, &n, sizeof(n));
	memcpy(buf + NLMSG_HDRLEN, &g, sizeof(g));
	return NLMSG_ALIGN(o.len);
}

size_t fuzz_message(struct knows *k, uint8_t *buf, uint16_t family, uint32_t seq, bool last,
		    int *cmd)
{
	int i = pick_command(k);
	const struct cmd_spec *c = &commands[i];
	struct genlmsghdr g = { .cmd = c->cmd, .version = SPICEBD_FAMILY_VERSION };
	struct out o = { buf, NLMSG_HDRLEN + GENL_HDRLEN };
	struct nlmsghdr n = {
		.nlmsg_type = family, .nlmsg_flags = some_flags(k), .nlmsg_seq = seq,
	};

	*cmd = i;
	k->now = fuzz_cookie(k, k->socket);
	put_attrs(k, &o, c);
	if (fuzz_one_in(k, 3))
		spoil(k, &o, &g);
	if (k->privileged)
		spare_the_safe(&o);
	if (g.cmd != c->cmd)
		*cmd = -1;
	n.nlmsg_len = o.len;
	if (last && fuzz_one_in(k, 8))
		n.nlmsg_len = fuzz_one_in(k, 2) ? fuzz_random(k) : fuzz_below(k, o.len + 8);
	memcpy(buf, &n, sizeof(n));
	memcpy(buf + NLMSG_HDRLEN, &g, sizeof(g));
	return NLMSG_ALIGN(o.len);
}
