// SPDX-License-Identifier: GPL-2.0-only
/*
 * Credit as it passes by. What a guest does not read is kept here, and what it
 * gave credit for is all that can come: so the sum of both is what is bounded.
 */
#include "relay_impl.h"

#include <string.h>

static size_t budget;
static size_t given;	/* credit that shares have, in all streams of all ports */

void credits_budget(size_t bytes)
{
	budget = bytes;
}

static int find(const struct credits *c, uint32_t stream)
{
	for (int i = 0; i < FRAME_STREAMS_MAX; i++)
		if (c->of[i].stream == stream)
			return i;
	return -1;
}

void credits_reset(struct credits *c)
{
	for (int i = 0; i < FRAME_STREAMS_MAX; i++)
		given -= c->of[i].left;
	memset(c, 0, sizeof(*c));
}

static const char *give(struct credits *c, int i, uint32_t bytes)
{
	if (bytes > FRAME_CREDIT_MAX - c->of[i].left)
		return "it gives more credit than a stream can have";
	if (given + guests_queued() + bytes > budget)
		return "it gives more credit than memory-max= allows: is that as large in the guest's own link?";
	c->of[i].left += bytes;
	given += bytes;
	return NULL;
}

const char *credits_open(struct credits *c, uint32_t stream, uint32_t bytes)
{
	const char *why;
	int i = find(c, 0);

	if (!stream || find(c, stream) >= 0)
		return "it opens a stream twice";
	if (i < 0)
		return "it opens too many streams";
	why = give(c, i, bytes);
	if (!why)
		c->of[i].stream = stream;
	return why;
}

/* A stream that the share has closed meanwhile is no error. */
const char *credits_add(struct credits *c, uint32_t stream, uint32_t bytes)
{
	int i = stream ? find(c, stream) : -1;

	return i < 0 ? NULL : give(c, i, bytes);
}

bool credits_take(struct credits *c, uint32_t stream, uint32_t bytes)
{
	int i = stream ? find(c, stream) : -1;

	if (i < 0 || bytes > c->of[i].left)
		return false;
	c->of[i].left -= bytes;
	given -= bytes;
	return true;
}

void credits_close(struct credits *c, uint32_t stream)
{
	int i = stream ? find(c, stream) : -1;

	if (i < 0)
		return;
	given -= c->of[i].left;
	c->of[i].left = 0;
	c->of[i].stream = 0;
}
