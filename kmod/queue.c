// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: a request from queue_rq to its end
 *
 * The states of a request, who moves it and under which lock: enum
 * sbd_io_state in drive.h.
 *
 * Credit. A request is given to a socket only if the socket's receive buffer
 * surely holds its messages beside those of all requests that are out. (One
 * alone may always go: where memory is so short that its pieces are small, it
 * may take more than was reckoned with when the socket was bound; what does not
 * fit then waits in the backlog.) What finds no credit goes back to the block
 * layer with BLK_STS_RESOURCE. The queue is marked in sock->waiting under the
 * same lock, and whoever gives credit back runs the marked queues: that is for
 * speed. It is no promise, since the run may come before the block layer has
 * put the request back on its list; what saves the request then is that with
 * BLK_STS_RESOURCE (not DEV_RESOURCE) the block layer itself runs the queue
 * again a little later.
 *
 * Such a request is not started, so the block layer's timeout does not watch
 * over it, and what took the credit may be requests that were ended early, whose
 * answers never come. Whoever finds no credit therefore looks itself whether the
 * helper has gone silent.
 */
#include <linux/bottom_half.h>
#include <linux/sched/mm.h>
#include <net/sock.h>

#include "drive.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static int io_op(struct request *rq)
{
	switch (req_op(rq)) {
	case REQ_OP_READ:
		return SPICEBD_OP_READ;
	case REQ_OP_WRITE:
		return SPICEBD_OP_WRITE;
	case REQ_OP_FLUSH:
	case REQ_OP_DRV_OUT:	/* freeze.c's */
		return SPICEBD_OP_FLUSH;
	case REQ_OP_DISCARD:
		return SPICEBD_OP_DISCARD;
	case REQ_OP_WRITE_ZEROES:
		return SPICEBD_OP_WRITE_ZEROES;
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * May the request still go to the medium? Called under the lock that files it,
 * so that closing the gate and then emptying the lists leaves none behind.
 */
static bool may_pass(const struct sbd_drive *d, const struct sbd_pdu *pdu)
{
	return !READ_ONCE(d->gate) &&
	       READ_ONCE(d->generation) == pdu->generation;
}

/*
 * Has the request to wait until the drive is thawed? Called as may_pass() is,
 * and for the same reason.
 */
static bool held_back(const struct sbd_drive *d, const struct request *rq)
{
	return READ_ONCE(d->freeze) && req_op(rq) != REQ_OP_DRV_OUT;
}

/* Ends a request that the caller owns (state IDLE), no lock held. */
static void end_io(struct sbd_drive *d, struct request *rq, u32 op,
		   blk_status_t status)
{
	static const u8 counters[] = {
		[SPICEBD_OP_READ] = SPICEBD_A_STATS_READS,
		[SPICEBD_OP_WRITE] = SPICEBD_A_STATS_WRITES,
		[SPICEBD_OP_FLUSH] = SPICEBD_A_STATS_FLUSHES,
		[SPICEBD_OP_DISCARD] = SPICEBD_A_STATS_DISCARDS,
		[SPICEBD_OP_WRITE_ZEROES] = SPICEBD_A_STATS_WRITE_ZEROES,
	};
	struct sbd_pdu *pdu = blk_mq_rq_to_pdu(rq);

	pdu->status = status;
	sbd_stats_add(d, counters[op], 1);
	if (status)
		sbd_stats_add(d, SPICEBD_A_STATS_ERRORS, 1);
	else if (op == SPICEBD_OP_READ)
		sbd_stats_add(d, SPICEBD_A_STATS_READ_BYTES, blk_rq_bytes(rq));
	else if (op == SPICEBD_OP_WRITE)
		sbd_stats_add(d, SPICEBD_A_STATS_WRITE_BYTES, blk_rq_bytes(rq));
	trace_spicebd_complete(d, rq, op, (__force u8)status);
	blk_mq_complete_request(rq);
	sbd_freeze_kick(d);
}

static void end_list(struct sbd_drive *d, struct list_head *list)
{
	struct sbd_io *io, *next;

	/* An ended request's tag, and so its sbd_io, is used again at once. */
	list_for_each_entry_safe(io, next, list, node)
		end_io(d, io->rq, io->op, BLK_STS_IOERR);
}

static void run_waiting(struct sbd_drive *d, unsigned long waiting)
{
	unsigned int i;

	for_each_set_bit(i, &waiting, d->nr_queues)
		blk_mq_run_hw_queue(d->queues[i].hctx, true);
}

/* Takes a request off sock->out; sock->lock held. Answered: credit is back. */
static unsigned long drop_out(struct sbd_sock *s, struct sbd_io *io)
{
	unsigned long waiting = s->waiting;

	list_del(&io->node);
	io->state = SBD_IO_IDLE;
	s->nr_out--;
	s->bytes -= io->cost;
	if (s->bufs)
		sbd_bufs_put(s->bufs, &io->part);
	s->waiting = 0;
	s->starved = 0;
	return waiting;
}

/*
 * Takes a request off sock->out without an answer; sock->lock held. Its credit
 * is kept until the helper answers: until then its messages may lie in the
 * receive buffer.
 */
static void drop_out_early(struct sbd_sock *s, struct sbd_io *io)
{
	struct sbd_owed *owed;

	owed = list_first_entry(&s->owed_free, struct sbd_owed, node);
	owed->cookie = io->cookie;
	owed->cost = io->cost;
	owed->part = io->part;
	io->part.nr = 0;
	list_move_tail(&owed->node, &s->owed);
	s->nr_owed++;
	list_del(&io->node);
	io->state = SBD_IO_IDLE;
}

static struct sbd_sock *queue_sock(struct sbd_queue *q)
{
	struct sbd_sock *s;

	rcu_read_lock();
	s = rcu_dereference(q->sock);
	if (s && !kref_get_unless_zero(&s->ref))
		s = NULL;
	rcu_read_unlock();
	return s;
}

/*
 * IDLE -> HELD. Return: -EAGAIN if it need not wait, -EIO if it has to end.
 */
static int hold_io(struct sbd_drive *d, struct sbd_io *io)
{
	const struct sbd_pdu *pdu = blk_mq_rq_to_pdu(io->rq);
	int ret = 0;

	spin_lock(&d->lock);
	if (!may_pass(d, pdu)) {
		ret = -EIO;
	} else if (d->nr_socks && !held_back(d, io->rq)) {
		ret = -EAGAIN;
	} else {
		io->state = SBD_IO_HELD;
		list_add_tail(&io->node, &d->held);
		d->nr_held++;
	}
	spin_unlock(&d->lock);
	return ret;
}

/* sock->lock held */
static bool credit_for(const struct sbd_sock *s, u32 cost)
{
	return !s->nr_out ||
	       (s->nr_out < s->max_out && s->bytes < s->max_bytes &&
		cost <= s->max_bytes - s->bytes);
}

/* Whoever gives credit back runs the queue; sock->lock held. */
static void wait_for_credit(struct sbd_sock *s, u32 queue)
{
	__set_bit(queue, &s->waiting);
	if (!s->starved)
		s->starved = jiffies | 1;
}

/* sock->lock held. Return: as hold_io(), or -ENOBUFS without credit. */
static int may_file(struct sbd_drive *d, struct sbd_sock *s, u32 queue,
		    const struct sbd_io *io)
{
	if (s->dead)
		return -EAGAIN;
	if (!may_pass(d, blk_mq_rq_to_pdu(io->rq)))
		return -EIO;
	if (held_back(d, io->rq))
		return -EAGAIN;
	if (credit_for(s, io->cost))
		return 0;
	wait_for_credit(s, queue);
	return -ENOBUFS;
}

/* IDLE -> OUT, sock->lock held. */
static void file_out(struct sbd_drive *d, struct sbd_sock *s,
		     struct sbd_io *io)
{
	struct sbd_pdu *pdu = blk_mq_rq_to_pdu(io->rq);

	s->nr_out++;
	s->bytes += io->cost;
	io->sock = s;
	io->got = 0;
	io->fate = SBD_FATE_NONE;
	io->sent = jiffies;
	io->state = SBD_IO_OUT;
	list_add_tail(&io->node, &s->out);
	if (pdu->was_out)
		sbd_stats_add(d, SPICEBD_A_STATS_RESENT, 1);
	pdu->was_out = true;
}

static void name_io(struct sbd_sock *s, u32 queue, struct sbd_io *io)
{
	io->sequence++;
	io->cookie = (u64)(io->sequence ^ s->salt) << 32 | queue << 16 |
		     io->rq->tag;
}

/* Would it find credit now? Saves copying a payload in vain. */
static bool has_credit(struct sbd_sock *s, u32 queue, u32 cost)
{
	bool ret;

	spin_lock(&s->lock);
	ret = s->dead || credit_for(s, cost);
	if (!ret)
		wait_for_credit(s, queue);
	spin_unlock(&s->lock);
	return ret;
}

/* With the payload in messages. */
static int give_out(struct sbd_drive *d, struct sbd_sock *s, u32 queue,
		    struct sbd_io *io)
{
	struct request *rq = io->rq;
	struct sk_buff_head messages;
	int ret;

	io->cost = sbd_wire_cost(io->op, io->length);
	if (!has_credit(s, queue, io->cost))
		return -ENOBUFS;

	name_io(s, queue, io);
	__skb_queue_head_init(&messages);
	ret = sbd_wire_build(d, s, queue, rq, io, &messages);
	if (ret)
		return ret;
	trace_spicebd_dispatch(d, rq, io->op, io->cookie);
	spin_lock(&s->lock);
	ret = may_file(d, s, queue, io);
	if (!ret)
		file_out(d, s, io);
	spin_unlock(&s->lock);
	if (ret)
		__skb_queue_purge(&messages);
	else
		sbd_wire_send(s, &messages);	/* it may end from here on */
	return ret;
}

static bool moves_data(u32 op)
{
	return op == SPICEBD_OP_READ || op == SPICEBD_OP_WRITE;
}

/* Room in registered memory, before the payload is copied there. */
static int reserve(struct sbd_drive *d, struct sbd_sock *s, u32 queue,
		   struct sbd_io *io)
{
	int ret;

	spin_lock(&s->lock);
	ret = may_file(d, s, queue, io);
	if (!ret && moves_data(io->op)) {
		ret = sbd_bufs_get(s->bufs, io->length, &io->part);
		if (ret)
			wait_for_credit(s, queue);
	}
	spin_unlock(&s->lock);
	return ret;
}

/* Sends what waits to be sent together. */
static void send_batch(struct sbd_sock *s)
{
	struct sk_buff *batch;

	if (!READ_ONCE(s->batch))
		return;
	spin_lock(&s->lock);
	batch = s->batch;
	s->batch = NULL;
	spin_unlock(&s->lock);
	if (batch)
		sbd_wire_batch_send(s, batch);
}

/*
 * IDLE -> OUT, into the batch. Return: as may_file(), or -ENOMEM; on an error
 * its room is given back.
 *
 * A request in the batch is out like any other: it may be ended or taken back
 * before the helper has heard of it, whose answer is then refused, or owed.
 */
static int file_batched(struct sbd_drive *d, struct sbd_sock *s, u32 queue,
			struct sbd_io *io, bool last)
{
	struct sk_buff *fresh = NULL, *full = NULL;
	int ret;

	spin_lock(&s->lock);
	if (!s->batch) {
		spin_unlock(&s->lock);
		fresh = sbd_wire_batch(s, last ? 1 : SPICEBD_BATCH_MAX);
		spin_lock(&s->lock);
	}
	ret = may_file(d, s, queue, io);
	if (!ret && !s->batch) {
		s->batch = fresh;
		s->nr_batch = 0;
		fresh = NULL;
		ret = s->batch ? 0 : -ENOMEM;
	}
	if (ret) {
		sbd_bufs_put(s->bufs, &io->part);
	} else {
		file_out(d, s, io);
		sbd_wire_batch_add(s->batch, s->nr_batch++, io->rq, io, queue);
		if (last || s->nr_batch == SPICEBD_BATCH_MAX) {
			full = s->batch;
			s->batch = NULL;
		}
	}
	spin_unlock(&s->lock);
	kfree_skb(fresh);
	if (full)
		sbd_wire_batch_send(s, full);
	return ret;
}

/* With the payload in registered memory. */
static int give_out_batched(struct sbd_drive *d, struct sbd_sock *s, u32 queue,
			    struct sbd_io *io, bool last)
{
	int ret;

	io->cost = sbd_wire_batch_cost();
	ret = reserve(d, s, queue, io);
	if (ret)
		return ret;
	if (io->op == SPICEBD_OP_WRITE)
		sbd_bufs_copy(s->bufs, &io->part, io->rq, true);
	name_io(s, queue, io);
	trace_spicebd_dispatch(d, io->rq, io->op, io->cookie);
	ret = file_batched(d, s, queue, io, last);
	/*
	 * sbd_commit_rqs() looks at the queue's socket of then. Whoever changes
	 * it sends all batches afterwards; what is added after that is sent here.
	 */
	if (!ret && !last && rcu_access_pointer(d->queues[queue].sock) != s)
		send_batch(s);
	return ret;
}

/* No more requests follow the ones that came with bd->last not set. */
static void sbd_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	struct sbd_drive *d = hctx->queue->queuedata;
	struct sbd_sock *s = queue_sock(&d->queues[hctx->queue_num]);
	unsigned int noio;

	if (!s)
		return;
	noio = memalloc_noio_save();
	send_batch(s);
	memalloc_noio_restore(noio);
	sbd_sock_put(s);
}

/*
 * Has the helper given no answer to anything since @since, for longer than it
 * may? drive->lock held.
 */
static void check_stall(struct sbd_drive *d, unsigned long since)
{
	struct sbd_sock *s;

	if (!d->stall_timeout || !d->nr_socks || d->stalled ||
	    d->helper.link == SPICEBD_LINK_LOST || sbd_suspended())
		return;
	list_for_each_entry(s, &d->socks, node)
		if (time_after(READ_ONCE(s->last_answer), since))
			since = READ_ONCE(s->last_answer);
	if (time_after(jiffies, since + d->stall_timeout * HZ)) {
		d->stalled = true;
		queue_work(sbd_wq, &d->helper_work);
	}
}

/* A request found no credit. */
static void check_starved(struct sbd_drive *d, struct sbd_sock *s)
{
	unsigned long since = READ_ONCE(s->starved);

	if (!since)
		return;
	spin_lock(&d->lock);
	check_stall(d, since);
	spin_unlock(&d->lock);
}

static blk_status_t sbd_queue_rq(struct blk_mq_hw_ctx *hctx,
				 const struct blk_mq_queue_data *bd)
{
	struct sbd_drive *d = hctx->queue->queuedata;
	struct request *rq = bd->rq;
	struct sbd_pdu *pdu = blk_mq_rq_to_pdu(rq);
	u32 queue = hctx->queue_num;
	struct sbd_io *io = &d->queues[queue].io[rq->tag];
	int op = io_op(rq);
	unsigned int noio;
	bool held = false;
	int ret;

	if (op < 0)
		return BLK_STS_NOTSUPP;
	/* A request that comes again has kept what was noted the first time. */
	if (!(rq->rq_flags & RQF_DONTPREP)) {
		/*
		 * With this mark a request that is requeued comes behind those
		 * that wait for a tag. They may wait until the drive is thawed,
		 * so freeze.c's flush, which needs none of their tags, comes as
		 * a new one each time.
		 */
		if (req_op(rq) != REQ_OP_DRV_OUT)
			rq->rq_flags |= RQF_DONTPREP;
		pdu->generation = READ_ONCE(d->generation);
		pdu->was_out = false;
		trace_spicebd_start(d, rq, op, pdu->generation);
	}
	io->rq = rq;
	io->op = op;
	io->length = op == SPICEBD_OP_FLUSH ? 0 : blk_rq_bytes(rq);
	blk_mq_start_request(rq);

	noio = memalloc_noio_save();
	do {
		struct sbd_sock *s;

		if (!may_pass(d, pdu)) {
			ret = -EIO;
			break;
		}
		s = held_back(d, rq) ? NULL : queue_sock(&d->queues[queue]);
		if (s) {
			ret = s->bufs ?
			      give_out_batched(d, s, queue, io, bd->last) :
			      give_out(d, s, queue, io);
			if (ret == -ENOBUFS)
				check_starved(d, s);
			sbd_sock_put(s);
		} else {
			ret = hold_io(d, io);
			held = !ret;
		}
		/* Bound, unbound, frozen or thawed meanwhile: look again. */
	} while (ret == -EAGAIN);
	memalloc_noio_restore(noio);
	/* Those before it wait for the last one, which is not sent itself. */
	if ((ret || held) && bd->last)
		sbd_commit_rqs(hctx);

	switch (ret) {
	case 0:
		return BLK_STS_OK;
	case -ENOBUFS:
	case -ENOMEM:
		return BLK_STS_RESOURCE;
	default:
		end_io(d, rq, op, BLK_STS_IOERR);
		return BLK_STS_OK;
	}
}

/*
 * Ends a request, often in the context of the helper's sendmsg(). What waited
 * for it may hold the last reference to an open file of this very drive (an
 * asynchronous read by a process that has closed it meanwhile). Dropped in a
 * task's context, that file is closed by this task on its way back to
 * userspace: the helper would then wait for open_mutex, or for dirty pages to
 * be written, and so for itself. With bottom halves disabled it is left to a
 * kernel worker.
 */
static void sbd_complete_rq(struct request *rq)
{
	const struct sbd_pdu *pdu = blk_mq_rq_to_pdu(rq);

	local_bh_disable();
	blk_mq_end_request(rq, pdu->status);
	local_bh_enable();
}

/*
 * Called by the block layer about once in a second while requests are started.
 * Never ends a request: it only looks whether the helper has gone silent.
 */
static enum blk_eh_timer_return sbd_timeout(struct request *rq)
{
	struct sbd_drive *d = rq->q->queuedata;
	const struct sbd_io *io = sbd_rq_io(rq);

	spin_lock(&d->lock);
	if (READ_ONCE(io->state) == SBD_IO_OUT)
		check_stall(d, READ_ONCE(io->sent));
	spin_unlock(&d->lock);
	return BLK_EH_RESET_TIMER;
}

static int sbd_init_hctx(struct blk_mq_hw_ctx *hctx, void *data,
			 unsigned int index)
{
	struct sbd_drive *d = data;

	d->queues[index].hctx = hctx;
	return 0;
}

const struct blk_mq_ops sbd_mq_ops = {
	.queue_rq = sbd_queue_rq,
	.commit_rqs = sbd_commit_rqs,
	.complete = sbd_complete_rq,
	.timeout = sbd_timeout,
	.init_hctx = sbd_init_hctx,
};

/**
 * sbd_queue_in_flight - requests the helper has
 * @d: the drive, its lock held
 */
u32 sbd_queue_in_flight(struct sbd_drive *d)
{
	struct sbd_sock *s;
	u32 n = 0;

	list_for_each_entry(s, &d->socks, node)
		n += READ_ONCE(s->nr_out) - READ_ONCE(s->nr_owed);
	return n;
}

/**
 * sbd_queue_end_all - end every request with an error
 * @d: the drive, its gate closed by the caller before
 *
 * Context: process; waits for nobody. Requests that the block layer still has
 * end when they come to the gate.
 */
void sbd_queue_end_all(struct sbd_drive *d)
{
	struct sbd_io *io, *next;
	struct sbd_sock *s;
	LIST_HEAD(list);

	spin_lock(&d->lock);
	list_for_each_entry(io, &d->held, node)
		io->state = SBD_IO_IDLE;
	list_splice_init(&d->held, &list);
	d->nr_held = 0;
	list_for_each_entry(s, &d->socks, node) {
		spin_lock(&s->lock);
		list_for_each_entry_safe(io, next, &s->out, node) {
			if (io->state == SBD_IO_BUSY) {
				io->fate = SBD_FATE_END;
				continue;
			}
			drop_out_early(s, io);
			list_add_tail(&io->node, &list);
		}
		spin_unlock(&s->lock);
	}
	spin_unlock(&d->lock);
	end_list(d, &list);
	blk_mq_run_hw_queues(d->disk->queue, true);
}

/**
 * sbd_queue_requeue_held - send held requests on their way again
 * @d: the drive
 *
 * Context: process.
 */
void sbd_queue_requeue_held(struct sbd_drive *d)
{
	struct sbd_io *io, *next;
	LIST_HEAD(list);

	spin_lock(&d->lock);
	list_for_each_entry(io, &d->held, node)
		io->state = SBD_IO_IDLE;
	list_splice_init(&d->held, &list);
	d->nr_held = 0;
	spin_unlock(&d->lock);

	list_for_each_entry_safe(io, next, &list, node)
		blk_mq_requeue_request(io->rq, false);
	blk_mq_kick_requeue_list(d->disk->queue);
	blk_mq_run_hw_queues(d->disk->queue, true);
}

/**
 * sbd_queue_send_batches - send what the sockets have not sent yet
 * @d: the drive
 *
 * Context: process, drive->ctl held; after the table of sockets was changed.
 */
void sbd_queue_send_batches(struct sbd_drive *d)
{
	struct sbd_sock *s;

	/* Only holders of drive->ctl change the list. */
	list_for_each_entry(s, &d->socks, node)
		send_batch(s);
}

/**
 * sbd_queue_take_back - take back what a socket's helper has
 * @d: the drive, its lock held
 * @s: the socket, about to be unbound
 *
 * Marks the socket dead; its requests are held from now on.
 */
void sbd_queue_take_back(struct sbd_drive *d, struct sbd_sock *s)
{
	struct sbd_io *io, *next;

	lockdep_assert_held(&d->lock);
	spin_lock(&s->lock);
	s->dead = true;
	list_for_each_entry_safe(io, next, &s->out, node) {
		if (io->state == SBD_IO_BUSY) {
			/* An end by force is not to be turned into a hold. */
			if (io->fate == SBD_FATE_NONE)
				io->fate = SBD_FATE_HOLD;
			continue;
		}
		drop_out(s, io);
		io->state = SBD_IO_HELD;
		list_add_tail(&io->node, &d->held);
		d->nr_held++;
	}
	spin_unlock(&s->lock);
}

/**
 * sbd_queue_clock - start or stop the clock of waiting requests
 * @d: the drive, its lock held
 *
 * To be called whenever something changes that it depends on: medium, bound
 * sockets, link, freeze, the timeout, the machine's sleep.
 */
void sbd_queue_clock(struct sbd_drive *d)
{
	bool run = d->tray.medium && !(d->gate & SBD_GATE_GONE) && !d->freeze &&
		   !sbd_suspended() &&
		   (!d->nr_socks || d->helper.link == SPICEBD_LINK_LOST);
	unsigned long now = jiffies, end;

	lockdep_assert_held(&d->lock);
	if (run && !d->clock_running)
		d->clock_start = now;
	d->clock_running = run;
	end = d->clock_start + d->reconnect_timeout * HZ;
	if (!run || d->reconnect_timeout < 0) {
		d->gate &= ~SBD_GATE_EXPIRED;
		cancel_delayed_work(&d->clock_work);
	} else if (time_after_eq(now, end)) {
		d->gate |= SBD_GATE_EXPIRED;
		mod_delayed_work(sbd_wq, &d->clock_work, 0);
	} else {
		d->gate &= ~SBD_GATE_EXPIRED;
		mod_delayed_work(sbd_wq, &d->clock_work, end - now);
	}
	sbd_event_probe(d);
	wake_up_all(&sbd_freeze_wait);
}

/**
 * sbd_queue_clock_work - time is over for requests that wait
 * @work: sbd_drive.clock_work
 *
 * Context: worker.
 */
void sbd_queue_clock_work(struct work_struct *work)
{
	struct sbd_drive *d = container_of(to_delayed_work(work),
					   struct sbd_drive, clock_work);
	bool expired;

	spin_lock(&d->lock);
	/* It queues this work when time is over, so once it is over not again. */
	if (d->clock_running && !(d->gate & SBD_GATE_EXPIRED))
		sbd_queue_clock(d);
	expired = d->gate & SBD_GATE_EXPIRED;
	spin_unlock(&d->lock);
	if (expired)
		sbd_queue_end_all(d);
}

static blk_status_t reply_status(u32 error)
{
	/*
	 * Only what the block layer's users understand from a drive: others
	 * would make it try again, or stop.
	 */
	switch (error) {
	case 0:
		return BLK_STS_OK;
	case ENOSPC:
		return BLK_STS_NOSPC;
	case EOPNOTSUPP:
		return BLK_STS_NOTSUPP;
	case ETIMEDOUT:
		return BLK_STS_TIMEOUT;
	default:
		return BLK_STS_IOERR;
	}
}

/*
 * Finds the request that a reply names; sock->lock held.
 *
 * Return: the request, state OUT; NULL for an answer to a request that was
 * ended early, which is not looked at further; or an error.
 */
static struct sbd_io *find_io(struct sbd_sock *s, u64 cookie, bool last,
			      unsigned long *waiting, const char **why)
{
	struct sbd_drive *d = s->drive;
	u32 queue = (u32)cookie >> 16, tag = cookie & 0xffff;
	struct sbd_owed *owed;
	struct sbd_io *io;

	if (s->dead) {
		*why = "this socket is no longer bound";
		return ERR_PTR(-ENOTCONN);
	}
	if (queue < d->nr_queues && tag < sbd_nr_tags(d)) {
		io = &d->queues[queue].io[tag];
		/*
		 * A request that another socket has may change under us, but
		 * only we could make it ours.
		 */
		if (READ_ONCE(io->sock) == s &&
		    READ_ONCE(io->cookie) == cookie) {
			if (io->state == SBD_IO_OUT)
				return io;
			if (io->state == SBD_IO_BUSY) {
				*why = "another reply to this request is being taken";
				return ERR_PTR(-EBUSY);
			}
		}
	}
	list_for_each_entry(owed, &s->owed, node) {
		if (owed->cookie != cookie)
			continue;
		if (last) {
			list_move(&owed->node, &s->owed_free);
			s->nr_owed--;
			s->nr_out--;
			s->bytes -= owed->cost;
			if (s->bufs)
				sbd_bufs_put(s->bufs, &owed->part);
			*waiting = s->waiting;
			s->waiting = 0;
			s->starved = 0;
		}
		return NULL;
	}
	*why = "no request with this cookie waits for this socket";
	return ERR_PTR(-ENOENT);
}

static int check_piece(const struct sbd_io *io, u32 offset, u32 len,
		       const char **why)
{
	if (io->op != SPICEBD_OP_READ) {
		*why = "only a read takes data";
		return -EINVAL;
	}
	if (!len) {
		*why = "an empty piece";
		return -EINVAL;
	}
	if (offset != io->got) {
		*why = "a piece out of order";
		return -EINVAL;
	}
	if (len > io->length - io->got) {
		*why = "more data than was asked for";
		return -EINVAL;
	}
	return 0;
}

/*
 * Copies a piece of a read; sock->lock held, dropped, and taken again. The
 * request is BUSY meanwhile.
 *
 * Return: true if the request is still the socket's; false if it was taken
 * off the socket's list, and *fate says what for.
 */
static bool take_piece(struct sbd_sock *s, struct sbd_io *io,
		       const void *data, u32 len, bool last,
		       enum sbd_io_fate *fate)
	__must_hold(&s->lock)
{
	struct request *rq = io->rq;
	u32 offset = io->got;

	io->state = SBD_IO_BUSY;
	spin_unlock(&s->lock);
	sbd_wire_copy_in(rq, offset, data, len);
	spin_lock(&s->lock);
	io->got += len;
	*fate = io->fate;
	io->fate = SBD_FATE_NONE;
	/* With its last piece a request is answered, whatever was wished. */
	if (*fate == SBD_FATE_NONE || last) {
		io->state = SBD_IO_OUT;
		return true;
	}
	if (*fate == SBD_FATE_END && !s->dead)
		drop_out_early(s, io);
	else
		drop_out(s, io);
	return false;
}

/* What became due while a piece was copied; state IDLE, no lock held. */
static void meet_fate(struct sbd_drive *d, struct sbd_io *io,
		      enum sbd_io_fate fate)
{
	int ret = -EIO;

	if (fate == SBD_FATE_HOLD)
		ret = hold_io(d, io);
	if (ret == -EAGAIN)
		blk_mq_requeue_request(io->rq, true);
	else if (ret)
		end_io(d, io->rq, io->op, BLK_STS_IOERR);
}

/**
 * sbd_queue_refuse - count and tell a reply that is worth nothing
 * @s: the bound socket it came on
 * @why: what is wrong with it
 */
void sbd_queue_refuse(struct sbd_sock *s, const char *why)
{
	sbd_stats_add(s->drive, SPICEBD_A_STATS_REFUSED, 1);
	pr_warn_ratelimited("%s: refused a reply: %s\n",
			    s->drive->disk->disk_name, why);
}

/**
 * sbd_queue_data - take a piece of a read's payload
 * @s: the bound socket it came on
 * @cookie: names the request
 * @offset: of the piece within the request
 * @data: the piece
 * @len: its length
 * @why: what is wrong with it, when an error is returned
 *
 * Context: the helper's sendmsg().
 *
 * Return: 0, or -ENOENT, -EBUSY, -EINVAL, -ENOTCONN: refused, and counted.
 */
int sbd_queue_data(struct sbd_sock *s, u64 cookie, u32 offset,
		   const void *data, u32 len, const char **why)
{
	enum sbd_io_fate fate = SBD_FATE_NONE;
	unsigned long waiting = 0;
	struct sbd_io *io;
	bool ours = true;
	int ret = 0;

	if (s->bufs) {
		*why = "payload goes through the registered memory";
		sbd_queue_refuse(s, *why);
		return -EINVAL;
	}
	spin_lock(&s->lock);
	io = find_io(s, cookie, false, &waiting, why);
	if (IS_ERR(io))
		ret = PTR_ERR(io);
	else if (io)
		ret = check_piece(io, offset, len, why);
	if (!ret) {
		WRITE_ONCE(s->last_answer, jiffies);
		if (io)
			ours = take_piece(s, io, data, len, false, &fate);
	}
	spin_unlock(&s->lock);

	if (ret)
		sbd_queue_refuse(s, *why);
	else if (!ours)
		meet_fate(s->drive, io, fate);
	return ret;
}

/**
 * sbd_queue_complete - take the end of a request
 * @s: the bound socket it came on
 * @cookie: names the request
 * @error: errno value, 0 for success
 * @offset: of @data within the request
 * @data: the last piece of a read, or NULL
 * @len: its length
 * @why: what is wrong with it, when an error is returned
 *
 * Context: the helper's sendmsg().
 *
 * Return: 0, or -ENOENT, -EBUSY, -EINVAL, -ENOTCONN: refused, and counted;
 * the request, if there is one, still waits.
 */
int sbd_queue_complete(struct sbd_sock *s, u64 cookie, u32 error, u32 offset,
		       const void *data, u32 len, const char **why)
{
	enum sbd_io_fate fate = SBD_FATE_NONE;
	struct sbd_drive *d = s->drive;
	unsigned long waiting = 0;
	struct request *rq = NULL;
	struct sbd_io *io;
	int ret = 0;
	u32 op = 0;

	if (s->bufs) {
		*why = "a socket with registered memory answers in lists";
		sbd_queue_refuse(s, *why);
		return -EINVAL;
	}
	spin_lock(&s->lock);
	io = find_io(s, cookie, true, &waiting, why);
	if (IS_ERR(io)) {
		ret = PTR_ERR(io);
	} else if (io) {
		if (data)
			ret = check_piece(io, offset, len, why);
		if (!ret && error && data) {
			*why = "an error that brings data";
			ret = -EINVAL;
		}
		if (!ret && !error && io->op == SPICEBD_OP_READ &&
		    io->got + len != io->length) {
			*why = "a read that did not bring all its data";
			ret = -EINVAL;
		}
	}
	if (!ret) {
		WRITE_ONCE(s->last_answer, jiffies);
		if (io) {
			if (data)
				take_piece(s, io, data, len, true, &fate);
			rq = io->rq;
			op = io->op;
			waiting = drop_out(s, io);
		}
	}
	spin_unlock(&s->lock);

	if (ret) {
		sbd_queue_refuse(s, *why);
		return ret;
	}
	if (rq)
		end_io(d, rq, op, reply_status(error));
	run_waiting(d, waiting);
	return 0;
}

/*
 * Copies a read's payload out of registered memory; sock->lock held, dropped,
 * and taken again. The request is BUSY meanwhile; since it is answered, nothing
 * that was wished of it then matters.
 */
static void take_payload(struct sbd_sock *s, struct sbd_io *io)
	__must_hold(&s->lock)
{
	io->state = SBD_IO_BUSY;
	spin_unlock(&s->lock);
	sbd_bufs_copy(s->bufs, &io->part, io->rq, false);
	spin_lock(&s->lock);
	io->fate = SBD_FATE_NONE;
	io->state = SBD_IO_OUT;
}

static int take_answer(struct sbd_sock *s, u64 cookie, u32 error,
		       unsigned long *waiting, const char **why)
{
	struct request *rq = NULL;
	unsigned long freed = 0;
	struct sbd_io *io;
	u32 op = 0;

	spin_lock(&s->lock);
	io = find_io(s, cookie, true, &freed, why);
	if (!IS_ERR(io))
		WRITE_ONCE(s->last_answer, jiffies);
	if (!IS_ERR_OR_NULL(io)) {
		if (io->op == SPICEBD_OP_READ && !error)
			take_payload(s, io);
		rq = io->rq;
		op = io->op;
		freed = drop_out(s, io);
	}
	spin_unlock(&s->lock);

	*waiting |= freed;
	if (IS_ERR(io)) {
		sbd_queue_refuse(s, *why);
		return PTR_ERR(io);
	}
	if (rq)
		end_io(s->drive, rq, op, reply_status(error));
	return 0;
}

/**
 * sbd_queue_answers - take the answers to requests with registered memory
 * @s: the bound socket they came on
 * @list: the answers, perhaps not aligned
 * @nr: how many
 * @why: what is wrong with the first that is refused
 *
 * Context: the helper's sendmsg().
 *
 * Return: 0, or the error of the first that was refused: -ENOENT, -EBUSY,
 * -EINVAL, -ENOTCONN. All are looked at, each refusal is counted.
 */
int sbd_queue_answers(struct sbd_sock *s, const struct spicebd_io_answer *list,
		      u32 nr, const char **why)
{
	unsigned long waiting = 0;
	int first = 0;
	u32 i;

	if (!s->bufs) {
		*why = "this socket has registered no memory";
		sbd_queue_refuse(s, *why);
		return -EINVAL;
	}
	for (i = 0; i < nr; i++) {
		const char *reason = NULL;
		struct spicebd_io_answer a;
		int ret;

		memcpy(&a, list + i, sizeof(a));
		ret = take_answer(s, a.cookie, a.error, &waiting, &reason);
		if (ret && !first) {
			first = ret;
			*why = reason;
		}
	}
	run_waiting(s->drive, waiting);
	return first;
}
