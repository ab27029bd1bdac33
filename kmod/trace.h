/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd: tracepoints of a request's life
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM spicebd

#if !defined(SPICEBD_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define SPICEBD_TRACE_H

#include <linux/tracepoint.h>

#include "drive.h"

DECLARE_EVENT_CLASS(spicebd_request,
	TP_PROTO(struct sbd_drive *d, struct request *rq, u32 op, u64 value),
	TP_ARGS(d, rq, op, value),
	TP_STRUCT__entry(
		__field(u32, drive)
		__field(u32, queue)
		__field(int, tag)
		__field(u32, op)
		__field(u64, offset)
		__field(u32, length)
		__field(u64, value)
	),
	TP_fast_assign(
		__entry->drive = d->index;
		__entry->queue = rq->mq_hctx->queue_num;
		__entry->tag = rq->tag;
		__entry->op = op;
		__entry->offset = (u64)blk_rq_pos(rq) << SECTOR_SHIFT;
		__entry->length = blk_rq_bytes(rq);
		__entry->value = value;
	),
	TP_printk("spicebd%u queue=%u tag=%d op=%s offset=%llu length=%u value=%#llx",
		  __entry->drive, __entry->queue, __entry->tag,
		  __print_symbolic(__entry->op,
				   { SPICEBD_OP_READ, "read" },
				   { SPICEBD_OP_WRITE, "write" },
				   { SPICEBD_OP_FLUSH, "flush" },
				   { SPICEBD_OP_DISCARD, "discard" },
				   { SPICEBD_OP_WRITE_ZEROES, "write_zeroes" }),
		  __entry->offset, __entry->length, __entry->value)
);

/* The driver got a request for the first time; value: medium generation. */
DEFINE_EVENT(spicebd_request, spicebd_start,
	TP_PROTO(struct sbd_drive *d, struct request *rq, u32 op, u64 value),
	TP_ARGS(d, rq, op, value));

/* It goes to the helper; value: cookie. */
DEFINE_EVENT(spicebd_request, spicebd_dispatch,
	TP_PROTO(struct sbd_drive *d, struct request *rq, u32 op, u64 value),
	TP_ARGS(d, rq, op, value));

/* It ended; value: blk_status_t. */
DEFINE_EVENT(spicebd_request, spicebd_complete,
	TP_PROTO(struct sbd_drive *d, struct request *rq, u32 op, u64 value),
	TP_ARGS(d, rq, op, value));

#endif /* SPICEBD_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
