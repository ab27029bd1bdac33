/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Blocks of one medium in memory: which are there, which are on their way, and
 * which one goes when there is no room. Knows nothing of connections; the
 * caller locks. It lives and dies with what serves the medium, so it cannot
 * know the content of another.
 */
#ifndef SPICEBD_CACHE_H
#define SPICEBD_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is fetched at once. At 20 ms even a slow path carries it in passing. */
#define CACHE_BLOCK	(64u << 10)
#define CACHE_MIN	(1u << 20)
#define CACHE_MAX	(1u << 30)

/**
 * struct cache_block - a block that is there or on its way
 * @index: which one of the medium
 * @len: bytes; the medium's last block may have fewer
 * @valid: it is there; it is coming otherwise, and stays until it has come
 * @ahead: nobody has asked for it yet
 * @data: its bytes
 * @waiting, @queue, @sent, @flags: the caller's
 */
struct cache_block {
	uint64_t index;
	uint32_t len;
	bool valid;
	bool ahead;
	uint8_t *data;
	uint32_t waiting;
	uint8_t queue, flags;
	uint64_t sent;
	/* private */
	struct cache_block *hash_next;
	struct cache_block *prev, *next;
};

/**
 * struct cache_stats - where the blocks have gone
 * @blocks: there or coming
 * @wasted: bytes that came ahead and went before anybody asked for them
 */
struct cache_stats {
	unsigned int blocks;
	uint64_t wasted;
};

struct cache;

/**
 * cache_new() - an empty cache
 * @size: of the medium, bytes
 * @limit: of its memory, bytes, at least CACHE_MIN
 * Return: the cache, or NULL
 */
struct cache *cache_new(uint64_t size, size_t limit);
void cache_free(struct cache *c);

struct cache_block *cache_find(const struct cache *c, uint64_t index);

/**
 * cache_add() - a block that is coming from now on
 * @ahead: nobody asked for it
 *
 * Return: the block, or NULL: the medium ends before it, or everything is full
 * of others that are coming.
 */
struct cache_block *cache_add(struct cache *c, uint64_t index, bool ahead);

/* It has come. */
void cache_came(struct cache *c, struct cache_block *b);

/* It does not come, or is not wanted any more. */
void cache_drop(struct cache *c, struct cache_block *b);

/**
 * cache_used() - somebody read of it
 * @last: to its end, so that a reader who goes on is done with it
 */
void cache_used(struct cache *c, struct cache_block *b, bool last);

/* Forgets all blocks that are there, and gives their memory back. */
void cache_clear(struct cache *c);

/* Whether @p is one of its blocks. */
bool cache_owns(const struct cache *c, const void *p);

/* Calls @fn for each block that is coming; @fn may drop it. */
void cache_coming(struct cache *c, void (*fn)(struct cache_block *b, void *arg), void *arg);

struct cache_stats cache_stats(const struct cache *c);

#endif /* SPICEBD_CACHE_H */
