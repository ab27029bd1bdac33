/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd: what the files of the driver share
 *
 * Locks, outermost first:
 *
 *	disk->open_mutex	the block layer's; held around ->open and ->release,
 *				and by medium.c around a partition scan. Whoever
 *				holds it may wait for I/O, so for the helper: no
 *				netlink command takes it.
 *	drive->cdrom_lock	serialises calls into the uniform CD-ROM layer.
 *	drive->ctl		one verb at a time, and so the order of the events
 *				that verbs send. Held without fs reclaim
 *				(sbd_ctl_lock()): nobody under it waits for I/O.
 *	drive->lock		spinlock: the drive's state, its table of sockets,
 *				its held requests.
 *	sock->lock		spinlock: one bound socket's credit, and the
 *				requests its helper has.
 *
 * sbd_event_order (events.c) is a mutex that is taken inside all of the mutexes
 * above; only drive->lock is taken inside it.
 *
 * sbd_table_lock (drive.c), sbd_socks_lock (helper.c) and the managers' lock
 * (netlink.c) are leaves, but that drive->lock may be taken inside
 * sbd_table_lock.
 */
#ifndef SPICEBD_DRIVE_H
#define SPICEBD_DRIVE_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/cdrom.h>
#include <linux/completion.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/netlink.h>
#include <linux/skbuff.h>
#include <linux/spicebd.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "tray.h"

#define SBD_CDROM_BLOCK		2048
#define SBD_DISK_BLOCK		512
#define SBD_SUSPEND_HOLDER	"suspend"	/* ours alone */
#define SBD_MAX_UNUSED_KEYS	(2 * SPICEBD_MAX_KEYS)

/*
 * Why the drive's gate is closed: with any of these set, requests end with an
 * error at once. Written under drive->lock; whoever hands a request out or
 * holds it looks again under the lock that files it, and whoever closes the
 * gate ends what is filed only afterwards, so no request slips through.
 */
#define SBD_GATE_EMPTY		BIT(0)	/* no readable medium */
#define SBD_GATE_STALE		BIT(1)	/* openers from before a forced eject */
#define SBD_GATE_EXPIRED	BIT(2)	/* no helper or far end for too long */
#define SBD_GATE_GONE		BIT(3)	/* the drive is being deleted */

/**
 * enum sbd_io_state - where a request is, from the driver's point of view
 * @SBD_IO_IDLE: not filed: the block layer has it, or one of our functions
 *	that took it from the list it was on
 * @SBD_IO_HELD: on drive->held (drive->lock)
 * @SBD_IO_OUT: on sock->out: the helper has it (sock->lock)
 * @SBD_IO_BUSY: as OUT, and one reply to it is being copied: only that
 *	reply's handler may take it from the list; others leave their wish in
 *	sbd_io.fate
 *
 * IDLE -> OUT	sbd_queue_rq(), in the submitter's or a block layer worker's
 *		context, under sock->lock: not if the socket is unbound or the
 *		gate closed.
 * IDLE -> HELD	the same, under drive->lock: not while a socket is bound or
 *		if the gate is closed.
 * OUT -> BUSY -> OUT	a reply with a piece of payload, in the context of the
 *		helper's sendmsg().
 * OUT, BUSY -> IDLE	a reply that ends the request; the request is completed.
 * OUT -> IDLE	ended early: by force or by the clock; completed with an error.
 *		The helper still owes an answer to its cookie (sbd_owed).
 * OUT -> HELD	its socket was unbound (worker, or a netlink command).
 * HELD -> IDLE	requeued for another socket, or ended early.
 *
 * Whoever moves a request to IDLE owns it, and completes or requeues it after
 * dropping the locks, so each is ended exactly once.
 */
enum sbd_io_state {
	SBD_IO_IDLE,
	SBD_IO_HELD,
	SBD_IO_OUT,
	SBD_IO_BUSY,
};

/**
 * enum sbd_io_fate - what has to become of a request in state BUSY
 * @SBD_FATE_NONE: it goes back to OUT
 * @SBD_FATE_END: it ends with an error
 * @SBD_FATE_HOLD: its socket was unbound: it is held or requeued
 */
enum sbd_io_fate {
	SBD_FATE_NONE,
	SBD_FATE_END,
	SBD_FATE_HOLD,
};

/**
 * struct sbd_part - room in registered memory, whole pages
 * @first: first page
 * @nr: pages; 0: none
 */
