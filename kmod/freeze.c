// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: freeze and thaw: holders, drain, flush
 *
 * While a drive has a holder no request passes: queue.c holds what comes, as it
 * does when there is no helper. Freezing is three steps of a work item:
 *
 * DRAINING	until the helper has no request; whoever takes the last one
 *		from it kicks the work (sbd_freeze_kick()).
 * FLUSHING	a flush of the driver's own goes to the helper, the one request
 *		that passes. It has a tag that is kept for it, since requests
 *		that wait may have all others. It is a request like any other:
 *		it is handed to the next helper if this one dies, and ends with
 *		an error if the medium is taken by force.
 * FROZEN, FAILED	as it ended.
 *
 * Freeze and thaw are a table of holders; what they change is under
 * drive->lock. Every begin() counts an epoch, by which the work sees that what
 * it has done was for an earlier freeze.
 *
 * The queue is not quiesced. What is filed is checked under the lock that
 * files it, so once begin() has had each of these locks nothing follows; and
 * requests that we hold can be ended by force and by delete, those that lie in
 * a quiesced queue cannot.
 */
#include <linux/sched/mm.h>

#include "drive.h"

DECLARE_WAIT_QUEUE_HEAD(sbd_freeze_wait);

static struct sbd_holder *find_holder(struct sbd_drive *d, const char *name)
{
	u32 i;

	for (i = 0; i < d->nr_holders; i++)
		if (!strcmp(d->holders[i].name, name))
			return &d->holders[i];
	return NULL;
}

/*
 * Nothing is filed with a socket after this that saw the drive thawed;
 * drive->lock held.
 */
static void wait_for_filers(struct sbd_drive *d)
{
	struct sbd_sock *s;

	list_for_each_entry(s, &d->socks, node) {
		spin_lock(&s->lock);
		spin_unlock(&s->lock);
	}
}

/* drive->lock held, or nobody knows the drive yet */
static void set_state(struct sbd_drive *d, u32 state)
{
	WRITE_ONCE(d->freeze, state);
	wake_up_all(&sbd_freeze_wait);
}

/* The first holder has come, or another try; drive->lock held. */
static void begin(struct sbd_drive *d)
{
	d->freeze_epoch++;
	d->freeze_error = 0;
	set_state(d, SPICEBD_FREEZE_DRAINING);
	wait_for_filers(d);
	sbd_queue_clock(d);
}

/* The last one has gone; drive->lock held. */
static void end(struct sbd_drive *d)
{
	d->freeze_error = 0;
	set_state(d, SPICEBD_FREEZE_THAWED);
	sbd_queue_clock(d);
	wake_up_all(&d->ready_wait);
}

/* What waited goes on, no lock held. Context: process. */
static void thawed(struct sbd_drive *d)
{
	sbd_queue_requeue_held(d);
	/*
	 * A medium that was inserted meanwhile. Under the lock: a delete cancels
	 * the work after it closed the gate.
	 */
	spin_lock(&d->lock);
	if (!(d->gate & SBD_GATE_GONE) && sbd_medium_due(d))
		queue_work(sbd_slow_wq, &d->medium_work);
	spin_unlock(&d->lock);
}

/* Runs the limits' work when the next one comes; drive->lock held. */
static void set_alarm(struct sbd_drive *d)
{
	unsigned long now = jiffies, next = 0;
	bool any = false;
	u32 i;

	for (i = 0; i < d->nr_holders; i++) {
		const struct sbd_holder *h = &d->holders[i];

		if (!h->limited)
			continue;
		if (!any || time_before(h->end, next))
			next = h->end;
		any = true;
	}
	if (d->gate & SBD_GATE_GONE || !any)
		cancel_delayed_work(&d->holders_work);
	else
		mod_delayed_work(sbd_wq, &d->holders_work,
				 time_after(next, now) ? next - now : 0);
}

static struct sbd_holder *add_holder(struct sbd_drive *d, const char *name)
{
	struct sbd_holder *h = &d->holders[d->nr_holders++];

