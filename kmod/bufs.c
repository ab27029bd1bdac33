// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: registered buffers: memory of the helper that payload is copied to
 * and from directly
 *
 * A queue socket registers one range when it is bound. The pages are pinned
 * until the last user of the bound socket has gone, whatever the helper does
 * with its address space meanwhile, and are accounted to it all that time.
 *
 * A part of the range, whole pages, belongs to a request from before it is
 * given out until the helper has answered it, also if the request ended
 * earlier: the helper may read or write there until then.
 */
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "drive.h"

/**
 * struct sbd_bufs - registered memory
 * @pages: pinned, writable
 * @nr: how many
 * @mm: they are accounted to, with a reference on the structure
 * @work: lets them go
 * @hint: where to look for room first (sock->lock)
 * @used: one bit for each page (sock->lock)
 */
struct sbd_bufs {
	struct page **pages;
	u32 nr;
	struct mm_struct *mm;
	struct work_struct work;
	u32 hint;
	unsigned long *used;
};

static void free_bufs(struct sbd_bufs *b)
{
	bitmap_free(b->used);
	kvfree(b->pages);
	kfree(b);
}

static struct sbd_bufs *alloc_bufs(u32 nr)
{
	struct sbd_bufs *b = kzalloc(sizeof(*b), GFP_KERNEL);

	if (!b)
		return NULL;
	b->nr = nr;
	b->pages = kvcalloc(nr, sizeof(*b->pages), GFP_KERNEL);
	b->used = bitmap_zalloc(nr, GFP_KERNEL);
	if (b->pages && b->used)
		return b;
	free_bufs(b);
	return NULL;
}

/* Takes the lock of the helper's address space. */
static void unpin(struct sbd_bufs *b)
{
	unpin_user_pages_dirty_lock(b->pages, b->nr, true);
	account_locked_vm(b->mm, b->nr, false);
	mmdrop(b->mm);
	free_bufs(b);
}

static void unpin_work(struct work_struct *work)
{
	unpin(container_of(work, struct sbd_bufs, work));
}

/* Return: pages pinned. */
static u32 pin_all(struct sbd_bufs *b, unsigned long addr)
{
	u32 done = 0;

	while (done < b->nr) {
		/*
		 * Without faults: a fault can be made to wait for another
		 * process, and a netlink command must not.
		 */
		int n = pin_user_pages_fast(addr + ((unsigned long)done << PAGE_SHIFT),
					    b->nr - done,
					    FOLL_WRITE | FOLL_LONGTERM |
					    FOLL_NOFAULT, b->pages + done);

		if (n <= 0)
			break;
		done += n;
	}
	return done;
}

/**
 * sbd_bufs_pin - register memory of the calling process
 * @addr: start, page aligned
 * @len: bytes, whole pages
 * @why: what is wrong, when an error is returned
 *
 * Context: a netlink command, no lock of ours held; may wait for the lock of the
 * caller's address space, but not for a fault: the memory has to be present and
 * writable.
 *
 * Return: the buffers, or -EINVAL, -EFAULT, -ENOMEM (also: more than the
 * process may lock).
 */
struct sbd_bufs *sbd_bufs_pin(u64 addr, u64 len, const char **why)
{
	struct sbd_bufs *b;
	u32 done;
	int ret;

	if (!len || len > SPICEBD_MAX_BUFFER || !PAGE_ALIGNED(addr | len) ||
	    addr != (unsigned long)addr || addr + len < addr) {
		*why = "the buffer is not a range of whole pages, or too large";
		return ERR_PTR(-EINVAL);
	}
	if (!current->mm)
		return ERR_PTR(-EINVAL);
	b = alloc_bufs(len >> PAGE_SHIFT);
	if (!b)
		return ERR_PTR(-ENOMEM);
	ret = account_locked_vm(current->mm, b->nr, true);
	if (ret) {
		*why = "the buffer exceeds what the process may lock (RLIMIT_MEMLOCK)";
		free_bufs(b);
		return ERR_PTR(ret);
	}
	b->mm = current->mm;
	mmgrab(b->mm);
	INIT_WORK(&b->work, unpin_work);
	done = pin_all(b, addr);
	if (done == b->nr)
		return b;
	*why = "the buffer is not present and writable: mlock() it";
	b->nr = done;
	account_locked_vm(b->mm, (len >> PAGE_SHIFT) - done, false);
	unpin(b);
	return ERR_PTR(-EFAULT);
}