struct sbd_part {
	u32 first;
	u32 nr;
};

/**
 * struct sbd_io - what the driver knows of a started request
 * @node: in drive->held, in sock->out, or in a list of its owner
 * @rq: the request
 * @sock: the bound socket it was last given to; only compared, unless OUT
 * @cookie: its name in messages
 * @length: bytes
 * @cost: bytes of credit it took
 * @got: bytes of a read's payload that have come
 * @part: its room in the socket's registered memory (sock->lock)
 * @sequence: counts uses of this slot, a part of the cookie
 * @sent: jiffies when it was given out
 * @op: enum spicebd_op
 * @state: enum sbd_io_state
 * @fate: enum sbd_io_fate
 *
 * One for each tag of each hardware queue, and as old as the drive: so a
 * cookie, which names a tag, is looked up without touching a request.
 */
struct sbd_io {
	struct list_head node;
	struct request *rq;
	struct sbd_sock *sock;
	u64 cookie;
	u32 length;
	u32 cost;
	u32 got;
	struct sbd_part part;
	u32 sequence;
	unsigned long sent;
	u8 op;
	u8 state;
	u8 fate;
};

/**
 * struct sbd_pdu - what the driver keeps with a request
 * @generation: medium the request was meant for when it first came
 * @was_out: a helper has had it before
 * @status: how it ends
 */
struct sbd_pdu {
	u64 generation;
	bool was_out;
	blk_status_t status;
};

/**
 * struct sbd_queue - a hardware queue
 * @sock: socket that serves it; written under drive->lock
 * @hctx: the block layer's side
 * @io: one for each tag
 */
struct sbd_queue {
	struct sbd_sock __rcu *sock;
	struct blk_mq_hw_ctx *hctx;
	struct sbd_io *io;
};

/**
 * struct sbd_owed - an answer that a helper still owes
 * @node: in sock->owed or sock->owed_free
 * @cookie: to this request, which was ended early
 * @cost: bytes of credit that come back with it
 * @part: room in registered memory that does, too
 */
struct sbd_owed {
	struct list_head node;
	u64 cookie;
	u32 cost;
	struct sbd_part part;
};

/**
 * struct sbd_sock - a bound queue socket
 * @ref: table, list and every function that uses it
 * @rcu: readers of sbd_queue.sock and of the hash
 * @hash: among all bound sockets, by @sk (sbd_socks_lock)
 * @node: in drive->socks (drive->lock)
 * @drive: the drive, with a reference
 * @sk: the socket, with a reference, so the pointer names it for good
 * @portid: where it is sent to
 * @queues: hardware queues it asked for; 0 leaves it to the driver
 * @salt: random bits of this bind, a part of its cookies
 * @bufs: registered memory, or NULL: payload goes in messages
 * @lock: guards all below but @backlog and @flush
 * @dead: unbound; it is given nothing more
 * @out: requests the helper has
 * @owed: answers it owes besides
 * @owed_free: a spare for every request that could be out
 * @nr_out: requests in @out and @owed
 * @max_out: credit, requests
 * @bytes: what they may take of the receive buffer
 * @max_bytes: credit, bytes
 * @waiting: hardware queues that found no credit
 * @starved: jiffies since when there is none, or 0
 * @nr_owed: answers in @owed
 * @batch: requests of @out that were not sent yet (with @bufs)
 * @nr_batch: how many
 * @last_answer: jiffies of the last accepted reply
 * @backlog: messages that found the receive buffer full (its own lock)
 * @flush: sends them again
 * @owed_mem: memory of @owed_free
 */
struct sbd_sock {
	struct kref ref;
	struct rcu_head rcu;
	struct hlist_node hash;
	struct list_head node;
	struct sbd_drive *drive;
	struct sock *sk;
	u32 portid;
	u64 queues;
	u32 salt;
	struct sbd_bufs *bufs;

	spinlock_t lock;
	bool dead;
	struct list_head out;
	struct list_head owed;
	struct list_head owed_free;
	u32 nr_out;
	u32 nr_owed;
	u32 max_out;
	u32 bytes;
	u32 max_bytes;
	struct sk_buff *batch;
	u32 nr_batch;
	unsigned long waiting;
	unsigned long starved;
	unsigned long last_answer;

	struct sk_buff_head backlog;
	struct delayed_work flush;
	struct sbd_owed owed_mem[];
};

