// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: requests as messages, and back
 *
 * A request is one IO_REQUEST message; a write's payload rides in it and in as
 * many IO_DATA messages as it takes. All messages of a request are made before
 * the first is sent: from then on nobody looks at its pages, so it may end
 * while messages of it are still on their way.
 */
#include <linux/bvec.h>
#include <linux/highmem.h>
#include <linux/sched/mm.h>
#include <net/genetlink.h>
#include <net/sock.h>

#include "drive.h"

/* Attributes of a message but for the payload, at most. */
#define SBD_WIRE_ROOM							\
	(nla_total_size_64bit(sizeof(u64)) * 3 +			\
	 nla_total_size(sizeof(u32)) * 5 + nla_total_size(0))

/* When the receive buffer was full against all accounting: try again then. */
#define SBD_WIRE_RETRY		(HZ / 100 + 1)

/*
 * Payload of a piece, falling back to what needs no large page: an allocation
 * of 64, of 16 and of 4 KiB.
 */
static const u32 sbd_piece_sizes[] = {
	SPICEBD_PIECE_MAX, 15 * 1024, 3 * 1024,
};

/* What a message with this much payload takes of a receive buffer at most. */
static u32 message_cost(u32 payload)
{
	size_t size = NLMSG_HDRLEN + GENL_HDRLEN + SBD_WIRE_ROOM +
		      NLA_ALIGN(payload);

	size = SKB_DATA_ALIGN(size) +
	       SKB_DATA_ALIGN(sizeof(struct skb_shared_info));
	return roundup_pow_of_two(size) + SKB_DATA_ALIGN(sizeof(struct sk_buff));
}

/**
 * sbd_wire_cost - what a request takes of a receive buffer
 * @op: enum spicebd_op
 * @length: bytes
 *
 * Return: bytes, an upper bound as long as pieces have their full size.
 */
u32 sbd_wire_cost(u32 op, u32 length)
{
	u32 rest;

	if (op != SPICEBD_OP_WRITE)
		return message_cost(0);
	rest = length % SPICEBD_PIECE_MAX;
	return length / SPICEBD_PIECE_MAX * message_cost(SPICEBD_PIECE_MAX) +
	       (rest ? message_cost(rest) : 0);
}

/* A list of requests with registered memory: the attribute's payload. */
#define SBD_WIRE_LIST(n)	((n) * sizeof(struct spicebd_io_request))

/**
 * sbd_wire_batch_cost - what a request with registered memory takes of a
 *	receive buffer at most: a message of its own
 */
u32 sbd_wire_batch_cost(void)
{
	return message_cost(SBD_WIRE_LIST(SPICEBD_BATCH_MAX));
}

/* Copies the next @len bytes from @skip bytes into the request. */
static void copy_out(struct request *rq, u32 skip, u8 *to, u32 len)
{
	struct req_iterator iter;
	struct bio_vec bv;

	rq_for_each_segment(bv, rq, iter) {
		u32 n;

		if (skip >= bv.bv_len) {
			skip -= bv.bv_len;
			continue;
		}
		n = min(bv.bv_len - skip, len);
		memcpy_from_page(to, bv.bv_page, bv.bv_offset + skip, n);
		to += n;
		len -= n;
		skip = 0;
		if (!len)
			return;
	}
	/* Cannot be: the block layer's sizes agree with each other. */
	memset(to, 0, len);
}

/**
 * sbd_wire_copy_in - copy a piece of payload into a read's pages
 * @rq: the read, owned by the caller
 * @offset: within it
 * @data: the piece
 * @len: its length; the caller saw to it that it fits
 */
void sbd_wire_copy_in(struct request *rq, u32 offset, const void *data,
		      u32 len)
{
	struct req_iterator iter;
	struct bio_vec bv;

	rq_for_each_segment(bv, rq, iter) {
		u32 n;

		if (offset >= bv.bv_len) {
			offset -= bv.bv_len;
			continue;
		}
		n = min(bv.bv_len - offset, len);
		memcpy_to_page(bv.bv_page, bv.bv_offset + offset, data, n);
		data += n;
		len -= n;
		offset = 0;
		if (!len)
			return;
	}
}

static u64 request_offset(struct request *rq, const struct sbd_io *io)
{
	return io->op == SPICEBD_OP_FLUSH ? 0 :
	       (u64)blk_rq_pos(rq) << SECTOR_SHIFT;
}

static u32 request_flags(struct request *rq, const struct sbd_io *io)
{
	u32 flags = 0;

	if (io->op == SPICEBD_OP_WRITE || io->op == SPICEBD_OP_WRITE_ZEROES) {
		if (rq->cmd_flags & REQ_FUA)
			flags |= SPICEBD_IO_FUA;
		if (rq->cmd_flags & REQ_NOUNMAP)
			flags |= SPICEBD_IO_NO_UNMAP;
	}
	return flags;
}