	strscpy(h->name, name, sizeof(h->name));
	h->since = jiffies;
	return h;
}

/* drive->lock held */
static void drop_holder(struct sbd_drive *d, struct sbd_holder *h)
{
	*h = d->holders[--d->nr_holders];
	if (!d->nr_holders)
		end(d);
}

/**
 * sbd_freeze_start - a drive that is made held
 * @d: the drive, which nobody knows yet
 */
void sbd_freeze_start(struct sbd_drive *d)
{
	add_holder(d, SPICEBD_DEFAULT_HOLDER);
	d->freeze_epoch++;
	set_state(d, SPICEBD_FREEZE_DRAINING);
}

/**
 * sbd_freeze - let no request pass
 * @d: the drive
 * @name: the holder
 * @limit: seconds until it is one no more, or 0
 *
 * Context: a netlink command; waits for nobody.
 *
 * Return: 0, -ENOSPC if there are too many holders, -ENODEV.
 */
int sbd_freeze(struct sbd_drive *d, const char *name, u32 limit)
{
	unsigned int noio = sbd_ctl_lock(d);
	struct sbd_holder *h;
	bool first = false;
	int ret = 0;

	spin_lock(&d->lock);
	h = find_holder(d, name);
	if (d->gate & SBD_GATE_GONE) {
		ret = -ENODEV;
	} else if (!h && d->nr_holders == SPICEBD_MAX_HOLDERS) {
		ret = -ENOSPC;
	} else {
		if (!h) {
			first = !d->nr_holders;
			h = add_holder(d, name);
		}
		h->limited = limit;
		h->end = jiffies + limit * HZ;
		/* One that failed is tried again. */
		if (first || d->freeze == SPICEBD_FREEZE_FAILED)
			begin(d);
		set_alarm(d);
	}
	spin_unlock(&d->lock);
	if (!ret) {
		/* Before the work tells of the next step. */
		sbd_event(d, SPICEBD_EVENT_FREEZE);
		/* What was filed is to be answered. */
		sbd_queue_send_batches(d);
		sbd_freeze_drained(d);
	}
	sbd_ctl_unlock(d, noio);
	return ret;
}

/**
 * sbd_thaw - a holder lets go
 * @d: the drive
 * @name: the holder
 *
 * Context: a netlink command; waits for nobody.
 *
 * Return: 0, or -ENOENT if it is no holder.
 */
int sbd_thaw(struct sbd_drive *d, const char *name)
{
	unsigned int noio = sbd_ctl_lock(d);
	struct sbd_holder *h;
	bool last = false;
	int ret = -ENOENT;

	spin_lock(&d->lock);
	h = find_holder(d, name);
	if (h) {
		drop_holder(d, h);
		last = !d->nr_holders;
		set_alarm(d);
		ret = 0;
	}
	spin_unlock(&d->lock);
	if (!ret)
		sbd_event(d, SPICEBD_EVENT_FREEZE);
	if (last)
		thawed(d);
	sbd_ctl_unlock(d, noio);
	return ret;
}

/* Takes one holder whose limit has come. */
static bool expire_one(struct sbd_drive *d, bool *last)
{
	char name[SPICEBD_HOLDER_NAME_MAX + 1];
	bool found = false;
	u32 i;

	spin_lock(&d->lock);
	for (i = 0; i < d->nr_holders && !found; i++) {
		struct sbd_holder *h = &d->holders[i];

		if (!h->limited || time_before(jiffies, h->end))
			continue;
		strscpy(name, h->name, sizeof(name));
		drop_holder(d, h);
		*last = !d->nr_holders;
		found = true;
	}
	spin_unlock(&d->lock);
	if (!found)
		return false;
	pr_notice("%s: %s has kept it frozen for as long as it may: %s\n",
		  d->disk->disk_name, name,
		  *last ? "thawed" : "others still do");
	sbd_event(d, SPICEBD_EVENT_FREEZE_EXPIRED);
	return true;
}