/**
 * struct sbd_medium - what is known of a medium
 * @size: bytes
 * @flags: SPICEBD_MEDIUM_*
 * @block_size: physical block, bytes
 * @io_opt: preferred I/O, bytes, or 0
 * @discard_align: discard granularity, bytes
 * @max_discard: largest discard or write zeroes, bytes
 * @read_ahead: bytes, or 0: the kernel's default
 * @id: identity, opaque
 * @id_len: bytes of it
 */
struct sbd_medium {
	u64 size;
	u32 flags;
	u32 block_size;
	u32 io_opt;
	u32 discard_align;
	u32 max_discard;
	u32 read_ahead;
	u8 id[SPICEBD_MEDIUM_ID_MAX];
	u32 id_len;
};

/**
 * struct sbd_helper - who serves the drive
 * @state: enum spicebd_helper
 * @link: enum spicebd_link
 * @ctl: control socket that attached, with a reference; NULL once it is gone
 * @portid: of @ctl
 * @pid: process that attached
 * @keys: unused one-use keys
 * @nr_keys: how many
 */
struct sbd_helper {
	u32 state;
	u32 link;
	struct sock *ctl;
	u32 portid;
	pid_t pid;
	u8 keys[SBD_MAX_UNUSED_KEYS][SPICEBD_KEY_LEN];
	u32 nr_keys;
};

/**
 * struct sbd_holder - one that keeps the drive frozen
 * @name: who
 * @since: jiffies
 * @end: jiffies, when it is one no more
 * @limited: there is such an end
 */
struct sbd_holder {
	char name[SPICEBD_HOLDER_NAME_MAX + 1];
	unsigned long since;
	unsigned long end;
	bool limited;
};

/**
 * struct sbd_stats - counters, one set for each CPU
 */
struct sbd_stats {
	u64 count[SPICEBD_A_STATS_MAX + 1];
};

/**
 * struct sbd_drive - a drive
 * @index: its number
 * @personality: enum spicebd_personality
 * @nr_queues: hardware queues
 * @depth: tags of each, but for one that is kept for the driver's own flush
 * @max_io: largest request, bytes
 * @disk: the gendisk; its reference count is the drive's
 * @tag_set: the block layer's tags
 * @queues: @nr_queues of them
 * @stats: counters
 * @cdi: the uniform CD-ROM layer's side (cdrom)
 * @cdrom_lock: see the top of this file
 * @cdrom_opening: inside the layer's open (@cdrom_lock)
 * @cdrom_unlock: the layer has to forget its door lock, which force opened
 * @media_event: the medium changed since the CD-ROM layer last asked
 * @ctl: see the top of this file
 * @lock: guards all from here to @verdict_since
 * @tray: tray, medium, lock
 * @medium: the medium, if there is one
 * @generation: counts changes of medium
 * @gate: SBD_GATE_*; read without the lock too
 * @ready: the medium is readable and announced
 * @openers: successful opens
 * @users: those that hold the medium (sbd_drive_released())
 * @asked: the user was asked for the medium, and nobody told yet that it is free
 * @deferred: udev waits with its probe until requests are answered
 * @helper: who serves it
 * @buffer_bytes: memory that they have registered
 * @socks: bound queue sockets
 * @nr_socks: how many
 * @held: requests that wait for a helper
 * @nr_held: how many
 * @reconnect_timeout: seconds, 0 or SPICEBD_TIMEOUT_FOREVER
 * @stall_timeout: seconds, or 0
 * @open_wait: seconds that an open of the frozen drive waits; never changes
 * @stalled: the helper was found silent for too long
 * @clock_running: requests wait for a helper or a far end
 * @clock_start: jiffies, since when
 * @freeze: enum spicebd_freeze; read without the lock too
 * @holders: who keeps it frozen
 * @nr_holders: how many; none, and only then, is it thawed
 * @freeze_epoch: counts freezes begun, another try after a failure too
 * @freeze_error: errno of the flush, if it failed
 * @verdict: enum spicebd_verdict: why the last medium went
 * @verdict_since: jiffies
 * @clock_work: ends them when time is over
 * @freeze_work: drains and flushes; waits for the helper
 * @holders_work: takes holders whose limit has come
 * @helper_work: unbinds sockets that were closed, or a stalled helper
 * @medium_work: shows or hides the medium; takes open_mutex, waits for I/O
 * @probe_work: tells udev that it may probe now
 * @shown: generation that the block layer was shown, or 0 (@medium_work only)
 * @announced: ... and userspace was told (@medium_work only)
 * @own_read_ahead: the disk's read-ahead is one of ours (@lock)
 * @leftover: partitions of an older medium that are still open
 *	(@medium_work only)
 * @ready_wait: for the end of @medium_work's part, or of the freeze or the drive
 * @alone_wait: for all openers but one to go
 * @delete_work: deletes the gendisk
 * @deleted: that is done
 */