/**
 * sbd_bufs_unpin - let the memory go
 * @b: the buffers, or NULL
 *
 * Context: any but interrupts; nobody copies any more. A worker does it, since a
 * thread of the helper may wait for I/O of ours with the lock of its address
 * space held.
 */
void sbd_bufs_unpin(struct sbd_bufs *b)
{
	if (b)
		queue_work(sbd_slow_wq, &b->work);
}

/**
 * sbd_bufs_size - bytes registered
 * @b: the buffers, or NULL
 */
u64 sbd_bufs_size(const struct sbd_bufs *b)
{
	return b ? (u64)b->nr << PAGE_SHIFT : 0;
}

/**
 * sbd_bufs_get - find room for a payload
 * @b: the buffers
 * @length: bytes, not 0
 * @part: where the room goes
 *
 * Context: sock->lock held.
 *
 * Return: 0 or -ENOBUFS.
 */
int sbd_bufs_get(struct sbd_bufs *b, u32 length, struct sbd_part *part)
{
	u32 nr = DIV_ROUND_UP(length, PAGE_SIZE);
	unsigned long at;

	at = bitmap_find_next_zero_area(b->used, b->nr, b->hint, nr, 0);
	if (at >= b->nr)
		at = bitmap_find_next_zero_area(b->used, b->nr, 0, nr, 0);
	if (at >= b->nr)
		return -ENOBUFS;
	bitmap_set(b->used, at, nr);
	b->hint = at + nr;
	part->first = at;
	part->nr = nr;
	return 0;
}

/**
 * sbd_bufs_put - give room back
 * @b: the buffers
 * @part: the room; none (@part->nr is 0) is fine
 *
 * Context: sock->lock held.
 */
void sbd_bufs_put(struct sbd_bufs *b, struct sbd_part *part)
{
	if (!part->nr)
		return;
	bitmap_clear(b->used, part->first, part->nr);
	/* Pages that were used just now are the ones in the cache. */
	b->hint = min(b->hint, part->first);
	part->nr = 0;
}

/* Copies between a page of the request and the buffer at byte @pos. */
static void copy_piece(struct sbd_bufs *b, unsigned long pos, struct page *page,
		       u32 offset, u32 len, bool to_helper)
{
	while (len) {
		struct page *mine = b->pages[pos >> PAGE_SHIFT];
		u32 at = offset_in_page(pos);
		u32 n = min_t(u32, len, PAGE_SIZE - at);

		if (to_helper)
			memcpy_page(mine, at, page, offset, n);
		else
			memcpy_page(page, offset, mine, at, n);
		flush_dcache_page(to_helper ? mine : page);
		pos += n;
		offset += n;
		len -= n;
	}
}

/**
 * sbd_bufs_copy - copy a request's payload
 * @b: the buffers
 * @part: its room
 * @rq: the request, owned by the caller
 * @to_helper: to the helper, or from it
 *
 * Context: process, no lock held.
 */
void sbd_bufs_copy(struct sbd_bufs *b, const struct sbd_part *part,
		   struct request *rq, bool to_helper)
{
	unsigned long pos = (unsigned long)part->first << PAGE_SHIFT;
	unsigned long end = pos + ((unsigned long)part->nr << PAGE_SHIFT);
	struct req_iterator iter;
	struct bio_vec bv;

	rq_for_each_segment(bv, rq, iter) {
		/* Cannot be: the room was taken for all of the request. */
		if (WARN_ON_ONCE(bv.bv_len > end - pos))
			return;
		copy_piece(b, pos, bv.bv_page, bv.bv_offset, bv.bv_len,
			   to_helper);
		pos += bv.bv_len;
	}
}
