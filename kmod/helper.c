// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: who serves a drive: attach, bind, stall, death; keys and cookies
 *
 * Sockets are known by the address of their struct sock, on which we hold a
 * reference: a port id can be another process's as soon as a socket is closed,
 * even before we are told of the close.
 *
 * A drive is attached by a control socket, which gets one-use keys; with a key
 * any socket becomes one of the drive's queue sockets. Closing one queue socket
 * gives the requests it had to the others; with the last one, or with the
 * control socket if none was bound, the helper is lost.
 */
#include <linux/hashtable.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <net/sock.h>

#include "drive.h"

/* Receive buffer that is left to answers to the socket's own commands. */
#define SBD_CONTROL_ROOM	8192

/* All bound sockets, by struct sock. Written under the lock, read under RCU. */
static DEFINE_HASHTABLE(sbd_socks, 6);
static DEFINE_SPINLOCK(sbd_socks_lock);

static void sbd_sock_release(struct kref *ref)
{
	struct sbd_sock *s = container_of(ref, struct sbd_sock, ref);

	cancel_delayed_work_sync(&s->flush);
	skb_queue_purge(&s->backlog);
	kfree_skb(s->batch);
	spin_lock(&s->drive->lock);
	s->drive->buffer_bytes -= sbd_bufs_size(s->bufs);
	spin_unlock(&s->drive->lock);
	sbd_bufs_unpin(s->bufs);
	sock_put(s->sk);
	sbd_drive_put(s->drive);
	kvfree_rcu(s, rcu);
}

/**
 * sbd_sock_put - drop a reference
 * @s: the bound socket
 *
 * Context: process, may sleep.
 */
void sbd_sock_put(struct sbd_sock *s)
{
	kref_put(&s->ref, sbd_sock_release);
}

/**
 * sbd_sock_find - the bound socket of a struct sock
 * @sk: the socket
 *
 * Return: a reference, or NULL.
 */
struct sbd_sock *sbd_sock_find(struct sock *sk)
{
	struct sbd_sock *s;

	rcu_read_lock();
	hash_for_each_possible_rcu(sbd_socks, s, hash, (unsigned long)sk) {
		if (s->sk == sk && kref_get_unless_zero(&s->ref)) {
			rcu_read_unlock();
			return s;
		}
	}
	rcu_read_unlock();
	return NULL;
}

/* Puts a socket in the hash, unless its struct sock is there already. */
static bool publish(struct sbd_sock *s)
{
	struct sbd_sock *other;
	bool ret = true;

	spin_lock(&sbd_socks_lock);
	hash_for_each_possible(sbd_socks, other, hash, (unsigned long)s->sk)
		if (other->sk == s->sk)
			ret = false;
	if (ret)
		hash_add_rcu(sbd_socks, &s->hash, (unsigned long)s->sk);
	spin_unlock(&sbd_socks_lock);
	return ret;
}

static void unpublish(struct sbd_sock *s)
{
	spin_lock(&sbd_socks_lock);
	hash_del_rcu(&s->hash);
	spin_unlock(&sbd_socks_lock);
}

/* How well a socket suits a hardware queue; less is better. */
static int suits(const struct sbd_sock *s, u32 queue)
{
	if (!s->queues)
		return 1;
	return s->queues & BIT_ULL(queue) ? 0 : 2;
}

/*
 * Gives every hardware queue a socket: one that asked for it, else one that
 * leaves it to us, else any; in turn. drive->lock held.
 */
static void rebalance(struct sbd_drive *d)
{
	u32 queue;

	for (queue = 0; queue < d->nr_queues; queue++) {
		struct sbd_sock *s, *pick = NULL;
		int best = 3;
		u32 n = 0, turn;

		list_for_each_entry(s, &d->socks, node) {
			if (suits(s, queue) < best) {
				best = suits(s, queue);
				n = 0;
			}
			if (suits(s, queue) == best)
				n++;
		}
		turn = n ? queue % n : 0;
		list_for_each_entry(s, &d->socks, node) {
			if (suits(s, queue) != best)
				continue;
			pick = s;
			if (!turn--)
				break;
		}
		rcu_assign_pointer(d->queues[queue].sock, pick);
	}
}