struct sbd_drive {
	u32 index;
	u32 personality;
	u32 nr_queues;
	u32 depth;
	u32 max_io;
	struct gendisk *disk;
	struct blk_mq_tag_set tag_set;
	struct sbd_queue *queues;
	struct sbd_stats __percpu *stats;

	struct cdrom_device_info cdi;
	struct mutex cdrom_lock;
	bool cdrom_opening;
	atomic_t cdrom_unlock;
	atomic_t media_event;

	struct mutex ctl;
	spinlock_t lock;
	struct sbd_tray tray;
	struct sbd_medium medium;
	u64 generation;
	unsigned long gate;
	bool ready;
	u32 openers;
	u32 users;
	bool asked;
	bool deferred;
	struct sbd_helper helper;
	u64 buffer_bytes;
	struct list_head socks;
	u32 nr_socks;
	struct list_head held;
	u32 nr_held;
	s32 reconnect_timeout;
	u32 stall_timeout;
	u32 open_wait;
	bool stalled;
	bool clock_running;
	unsigned long clock_start;
	u32 freeze;
	struct sbd_holder holders[SPICEBD_MAX_HOLDERS];
	u32 nr_holders;
	u64 freeze_epoch;
	int freeze_error;
	u32 verdict;
	unsigned long verdict_since;

	struct delayed_work clock_work;
	struct work_struct freeze_work;
	struct delayed_work holders_work;
	struct work_struct helper_work;
	struct work_struct medium_work;
	struct work_struct probe_work;
	u64 shown;
	bool announced;
	bool own_read_ahead;
	bool leftover;
	wait_queue_head_t ready_wait;
	wait_queue_head_t alone_wait;
	struct work_struct delete_work;
	struct completion deleted;
};

/**
 * enum sbd_closer - who closes the drive
 * @SBD_CLOSER_UNKNOWN: newer kernels do not tell
 * @SBD_CLOSER_USER: one that holds the medium
 * @SBD_CLOSER_WATCHER: one that opened a cdrom with O_NONBLOCK
 */
enum sbd_closer {
	SBD_CLOSER_UNKNOWN,
	SBD_CLOSER_USER,
	SBD_CLOSER_WATCHER,
};

/**
 * struct sbd_drive_params - how a drive is made
 * @index: its number, or -1 for the first free one
 * @personality: enum spicebd_personality
 * @nr_queues: hardware queues, 0 for the default
 * @depth: tags of each
 * @max_io: largest request, bytes
 * @reconnect_timeout: seconds
 * @stall_timeout: seconds
 * @held: frozen from its first moment
 * @open_wait: seconds that an open waits until it is not
 */
struct sbd_drive_params {
	int index;
	u32 personality;
	u32 nr_queues;
	u32 depth;
	u32 max_io;
	s32 reconnect_timeout;
	u32 stall_timeout;
	bool held;
	u32 open_wait;
};

/* main.c */
/* Work that ends, requeues or fails requests; never waits for one. */
extern struct workqueue_struct *sbd_wq;
/* Work that may wait for I/O. */
extern struct workqueue_struct *sbd_slow_wq;

/* drive.c */
void sbd_drive_defaults(struct sbd_drive_params *p);
struct sbd_drive *sbd_drive_add(const struct sbd_drive_params *p,
				const char **why);
int sbd_drive_delete(struct sbd_drive *d, bool force);
struct sbd_drive *sbd_drive_get(u32 index);
struct sbd_drive *sbd_drive_get_next(u32 index);
void sbd_drive_hold(struct sbd_drive *d);
void sbd_drive_put(struct sbd_drive *d);
void sbd_drives_exit(void);
void sbd_free_disk(struct gendisk *disk);
void sbd_drives_released(u32 portid);
int sbd_drive_await_release(struct sbd_drive *d, blk_mode_t mode);
int sbd_drive_opened(struct sbd_drive *d, blk_mode_t mode);
void sbd_drive_released(struct sbd_drive *d, enum sbd_closer closer);
void sbd_drive_wait_alone(struct sbd_drive *d);
unsigned int sbd_ctl_lock(struct sbd_drive *d);
void sbd_ctl_unlock(struct sbd_drive *d, unsigned int noio);

