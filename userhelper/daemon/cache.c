// SPDX-License-Identifier: GPL-2.0-only
#include "cache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct cache {
	uint64_t size;
	unsigned int nr;		/* blocks that there is room for */
	uint8_t *memory;
	struct cache_block *block;
	struct cache_block **hash;
	unsigned int mask;
	struct cache_block *free;	/* by ->next */
	/* Those that are there; the one at the end goes first. */
	struct cache_block *first, *last;
	struct cache_stats stats;
};

static unsigned int slot_of(const struct cache *c, uint64_t index)
{
	/* Neighbours lie in neighbouring slots, far ones are mixed in. */
	return (index ^ index >> 17 ^ index >> 31) & c->mask;
}

static void put_free(struct cache *c, struct cache_block *b)
{
	b->next = c->free;
	c->free = b;
}

static bool make_tables(struct cache *c)
{
	unsigned int slots = 1;

	while (slots < c->nr)
		slots *= 2;
	c->mask = slots - 1;
	c->block = calloc(c->nr, sizeof(*c->block));
	c->hash = calloc(slots, sizeof(struct cache_block *));
	return c->block && c->hash;
}

struct cache *cache_new(uint64_t size, size_t limit)
{
	struct cache *c;
	size_t bytes;

	if (!size || limit < CACHE_MIN || limit > CACHE_MAX)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->size = size;
	c->nr = limit / CACHE_BLOCK;
	bytes = (size_t)c->nr * CACHE_BLOCK;
	c->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->memory == MAP_FAILED)
		c->memory = NULL;
	if (!c->memory || !make_tables(c)) {
		cache_free(c);
		return NULL;
	}
	/* No write waits for what was only read; and locked, it could not be given back. */
	munlock(c->memory, bytes);
	madvise(c->memory, bytes, MADV_DONTFORK);
	for (unsigned int i = c->nr; i-- > 0;) {
		c->block[i].data = c->memory + (size_t)i * CACHE_BLOCK;
		put_free(c, &c->block[i]);
	}
	return c;
}

void cache_free(struct cache *c)
{
	if (!c)
		return;
	if (c->memory)
		munmap(c->memory, (size_t)c->nr * CACHE_BLOCK);
	free(c->block);
	free(c->hash);
	free(c);
}

struct cache_block *cache_find(const struct cache *c, uint64_t index)
{
	struct cache_block *b = c->hash[slot_of(c, index)];

	while (b && b->index != index)
		b = b->hash_next;
	return b;
}

static void unhash(struct cache *c, struct cache_block *b)
{
	struct cache_block **p = &c->hash[slot_of(c, b->index)];

	while (*p != b)
		p = &(*p)->hash_next;
	*p = b->hash_next;
}

static void unlist(struct cache *c, struct cache_block *b)
{
	*(b->prev ? &b->prev->next : &c->first) = b->next;
	*(b->next ? &b->next->prev : &c->last) = b->prev;
}

static void list_first(struct cache *c, struct cache_block *b)
{
	b->prev = NULL;
	b->next = c->first;
	*(c->first ? &c->first->prev : &c->last) = b;
	c->first = b;
}

static void list_last(struct cache *c, struct cache_block *b)
{
	b->next = NULL;
	b->prev = c->last;
	*(c->last ? &c->last->next : &c->first) = b;
	c->last = b;
}

void cache_drop(struct cache *c, struct cache_block *b)
{
	if (b->valid) {
		unlist(c, b);
		if (b->ahead)
			c->stats.wasted += b->len;
	}
	unhash(c, b);
	put_free(c, b);
	c->stats.blocks--;
}

static uint32_t length_of(const struct cache *c, uint64_t index)
{
	uint64_t left = c->size - index * CACHE_BLOCK;

	return left < CACHE_BLOCK ? left : CACHE_BLOCK;
}

struct cache_block *cache_add(struct cache *c, uint64_t index, bool ahead)
{
	uint8_t *data;
	struct cache_block *b;

	if (index > (c->size - 1) / CACHE_BLOCK)
		return NULL;
	if (!c->free && c->last)
		cache_drop(c, c->last);
	b = c->free;
	if (!b)
		return NULL;
	c->free = b->next;
	data = b->data;
	*b = (struct cache_block) {
		.index = index, .len = length_of(c, index), .ahead = ahead, .data = data,
		.hash_next = c->hash[slot_of(c, index)],
	};
	c->hash[slot_of(c, index)] = b;
	c->stats.blocks++;
	return b;
}

void cache_came(struct cache *c, struct cache_block *b)
{
	b->valid = true;
	list_first(c, b);
}

void cache_used(struct cache *c, struct cache_block *b, bool last)
{
	b->ahead = false;
	unlist(c, b);
	/* The kernel has it now: of all blocks it is needed least. */
	if (last)
		list_last(c, b);
	else
		list_first(c, b);
}

void cache_clear(struct cache *c)
{
	while (c->last) {
		struct cache_block *b = c->last;

		cache_drop(c, b);
		madvise(b->data, CACHE_BLOCK, MADV_DONTNEED);
	}
}

bool cache_owns(const struct cache *c, const void *p)
{
	return (uintptr_t)p >= (uintptr_t)c->block && (uintptr_t)p < (uintptr_t)(c->block + c->nr);
}

void cache_coming(struct cache *c, void (*fn)(struct cache_block *b, void *arg), void *arg)
{
	for (unsigned int i = 0; i <= c->mask; i++) {
		struct cache_block *b = c->hash[i], *next;

		for (; b; b = next) {
			next = b->hash_next;
			if (!b->valid)
				fn(b, arg);
		}
	}
}

struct cache_stats cache_stats(const struct cache *c)
{
	return c->stats;
}