/* Unbinds a socket; drive->ctl held. Its requests are held, to be requeued. */
static void unbind(struct sbd_drive *d, struct sbd_sock *s)
{
	spin_lock(&d->lock);
	sbd_queue_take_back(d, s);
	list_del(&s->node);
	d->nr_socks--;
	rebalance(d);
	spin_unlock(&d->lock);

	sbd_queue_send_batches(d);
	sbd_freeze_kick(d);
	unpublish(s);
	sbd_sock_put(s);
}

/**
 * sbd_helper_forget_locked - a drive without medium has not lost its helper
 * @d: the drive, its lock held
 */
void sbd_helper_forget_locked(struct sbd_drive *d)
{
	lockdep_assert_held(&d->lock);
	if (d->helper.state == SPICEBD_HELPER_LOST)
		d->helper.state = SPICEBD_HELPER_NONE;
}

/*
 * The helper is gone, or sent away (orderly). No socket is bound any more.
 * drive->ctl held.
 */
static void helper_gone(struct sbd_drive *d, bool orderly)
{
	struct sock *ctl;

	spin_lock(&d->lock);
	ctl = d->helper.ctl;
	d->helper.ctl = NULL;
	d->helper.portid = 0;
	d->helper.pid = 0;
	d->helper.nr_keys = 0;
	memzero_explicit(d->helper.keys, sizeof(d->helper.keys));
	d->helper.link = SPICEBD_LINK_UP;
	d->helper.state = !orderly && d->tray.medium ? SPICEBD_HELPER_LOST :
						       SPICEBD_HELPER_NONE;
	d->stalled = false;
	sbd_queue_clock(d);
	spin_unlock(&d->lock);
	if (ctl)
		sock_put(ctl);
	sbd_event(d, SPICEBD_EVENT_HELPER_LOST);
}

/* Unbinds the sockets that were closed, or all; drive->ctl held. */
static bool unbind_sockets(struct sbd_drive *d, bool all)
{
	struct sbd_sock *s, *next;
	bool any = false;

	/* Only holders of drive->ctl change the list. */
	list_for_each_entry_safe(s, next, &d->socks, node) {
		if (all || sock_flag(s->sk, SOCK_DEAD)) {
			unbind(d, s);
			any = true;
		}
	}
	return any;
}

/* Looks who is still there; drive->ctl held. */
static void reap(struct sbd_drive *d)
{
	struct sock *ctl = NULL;
	bool any, stalled;

	spin_lock(&d->lock);
	stalled = d->stalled;
	spin_unlock(&d->lock);
	if (stalled)
		pr_warn("%s: the helper has not answered for %u s: unbound\n",
			d->disk->disk_name, d->stall_timeout);
	any = unbind_sockets(d, stalled);

	spin_lock(&d->lock);
	if (d->helper.ctl && sock_flag(d->helper.ctl, SOCK_DEAD)) {
		ctl = d->helper.ctl;
		d->helper.ctl = NULL;
		d->helper.nr_keys = 0;
	}
	spin_unlock(&d->lock);
	if (d->helper.state == SPICEBD_HELPER_ATTACHED && !d->nr_socks &&
	    (any || !d->helper.ctl))
		helper_gone(d, false);
	else if (any)
		sbd_queue_requeue_held(d);
	if (ctl)
		sock_put(ctl);
}

/**
 * sbd_helper_work - a socket was closed, or the helper has stalled
 * @work: sbd_drive.helper_work
 *
 * Context: worker.
 */
void sbd_helper_work(struct work_struct *work)
{
	struct sbd_drive *d = container_of(work, struct sbd_drive,
					   helper_work);
	unsigned int noio = sbd_ctl_lock(d);

	reap(d);
	sbd_ctl_unlock(d, noio);
}

/**
 * sbd_helper_released - a generic netlink socket was closed
 * @portid: its port id
 *
 * Context: the closing process, inside a notifier: flags and schedules only.
 */
void sbd_helper_released(u32 portid)
{
	struct sbd_sock *s;
	unsigned int i;

	spin_lock(&sbd_socks_lock);
	hash_for_each(sbd_socks, i, s, hash)
		if (s->portid == portid && sock_flag(s->sk, SOCK_DEAD))
			queue_work(sbd_wq, &s->drive->helper_work);
	spin_unlock(&sbd_socks_lock);
}