/* cdrom.c */
extern const struct block_device_operations sbd_cdrom_fops;
int sbd_cdrom_register(struct sbd_drive *d);
void sbd_cdrom_unregister(struct sbd_drive *d);

/* disk.c */
extern const struct block_device_operations sbd_disk_fops;

/* medium.c */
int sbd_verb(struct sbd_drive *d, enum sbd_verb verb, unsigned int args,
	     const struct sbd_medium *m, u64 *generation);
int sbd_medium_check(const struct sbd_drive *d, struct sbd_medium *m,
		     const char **why);
bool sbd_medium_due(const struct sbd_drive *d);
void sbd_medium_limits(const struct sbd_drive *d, const struct sbd_medium *m,
		       struct queue_limits *lim);
int sbd_medium_read_ahead(struct sbd_drive *d, u32 bytes);
void sbd_medium_work(struct work_struct *work);

/* queue.c */
extern const struct blk_mq_ops sbd_mq_ops;
void sbd_queue_end_all(struct sbd_drive *d);
void sbd_queue_requeue_held(struct sbd_drive *d);
void sbd_queue_send_batches(struct sbd_drive *d);
void sbd_queue_take_back(struct sbd_drive *d, struct sbd_sock *s);
void sbd_queue_clock(struct sbd_drive *d);
void sbd_queue_clock_work(struct work_struct *work);
u32 sbd_queue_in_flight(struct sbd_drive *d);
int sbd_queue_data(struct sbd_sock *s, u64 cookie, u32 offset,
		   const void *data, u32 len, const char **why);
int sbd_queue_complete(struct sbd_sock *s, u64 cookie, u32 error, u32 offset,
		       const void *data, u32 len, const char **why);
int sbd_queue_answers(struct sbd_sock *s, const struct spicebd_io_answer *list,
		      u32 nr, const char **why);
void sbd_queue_refuse(struct sbd_sock *s, const char *why);

/* freeze.c */
/* Woken whenever what a freeze waits for may have come. */
extern wait_queue_head_t sbd_freeze_wait;
void sbd_freeze_start(struct sbd_drive *d);
int sbd_freeze(struct sbd_drive *d, const char *name, u32 limit);
int sbd_thaw(struct sbd_drive *d, const char *name);
void sbd_freeze_drained(struct sbd_drive *d);
void sbd_freeze_work(struct work_struct *work);
void sbd_freeze_limits_work(struct work_struct *work);

/* suspend.c */
bool sbd_suspended(void);
int sbd_suspend_init(void);
void sbd_suspend_exit(void);

/* wire.c */
u32 sbd_wire_cost(u32 op, u32 length);
int sbd_wire_build(struct sbd_drive *d, struct sbd_sock *s, u32 queue,
		   struct request *rq, struct sbd_io *io,
		   struct sk_buff_head *messages);
u32 sbd_wire_batch_cost(void);
struct sk_buff *sbd_wire_batch(struct sbd_sock *s, u32 nr);
void sbd_wire_batch_add(struct sk_buff *skb, u32 n, struct request *rq,
			const struct sbd_io *io, u32 queue);
void sbd_wire_batch_send(struct sbd_sock *s, struct sk_buff *skb);
void sbd_wire_send(struct sbd_sock *s, struct sk_buff_head *messages);
void sbd_wire_flush_work(struct work_struct *work);
void sbd_wire_copy_in(struct request *rq, u32 offset, const void *data,
		      u32 len);

/* bufs.c */
struct sbd_bufs *sbd_bufs_pin(u64 addr, u64 len, const char **why);
void sbd_bufs_unpin(struct sbd_bufs *b);
u64 sbd_bufs_size(const struct sbd_bufs *b);
int sbd_bufs_get(struct sbd_bufs *b, u32 length, struct sbd_part *part);
void sbd_bufs_put(struct sbd_bufs *b, struct sbd_part *part);
void sbd_bufs_copy(struct sbd_bufs *b, const struct sbd_part *part,
		   struct request *rq, bool to_helper);

/* helper.c */
/**
 * struct sbd_bind - what a socket that binds brings
 * @key: one-use key
 * @queues: mask of hardware queues, 0: as the driver likes
 * @buffer_addr: memory to register
 * @buffer_len: bytes of it, or 0
 */