static int put_request(struct sk_buff *skb, struct request *rq,
		       const struct sbd_io *io, u32 queue, u64 generation)
{
	u64 offset = request_offset(rq, io);
	u32 flags = request_flags(rq, io);

	if (nla_put_u64_64bit(skb, SPICEBD_A_IO_COOKIE, io->cookie,
			      SPICEBD_A_IO_PAD) ||
	    nla_put_u32(skb, SPICEBD_A_IO_OP, io->op) ||
	    nla_put_u32(skb, SPICEBD_A_IO_FLAGS, flags) ||
	    nla_put_u64_64bit(skb, SPICEBD_A_IO_OFFSET, offset,
			      SPICEBD_A_IO_PAD) ||
	    nla_put_u32(skb, SPICEBD_A_IO_LENGTH, io->length) ||
	    nla_put_u32(skb, SPICEBD_A_IO_QUEUE, queue) ||
	    nla_put_u64_64bit(skb, SPICEBD_A_IO_GENERATION, generation,
			      SPICEBD_A_IO_PAD))
		return -EMSGSIZE;
	return 0;
}

static int put_payload(struct sk_buff *skb, struct request *rq, u32 offset,
		       u32 len)
{
	struct nlattr *nla;

	if (offset && nla_put_u32(skb, SPICEBD_A_IO_DATA_OFFSET, offset))
		return -EMSGSIZE;
	nla = nla_reserve(skb, SPICEBD_A_IO_DATA, len);
	if (!nla)
		return -EMSGSIZE;
	copy_out(rq, offset, nla_data(nla), len);
	return 0;
}

/*
 * A new message. Whoever frees memory by writing to the drive may use the
 * reserves for it; a socket would then be given nothing, and nobody be told,
 * unless it were marked as one that helps to free memory. This one does.
 */
static struct sk_buff *new_message(size_t payload, gfp_t gfp)
{
	struct sk_buff *skb = genlmsg_new(payload, gfp);

	if (skb)
		skb->pfmemalloc = 0;
	return skb;
}

static struct sk_buff *build_message(struct sbd_sock *s, u32 queue,
				     struct request *rq,
				     const struct sbd_io *io, u32 offset,
				     u32 len)
{
	const struct sbd_pdu *pdu = blk_mq_rq_to_pdu(rq);
	u8 cmd = offset ? SPICEBD_CMD_IO_DATA : SPICEBD_CMD_IO_REQUEST;
	struct sk_buff *skb;
	void *header;
	int ret;

	/* The reserves are for small pieces: a large one is a convenience. */
	skb = new_message(SBD_WIRE_ROOM + NLA_ALIGN(len),
			  GFP_NOIO | __GFP_NOWARN |
			  (len > PAGE_SIZE ? __GFP_NORETRY | __GFP_NOMEMALLOC :
					     0));
	if (!skb)
		return NULL;
	header = genlmsg_put(skb, s->portid, 0, &sbd_family, 0, cmd);
	if (!header)
		goto fail;
	if (offset)
		ret = nla_put_u64_64bit(skb, SPICEBD_A_IO_COOKIE, io->cookie,
					SPICEBD_A_IO_PAD);
	else
		ret = put_request(skb, rq, io, queue, pdu->generation);
	if (!ret && len)
		ret = put_payload(skb, rq, offset, len);
	if (WARN_ON_ONCE(ret))
		goto fail;
	genlmsg_end(skb, header);
	return skb;
fail:
	nlmsg_free(skb);
	return NULL;
}

/**
 * sbd_wire_build - make a request's messages
 * @d: the drive
 * @s: socket they are for
 * @queue: hardware queue the request came from
 * @rq: the request, owned by the caller
 * @io: its cookie, operation and length are set
 * @messages: where the messages go
 *
 * Return: 0, or -ENOMEM with @messages empty. sbd_io.cost becomes what they
 * really take, if that is more.
 */
int sbd_wire_build(struct sbd_drive *d, struct sbd_sock *s, u32 queue,
		   struct request *rq, struct sbd_io *io,
		   struct sk_buff_head *messages)
{
	u32 payload = io->op == SPICEBD_OP_WRITE ? io->length : 0;
	u32 offset = 0, cost = 0, size = 0;

	do {
		struct sk_buff *skb;
		u32 len;

		len = min(payload - offset, sbd_piece_sizes[size]);
		skb = build_message(s, queue, rq, io, offset, len);
		if (!skb) {
			if (len > sbd_piece_sizes[ARRAY_SIZE(sbd_piece_sizes) - 1]) {
				size++;
				continue;
			}
			__skb_queue_purge(messages);
			return -ENOMEM;
		}
		__skb_queue_tail(messages, skb);
		cost += skb->truesize;
		offset += len;
	} while (offset < payload);
	io->cost = max(io->cost, cost);
	return 0;
}

/*
 * Sends one message, or drops it if the socket is closed or unbound: unbinding
 * takes the request back. On -EAGAIN the receive buffer was full, and the
 * caller keeps the message.
 *
 * The socket is looked up by its port, which another process may take over
 * once this one is closed; SOCK_DEAD tells, but for the instant between the
 * two steps of a close.
 */