/* drive->lock held */
static int new_keys(struct sbd_drive *d, u32 nr, u8 (*keys)[SPICEBD_KEY_LEN])
{
	struct sbd_helper *h = &d->helper;

	if (nr > SBD_MAX_UNUSED_KEYS - h->nr_keys)
		return -ENOSPC;
	memcpy(h->keys[h->nr_keys], keys, nr * SPICEBD_KEY_LEN);
	h->nr_keys += nr;
	return 0;
}

/**
 * sbd_helper_attach - make a control socket the drive's helper
 * @d: the drive
 * @sk: the control socket
 * @portid: its port id
 * @nr_keys: keys it wants
 * @keys: where they go
 *
 * Context: a netlink command; waits for nobody.
 *
 * Return: 0, -EBUSY if there is a helper, -ENODEV.
 */
int sbd_helper_attach(struct sbd_drive *d, struct sock *sk, u32 portid,
		      u32 nr_keys, u8 (*keys)[SPICEBD_KEY_LEN])
{
	unsigned int noio = sbd_ctl_lock(d);
	int ret = 0;

	reap(d);
	get_random_bytes(keys, nr_keys * SPICEBD_KEY_LEN);
	spin_lock(&d->lock);
	if (d->gate & SBD_GATE_GONE) {
		ret = -ENODEV;
	} else if (d->helper.state == SPICEBD_HELPER_ATTACHED) {
		ret = -EBUSY;
	} else {
		d->helper.state = SPICEBD_HELPER_ATTACHED;
		d->helper.link = SPICEBD_LINK_UP;
		d->helper.ctl = sk;
		d->helper.portid = portid;
		d->helper.pid = task_tgid_nr(current);
		new_keys(d, nr_keys, keys);
		sock_hold(sk);
	}
	spin_unlock(&d->lock);
	if (!ret)
		sbd_event(d, SPICEBD_EVENT_HELPER_ATTACHED);
	sbd_ctl_unlock(d, noio);
	return ret;
}

/**
 * sbd_helper_is - is this the control socket that attached?
 * @d: the drive
 * @sk: the socket
 */
bool sbd_helper_is(struct sbd_drive *d, struct sock *sk)
{
	return READ_ONCE(d->helper.ctl) == sk;
}

/**
 * sbd_helper_detach - end an attachment in an orderly way
 * @d: the drive
 * @sk: the control socket that attached
 *
 * Context: a netlink command. Requests that the helper has are held as if it
 * had died.
 *
 * Return: 0, or -EPERM if somebody else attached, or nobody.
 */
int sbd_helper_detach(struct sbd_drive *d, struct sock *sk)
{
	unsigned int noio = sbd_ctl_lock(d);
	int ret = -EPERM;

	if (sbd_helper_is(d, sk)) {
		unbind_sockets(d, true);
		helper_gone(d, true);
		ret = 0;
	}
	sbd_ctl_unlock(d, noio);
	return ret;
}

/**
 * sbd_helper_remove - send the helper of a drive away that is being deleted
 * @d: the drive
 *
 * Context: worker.
 */
void sbd_helper_remove(struct sbd_drive *d)
{
	unsigned int noio = sbd_ctl_lock(d);

	unbind_sockets(d, true);
	if (d->helper.state != SPICEBD_HELPER_NONE)
		helper_gone(d, true);
	sbd_ctl_unlock(d, noio);
	/* What a reply's handler held meanwhile ends at the gate. */
	sbd_queue_end_all(d);
}

/**
 * sbd_helper_new_keys - more keys
 * @d: the drive
 * @sk: the control socket that attached
 * @nr_keys: how many
 * @keys: where they go
 *
 * Return: 0, -EPERM if somebody else attached, -ENOSPC if too many are unused.
 */
int sbd_helper_new_keys(struct sbd_drive *d, struct sock *sk, u32 nr_keys,
			u8 (*keys)[SPICEBD_KEY_LEN])
{
	int ret = -EPERM;

	get_random_bytes(keys, nr_keys * SPICEBD_KEY_LEN);
	spin_lock(&d->lock);
	if (d->helper.ctl == sk)
		ret = new_keys(d, nr_keys, keys);
	spin_unlock(&d->lock);
	return ret;
}