struct sbd_bind {
	const u8 *key;
	u64 queues;
	u64 buffer_addr;
	u64 buffer_len;
};
int sbd_helper_attach(struct sbd_drive *d, struct sock *sk, u32 portid,
		      u32 nr_keys, u8 (*keys)[SPICEBD_KEY_LEN]);
int sbd_helper_detach(struct sbd_drive *d, struct sock *sk);
int sbd_helper_new_keys(struct sbd_drive *d, struct sock *sk, u32 nr_keys,
			u8 (*keys)[SPICEBD_KEY_LEN]);
int sbd_helper_link(struct sbd_drive *d, struct sock *sk, u32 link);
bool sbd_helper_is(struct sbd_drive *d, struct sock *sk);
void sbd_helper_remove(struct sbd_drive *d);
void sbd_helper_forget_locked(struct sbd_drive *d);
void sbd_helper_work(struct work_struct *work);
void sbd_helper_released(u32 portid);
struct sbd_sock *sbd_sock_bind(const struct sbd_bind *b, struct sock *sk,
			       u32 portid, unsigned int *noio,
			       const char **why);
void sbd_sock_bound(struct sbd_sock *s, unsigned int noio, bool go);
struct sbd_sock *sbd_sock_find(struct sock *sk);
void sbd_sock_put(struct sbd_sock *s);

/* netlink.c */
extern struct genl_family sbd_family;
extern bool sbd_netlink_up;
int sbd_netlink_init(void);
void sbd_netlink_exit(void);
int sbd_netlink_fill(struct sk_buff *skb, struct sbd_drive *d, u32 portid,
		     u32 seq, int flags, u8 cmd, int event, bool manager);

/* events.c */
void sbd_event(struct sbd_drive *d, enum spicebd_event event);
void sbd_event_eject_request(struct sbd_drive *d);
void sbd_event_unused(struct sbd_drive *d);
void sbd_event_probe(struct sbd_drive *d);
void sbd_event_probe_work(struct work_struct *work);

/* sbd_verb()'s args: below are the SBD_ARG_* of tray.h, above an enum spicebd_verdict. */
#define SBD_ARG_VERDICT_SHIFT	8

/* condition.c */
enum spicebd_condition sbd_condition(const struct sbd_drive *d);
bool sbd_hold_left(const struct sbd_drive *d, u32 *ms);
u64 sbd_verdict_age(const struct sbd_drive *d);
ssize_t sbd_condition_show(struct sbd_drive *d, char *buf);
ssize_t sbd_cause_show(struct sbd_drive *d, char *buf);

/* stats.c */
extern const struct attribute_group *sbd_sysfs_groups[];
u64 sbd_stats_read(struct sbd_drive *d, unsigned int which);
u32 sbd_drive_state(const struct sbd_drive *d);
void sbd_stats_stray(void);

static inline void sbd_stats_add(struct sbd_drive *d, unsigned int which,
				 u64 n)
{
	this_cpu_add(d->stats->count[which], n);
}

/* The medium can be read, as far as tray and openers go. drive->lock held. */
static inline bool sbd_readable(const struct sbd_drive *d)
{
	return d->tray.medium && !d->tray.open &&
	       !(d->gate & (SBD_GATE_STALE | SBD_GATE_GONE));
}

/* Requests are answered: the medium is ready and nothing is lost. drive->lock held. */
static inline bool sbd_flowing(const struct sbd_drive *d)
{
	return d->ready && !d->gate && !d->freeze && d->nr_socks &&
	       d->helper.link == SPICEBD_LINK_UP;
}

/* Of a hardware queue, with the one for the driver's own flush. */
static inline u32 sbd_nr_tags(const struct sbd_drive *d)
{
	return d->depth + 1;
}

/*
 * To be called, without drive->lock, whenever the helper has been relieved of a
 * request.
 */
static inline void sbd_freeze_kick(struct sbd_drive *d)
{
	if (unlikely(READ_ONCE(d->freeze) == SPICEBD_FREEZE_DRAINING))
		sbd_freeze_drained(d);
}

static inline struct sbd_io *sbd_rq_io(struct request *rq)
{
	struct sbd_drive *d = rq->q->queuedata;

	return &d->queues[rq->mq_hctx->queue_num].io[rq->tag];
}

#endif /* SPICEBD_DRIVE_H */
