/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd: queue limits as one structure, for kernels that set each by a call
 *
 * The fields that this driver uses, under today's names.
 */
#ifndef SPICEBD_COMPAT_LIMITS_H
#define SPICEBD_COMPAT_LIMITS_H

#define BLK_FEAT_WRITE_CACHE	(1U << 0)
#define BLK_FEAT_FUA		(1U << 1)
#define BLK_FEAT_ROTATIONAL	(1U << 2)

struct sbd_compat_limits {
	unsigned int features;
	unsigned int logical_block_size;
	unsigned int physical_block_size;
	unsigned int io_min;
	unsigned int io_opt;
	unsigned int max_hw_sectors;
	unsigned int max_segments;
	unsigned int max_segment_size;
	unsigned int max_hw_discard_sectors;
	unsigned int max_write_zeroes_sectors;
	unsigned int discard_granularity;
};

static inline struct sbd_compat_limits
sbd_compat_limits_start(struct request_queue *q)
{
	return (struct sbd_compat_limits) {};
}

/* Only for queues of disks whose capacity is 0: nothing is frozen. */
static inline int sbd_compat_limits_commit(struct request_queue *q,
					   const struct sbd_compat_limits *lim)
{
	blk_queue_logical_block_size(q, lim->logical_block_size);
	/* This one would not go down again by itself. */
	q->limits.physical_block_size = lim->logical_block_size;
	blk_queue_physical_block_size(q, lim->physical_block_size);
	q->limits.io_min = lim->io_min;
	blk_queue_io_min(q, lim->io_min);
	blk_queue_io_opt(q, lim->io_opt);
	blk_queue_max_hw_sectors(q, lim->max_hw_sectors);
	blk_queue_max_segments(q, lim->max_segments);
	blk_queue_max_segment_size(q, lim->max_segment_size);
	q->limits.discard_granularity = lim->discard_granularity;
	blk_queue_max_discard_sectors(q, lim->max_hw_discard_sectors);
	blk_queue_max_write_zeroes_sectors(q, lim->max_write_zeroes_sectors);
	blk_queue_write_cache(q, lim->features & BLK_FEAT_WRITE_CACHE,
			      lim->features & BLK_FEAT_FUA);
	if (lim->features & BLK_FEAT_ROTATIONAL)
		blk_queue_flag_clear(QUEUE_FLAG_NONROT, q);
	else
		blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
	return 0;
}

static inline struct gendisk *
sbd_compat_alloc_disk(struct blk_mq_tag_set *set,
		      const struct sbd_compat_limits *lim, void *queuedata)
{
	struct gendisk *disk = blk_mq_alloc_disk(set, queuedata);

	if (!IS_ERR(disk))
		sbd_compat_limits_commit(disk->queue, lim);
	return disk;
}

#define queue_limits				sbd_compat_limits
#define queue_limits_start_update		sbd_compat_limits_start
#define queue_limits_commit_update_frozen	sbd_compat_limits_commit
#undef blk_mq_alloc_disk
#define blk_mq_alloc_disk			sbd_compat_alloc_disk

#endif /* SPICEBD_COMPAT_LIMITS_H */