/**
 * sbd_helper_link - the helper reports on its far end
 * @d: the drive
 * @sk: the control socket that attached
 * @link: enum spicebd_link
 *
 * While the link is lost the helper owes no answers, and the clock of the
 * reconnect timeout runs.
 *
 * Return: 0, or -EPERM if somebody else attached.
 */
int sbd_helper_link(struct sbd_drive *d, struct sock *sk, u32 link)
{
	unsigned int noio = sbd_ctl_lock(d);
	bool changed = false;
	struct sbd_sock *s;
	int ret = -EPERM;

	spin_lock(&d->lock);
	if (d->helper.ctl == sk) {
		ret = 0;
		changed = d->helper.link != link;
		d->helper.link = link;
		list_for_each_entry(s, &d->socks, node)
			WRITE_ONCE(s->last_answer, jiffies);
		sbd_queue_clock(d);
	}
	spin_unlock(&d->lock);
	if (changed)
		sbd_event(d, link == SPICEBD_LINK_LOST ?
			  SPICEBD_EVENT_LINK_LOST : SPICEBD_EVENT_LINK_BACK);
	sbd_ctl_unlock(d, noio);
	return ret;
}

/* Finds the key among the drive's; drive->lock held. Return: its place. */
static int find_key(const struct sbd_drive *d, const u8 *key)
{
	int i, j;

	for (i = 0; i < d->helper.nr_keys; i++) {
		u8 differ = 0;

		/* Takes as long for any wrong key. */
		for (j = 0; j < SPICEBD_KEY_LEN; j++)
			differ |= key[j] ^ d->helper.keys[i][j];
		if (!differ)
			return i;
	}
	return -ENOENT;
}

static struct sbd_drive *drive_of_key(const u8 *key)
{
	struct sbd_drive *d;
	u32 i;

	for (i = 0; (d = sbd_drive_get_next(i)); i = d->index + 1) {
		int place;

		spin_lock(&d->lock);
		place = find_key(d, key);
		spin_unlock(&d->lock);
		if (place >= 0)
			return d;
		sbd_drive_put(d);
	}
	return NULL;
}

/* Takes @bufs over, if it succeeds: a part of what the drive's sockets may. */
static int register_memory(struct sbd_drive *d, struct sbd_sock *s,
			   struct sbd_bufs *bufs, const char **why)
{
	u64 size = sbd_bufs_size(bufs);
	int ret = 0;

	if (size < PAGE_ALIGN(d->max_io)) {
		*why = "the buffer does not hold the drive's largest request";
		return -EINVAL;
	}
	spin_lock(&d->lock);
	if (size > SPICEBD_MAX_BUFFER - d->buffer_bytes)
		ret = -ENOSPC;
	else
		d->buffer_bytes += size;
	spin_unlock(&d->lock);
	if (ret)
		*why = "the drive's sockets have registered all they may";
	else
		s->bufs = bufs;
	return ret;
}

static struct sbd_sock *new_sock(struct sbd_drive *d, const struct sbd_bind *b,
				 struct sbd_bufs *bufs, struct sock *sk,
				 u32 portid, const char **why)
{
	u32 cost = bufs ? sbd_wire_batch_cost() :
			  sbd_wire_cost(SPICEBD_OP_READ, 0);
	u32 need = bufs ? cost : sbd_wire_cost(SPICEBD_OP_WRITE, d->max_io);
	u32 room, credit, i;
	struct sbd_sock *s;
	int ret;

	if (b->queues >> d->nr_queues) {
		*why = "the drive has no such hardware queue";
		return ERR_PTR(-EINVAL);
	}
	room = max_t(int, READ_ONCE(sk->sk_rcvbuf) - SBD_CONTROL_ROOM, 0);
	if (room < need) {
		*why = "the receive buffer does not hold one full request: SO_RCVBUFFORCE first";
		return ERR_PTR(-ENOBUFS);
	}
	credit = min(d->nr_queues * sbd_nr_tags(d), room / cost);

	s = kvzalloc(struct_size(s, owed_mem, credit), GFP_KERNEL);
	if (!s)
		return ERR_PTR(-ENOMEM);
	kref_init(&s->ref);
	s->sk = sk;
	s->portid = portid;
	s->queues = b->queues;
	s->salt = get_random_u32();
	spin_lock_init(&s->lock);
	INIT_LIST_HEAD(&s->out);
	INIT_LIST_HEAD(&s->owed);
	INIT_LIST_HEAD(&s->owed_free);
	for (i = 0; i < credit; i++)
		list_add_tail(&s->owed_mem[i].node, &s->owed_free);
	s->max_out = credit;
	s->max_bytes = room;
	s->last_answer = jiffies;
	skb_queue_head_init(&s->backlog);
	INIT_DELAYED_WORK(&s->flush, sbd_wire_flush_work);
	sock_hold(sk);
	sbd_drive_hold(d);
	s->drive = d;
	ret = bufs ? register_memory(d, s, bufs, why) : 0;
	if (ret) {
		sbd_sock_put(s);
		return ERR_PTR(ret);
	}
	return s;
}