static int send_message(struct sbd_sock *s, struct sk_buff *skb)
{
	int ret;

	if (READ_ONCE(s->dead) || sock_flag(s->sk, SOCK_DEAD))
		return 0;
	skb_get(skb);
	ret = genlmsg_unicast(&init_net, skb, s->portid);
	return ret == -EAGAIN ? ret : 0;
}

/**
 * sbd_wire_send - send a request's messages
 * @s: to this socket
 * @messages: the messages, all used up
 *
 * Context: process, may sleep; the request is on the socket's list and may end
 * at any time. What finds no room, against all accounting, waits in the
 * socket's backlog, in order, so a request never arrives in part for good.
 */
void sbd_wire_send(struct sbd_sock *s, struct sk_buff_head *messages)
{
	struct sk_buff *skb;
	bool late = !skb_queue_empty_lockless(&s->backlog);

	while ((skb = __skb_dequeue(messages))) {
		if (!late && send_message(s, skb) == -EAGAIN)
			late = true;
		if (late)
			skb_queue_tail(&s->backlog, skb);
		else
			consume_skb(skb);
	}
	if (late)
		queue_delayed_work(sbd_wq, &s->flush, SBD_WIRE_RETRY);
}

/**
 * sbd_wire_flush_work - send a socket's backlog
 * @work: sbd_sock.flush
 *
 * Context: worker; sbd_sock_put() waits for its end.
 */
void sbd_wire_flush_work(struct work_struct *work)
{
	struct sbd_sock *s = container_of(to_delayed_work(work),
					  struct sbd_sock, flush);
	unsigned int noio = memalloc_noio_save();
	struct sk_buff *skb;

	while ((skb = skb_dequeue(&s->backlog))) {
		if (send_message(s, skb) == -EAGAIN) {
			skb_queue_head(&s->backlog, skb);
			queue_delayed_work(sbd_wq, &s->flush, SBD_WIRE_RETRY);
			break;
		}
		consume_skb(skb);
	}
	memalloc_noio_restore(noio);
}

/**
 * sbd_wire_batch - begin a message for several requests
 * @s: socket it is for
 * @nr: requests that it is to hold. No more than need be: netlink copies a
 *	message that is mostly empty into a smaller one.
 *
 * A request may be what memory is freed by, so this does not wait for memory:
 * it may use the reserves, of which credit limits how much, and fails when they
 * are at their end.
 *
 * Context: process.
 *
 * Return: the message, to be used up by sbd_wire_batch_send() or freed, or
 * NULL.
 */
struct sk_buff *sbd_wire_batch(struct sbd_sock *s, u32 nr)
{
	unsigned int reserves = memalloc_noreclaim_save();
	struct sk_buff *skb;

	skb = new_message(nla_total_size(SBD_WIRE_LIST(nr)),
			  GFP_NOIO | __GFP_NOWARN);
	memalloc_noreclaim_restore(reserves);
	if (!skb)
		return NULL;
	if (!genlmsg_put(skb, s->portid, 0, &sbd_family, 0,
			 SPICEBD_CMD_IO_REQUESTS) ||
	    !nla_reserve(skb, SPICEBD_A_IO_REQUESTS, SBD_WIRE_LIST(nr))) {
		nlmsg_free(skb);
		return NULL;
	}
	return skb;
}

static struct nlattr *batch_attr(struct sk_buff *skb)
{
	return genlmsg_data(nlmsg_data(nlmsg_hdr(skb)));
}

/**
 * sbd_wire_batch_add - put a request into the message
 * @skb: the message
 * @n: requests in it
 * @rq: the request
 * @io: what the driver knows of it
 * @queue: hardware queue it came from
 *
 * Context: sock->lock held.
 */
void sbd_wire_batch_add(struct sk_buff *skb, u32 n, struct request *rq,
			const struct sbd_io *io, u32 queue)
{
	const struct sbd_pdu *pdu = blk_mq_rq_to_pdu(rq);
	struct nlattr *attr = batch_attr(skb);
	const struct spicebd_io_request r = {
		.cookie = io->cookie,
		.offset = request_offset(rq, io),
		.generation = pdu->generation,
		.length = io->length,
		.buffer = io->part.nr ? io->part.first << PAGE_SHIFT : 0,
		.queue = queue,
		.op = io->op,
		.flags = request_flags(rq, io),
	};

	memcpy(nla_data(attr) + n * sizeof(r), &r, sizeof(r));
	attr->nla_len = nla_attr_size((n + 1) * sizeof(r));
}

/**
 * sbd_wire_batch_send - send a message of several requests
 * @s: to this socket
 * @skb: the message, used up
 *
 * Context: process; no lock held. The requests may end at any time.
 */
void sbd_wire_batch_send(struct sbd_sock *s, struct sk_buff *skb)
{
	struct nlattr *attr = batch_attr(skb);
	struct sk_buff_head messages;

	skb_trim(skb, (u8 *)attr + attr->nla_len - skb->data);
	nlmsg_end(skb, nlmsg_hdr(skb));
	__skb_queue_head_init(&messages);
	__skb_queue_tail(&messages, skb);
	sbd_wire_send(s, &messages);
}