/**
 * sbd_freeze_limits_work - a holder's limit has come
 * @work: sbd_drive.holders_work
 *
 * Context: worker.
 */
void sbd_freeze_limits_work(struct work_struct *work)
{
	struct sbd_drive *d = container_of(to_delayed_work(work),
					   struct sbd_drive, holders_work);
	unsigned int noio = sbd_ctl_lock(d);
	bool last = false;

	while (expire_one(d, &last))
		;
	spin_lock(&d->lock);
	set_alarm(d);
	spin_unlock(&d->lock);
	if (last)
		thawed(d);
	sbd_ctl_unlock(d, noio);
}

/* Return: 0 or an error. Context: the work item; waits for the helper. */
static int flush(struct sbd_drive *d)
{
	struct request *rq;
	blk_status_t status;

	rq = blk_mq_alloc_request(d->disk->queue, REQ_OP_DRV_OUT,
				  BLK_MQ_REQ_RESERVED);
	if (IS_ERR(rq))
		return PTR_ERR(rq);
	/* Before those that wait for a tag, perhaps until the drive is thawed. */
	status = blk_execute_rq(rq, true);
	blk_mq_free_request(rq);
	return blk_status_to_errno(status);
}

/* May have been written to, and has a cache? drive->lock held. */
static bool wants_flush(const struct sbd_drive *d)
{
	return d->ready && !d->gate &&
	       (d->medium.flags & SPICEBD_MEDIUM_FLUSH);
}

/*
 * DRAINING -> FLUSHING, if there is something to flush, or FROZEN.
 *
 * Return: the epoch, for which the caller has to flush, or 0.
 */
static u64 drained(struct sbd_drive *d)
{
	bool done = false;
	u64 epoch = 0;

	spin_lock(&d->lock);
	if (d->freeze == SPICEBD_FREEZE_DRAINING &&
	    !sbd_queue_in_flight(d)) {
		done = true;
		if (wants_flush(d)) {
			epoch = d->freeze_epoch;
			set_state(d, SPICEBD_FREEZE_FLUSHING);
		} else {
			set_state(d, SPICEBD_FREEZE_FROZEN);
		}
	}
	spin_unlock(&d->lock);
	if (done)
		sbd_event(d, SPICEBD_EVENT_FREEZE);
	return epoch;
}

/* FLUSHING -> FROZEN or FAILED, unless it was for an earlier freeze. */
static void flushed(struct sbd_drive *d, u64 epoch, int error)
{
	bool done = false;

	spin_lock(&d->lock);
	if (d->freeze == SPICEBD_FREEZE_FLUSHING && d->freeze_epoch == epoch) {
		done = true;
		d->freeze_error = -error;
		set_state(d, error ? SPICEBD_FREEZE_FAILED :
				     SPICEBD_FREEZE_FROZEN);
	}
	spin_unlock(&d->lock);
	if (done)
		sbd_event(d, SPICEBD_EVENT_FREEZE);
}

/**
 * sbd_freeze_drained - perhaps the helper has no request now
 * @d: the drive
 *
 * Context: any but interrupts; no lock held.
 */
void sbd_freeze_drained(struct sbd_drive *d)
{
	spin_lock(&d->lock);
	/* A delete cancels the work after it closed the gate. */
	if (!(d->gate & SBD_GATE_GONE))
		queue_work(sbd_slow_wq, &d->freeze_work);
	spin_unlock(&d->lock);
}

/**
 * sbd_freeze_work - go on with freezing
 * @work: sbd_drive.freeze_work
 *
 * Context: worker; waits for the flush, which ends at the latest when the
 * reconnect timeout does, after the last holder's limit.
 */
void sbd_freeze_work(struct work_struct *work)
{
	struct sbd_drive *d = container_of(work, struct sbd_drive,
					   freeze_work);
	unsigned int noio = memalloc_noio_save();
	u64 epoch;

	while ((epoch = drained(d)))
		flushed(d, epoch, flush(d));
	memalloc_noio_restore(noio);
}