/**
 * sbd_sock_bind - begin to bind a socket to the drive of a key
 * @b: key, queues and memory
 * @sk: the socket
 * @portid: its port id
 * @noio: to be given to sbd_sock_bound()
 * @why: what is wrong, when an error is returned
 *
 * The drive's verbs are stopped until sbd_sock_bound(), so that the caller can
 * send its answer before the first request arrives.
 *
 * Return: the socket, a reference that belongs to sbd_sock_bound(), or
 * -EKEYREJECTED, -EBUSY, -ENOBUFS, -EINVAL, -EFAULT, -ENOSPC, -ENOMEM.
 */
struct sbd_sock *sbd_sock_bind(const struct sbd_bind *b, struct sock *sk,
			       u32 portid, unsigned int *noio,
			       const char **why)
{
	struct sbd_bufs *bufs = NULL;
	struct sbd_sock *s;
	struct sbd_drive *d;
	int place;

	s = sbd_sock_find(sk);
	if (s) {
		sbd_sock_put(s);
		*why = "this socket is bound already";
		return ERR_PTR(-EBUSY);
	}
	d = drive_of_key(b->key);
	if (!d)
		goto no_key;
	if (b->buffer_len) {
		bufs = sbd_bufs_pin(b->buffer_addr, b->buffer_len, why);
		if (IS_ERR(bufs)) {
			sbd_drive_put(d);
			return ERR_CAST(bufs);
		}
	}
	*noio = sbd_ctl_lock(d);
	s = new_sock(d, b, bufs, sk, portid, why);
	if (IS_ERR(s)) {
		sbd_bufs_unpin(bufs);
		goto unlock;
	}

	spin_lock(&d->lock);
	place = find_key(d, b->key);
	if (place >= 0) {
		d->helper.nr_keys--;
		memmove(d->helper.keys[place],
			d->helper.keys[d->helper.nr_keys], SPICEBD_KEY_LEN);
	}
	spin_unlock(&d->lock);
	if (place < 0) {
		sbd_sock_put(s);
		sbd_ctl_unlock(d, *noio);
		sbd_drive_put(d);
		goto no_key;
	}
	if (!publish(s)) {
		sbd_sock_put(s);
		s = ERR_PTR(-EBUSY);
		*why = "this socket is bound already";
		goto unlock;
	}
	sbd_drive_put(d);	/* the socket has its own */
	return s;

unlock:
	sbd_ctl_unlock(d, *noio);
	sbd_drive_put(d);
	return s;
no_key:
	*why = "no such key, or it was used";
	return ERR_PTR(-EKEYREJECTED);
}

/**
 * sbd_sock_bound - finish what sbd_sock_bind() began
 * @s: the socket
 * @noio: from sbd_sock_bind()
 * @go: the answer was sent: requests may go; else the bind is undone
 */
void sbd_sock_bound(struct sbd_sock *s, unsigned int noio, bool go)
{
	struct sbd_drive *d = s->drive;

	sbd_drive_hold(d);
	if (go) {
		spin_lock(&d->lock);
		list_add_tail(&s->node, &d->socks);
		d->nr_socks++;
		rebalance(d);
		sbd_queue_clock(d);
		spin_unlock(&d->lock);
		sbd_queue_send_batches(d);
		sbd_queue_requeue_held(d);
	} else {
		unpublish(s);
		sbd_sock_put(s);
	}
	sbd_ctl_unlock(d, noio);
	sbd_drive_put(d);
}
