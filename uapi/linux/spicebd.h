/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/*
 * spicebd: removable drives whose medium is served by a userspace helper
 *
 * Generic netlink family "spicebd". The machine-readable description of this
 * interface is Documentation/netlink/specs/spicebd.yaml; a test holds the two
 * to each other.
 *
 * The family lives in the initial network namespace only.
 */
#ifndef _UAPI_LINUX_SPICEBD_H
#define _UAPI_LINUX_SPICEBD_H

#include <linux/types.h>

#define SPICEBD_FAMILY_NAME		"spicebd"
#define SPICEBD_FAMILY_VERSION		1
#define SPICEBD_MCGRP_EVENTS		"events"

/* Most drives at one time, and so one more than the highest drive index. */
#define SPICEBD_MAX_DRIVES		64
/* Hardware queues of a drive. */
#define SPICEBD_MIN_QUEUES		1
#define SPICEBD_MAX_QUEUES		16
#define SPICEBD_DEFAULT_MAX_QUEUES	4	/* default: min(this, CPUs) */
/* Tags of one hardware queue. */
#define SPICEBD_MIN_QUEUE_DEPTH		1
#define SPICEBD_MAX_QUEUE_DEPTH		256
#define SPICEBD_DEFAULT_QUEUE_DEPTH	64
/* Largest request, bytes; a power of two. */
#define SPICEBD_MIN_MAX_IO		4096
#define SPICEBD_MAX_MAX_IO		(4 * 1024 * 1024)
#define SPICEBD_DEFAULT_MAX_IO		(1024 * 1024)
/*
 * Payload that one message carries at most, bytes. An attribute could hold
 * 65531; 60 KiB keeps the whole message inside one 64 KiB allocation.
 */
#define SPICEBD_PIECE_MAX		(60 * 1024)
/*
 * Memory that the queue sockets of a drive register, bytes, all together; and
 * the requests or answers that one message carries at most.
 */
#define SPICEBD_MAX_BUFFER		(64 * 1024 * 1024)
#define SPICEBD_BATCH_MAX		16
/* Read-ahead of a medium, bytes at most. */
#define SPICEBD_MAX_READ_AHEAD		(64 * 1024 * 1024)
/* One-use key by which a socket binds to a drive's queues, bytes. */
#define SPICEBD_KEY_LEN			16
/* Keys that one command hands out at most. */
#define SPICEBD_MAX_KEYS		16
/* Identity of a medium, opaque to the kernel, bytes at most. */
#define SPICEBD_MEDIUM_ID_MAX		64
/*
 * Holders that keep a drive frozen at one time, and a holder's name, bytes
 * without its end.
 */
#define SPICEBD_MAX_HOLDERS		16
#define SPICEBD_HOLDER_NAME_MAX		31
/* The holder of a drive that was made held. */
#define SPICEBD_DEFAULT_HOLDER		"start"
/* Timeouts, seconds. */
#define SPICEBD_TIMEOUT_FOREVER		(-1)
#define SPICEBD_MAX_TIMEOUT		86400
#define SPICEBD_DEFAULT_RECONNECT	60
#define SPICEBD_DEFAULT_STALL		30

/**
 * enum spicebd_personality - what kind of drive it is, fixed for its life
 * @SPICEBD_PERSONALITY_CDROM: tray, 2048-byte blocks, read-only, registered
 *	with the uniform CD-ROM layer
 * @SPICEBD_PERSONALITY_DISK: slot without a tray, 512-byte logical blocks,
 *	partitions, writable if the medium is
 */
enum spicebd_personality {
	SPICEBD_PERSONALITY_CDROM,
	SPICEBD_PERSONALITY_DISK,
};

/**
 * enum spicebd_tray - position of the tray; a disk drive's is always closed
 */
enum spicebd_tray {
	SPICEBD_TRAY_CLOSED,
	SPICEBD_TRAY_OPEN,
};

/**
 * enum spicebd_helper - whether userspace serves the drive
 * @SPICEBD_HELPER_NONE: nobody attached since the last orderly detach
 * @SPICEBD_HELPER_ATTACHED: attached; serves I/O once a queue socket is bound
 * @SPICEBD_HELPER_LOST: the helper died or stalled with a medium inserted;
 *	requests are held for the next one
 */
enum spicebd_helper {
	SPICEBD_HELPER_NONE,
	SPICEBD_HELPER_ATTACHED,
	SPICEBD_HELPER_LOST,
};

/**
 * enum spicebd_link - the far end, as last reported by the helper
 */
enum spicebd_link {
	SPICEBD_LINK_UP,
	SPICEBD_LINK_LOST,
};

/**
 * enum spicebd_freeze - whether requests pass, and what is done so that they
 *	may stop for good
 * @SPICEBD_FREEZE_THAWED: they pass
 * @SPICEBD_FREEZE_DRAINING: new ones wait, the helper has some
 * @SPICEBD_FREEZE_FLUSHING: the helper has none; the far end's cache is being
 *	flushed
 * @SPICEBD_FREEZE_FROZEN: done: what was answered is on the far end's store
 * @SPICEBD_FREEZE_FAILED: the flush failed: requests wait, but what was
 *	answered may not be on the store
 */
enum spicebd_freeze {
	SPICEBD_FREEZE_THAWED,
	SPICEBD_FREEZE_DRAINING,
	SPICEBD_FREEZE_FLUSHING,
	SPICEBD_FREEZE_FROZEN,
	SPICEBD_FREEZE_FAILED,
};

/**
 * enum spicebd_op - operation of an I/O request
 */
enum spicebd_op {
	SPICEBD_OP_READ,
	SPICEBD_OP_WRITE,
	SPICEBD_OP_FLUSH,
	SPICEBD_OP_DISCARD,
	SPICEBD_OP_WRITE_ZEROES,
};

/* Bits of SPICEBD_A_IO_FLAGS. */
#define SPICEBD_IO_FUA			(1U << 0)
#define SPICEBD_IO_NO_UNMAP		(1U << 1)	/* write zeroes: keep allocated */

/* Bits of SPICEBD_A_MEDIUM_FLAGS. */
#define SPICEBD_MEDIUM_READ_ONLY	(1U << 0)
#define SPICEBD_MEDIUM_ROTATIONAL	(1U << 1)
#define SPICEBD_MEDIUM_FLUSH		(1U << 2)	/* has a volatile write cache */
#define SPICEBD_MEDIUM_FUA		(1U << 3)
#define SPICEBD_MEDIUM_DISCARD		(1U << 4)
#define SPICEBD_MEDIUM_WRITE_ZEROES	(1U << 5)

/* Bits of SPICEBD_A_DRIVE_STATE: what is true of the drive right now. */
#define SPICEBD_STATE_MEDIUM		(1U << 0)	/* a medium is inserted */
#define SPICEBD_STATE_READY		(1U << 1)	/* ... and readable: announced */
#define SPICEBD_STATE_LOCKED		(1U << 2)	/* the drive's user locked the door */
#define SPICEBD_STATE_STALE		(1U << 3)	/* openers of a medium ejected by force */
#define SPICEBD_STATE_HOLDING		(1U << 4)	/* requests are held */
#define SPICEBD_STATE_LOCKED_ADMIN	(1U << 5)	/* the administrator locked the drive */
#define SPICEBD_STATE_FREEZING		(1U << 6)	/* it has a holder, and so no request passes */

/**
 * enum spicebd_condition - one word for the drive
 * @SPICEBD_CONDITION_EMPTY: no medium, or one that lies on the open tray
 * @SPICEBD_CONDITION_READY: requests are answered
 * @SPICEBD_CONDITION_SETTLING: a medium was inserted and is not readable yet
 * @SPICEBD_CONDITION_HELD: there is a medium, and no helper serves it; or the
 *	drive was made held, and nobody else keeps it frozen
 * @SPICEBD_CONDITION_RECONNECTING: its helper has lost the far end
 * @SPICEBD_CONDITION_FROZEN: there is a medium, and requests wait for a thaw
 * @SPICEBD_CONDITION_ERROR: empty, because the medium failed
 * @SPICEBD_CONDITION_INACTIVE: empty, because the medium moved to another host
 * @SPICEBD_CONDITION_STALE: openers of a medium that was ejected by force
 * @SPICEBD_CONDITION_GONE: the drive is being deleted
 */
enum spicebd_condition {
	SPICEBD_CONDITION_EMPTY,
	SPICEBD_CONDITION_READY,
	SPICEBD_CONDITION_SETTLING,
	SPICEBD_CONDITION_HELD,
	SPICEBD_CONDITION_RECONNECTING,
	SPICEBD_CONDITION_FROZEN,
	SPICEBD_CONDITION_ERROR,
	SPICEBD_CONDITION_INACTIVE,
	SPICEBD_CONDITION_STALE,
	SPICEBD_CONDITION_GONE,
};

/**
 * enum spicebd_verdict - why a medium was taken out, as whoever did it says
 * @SPICEBD_VERDICT_NONE: it was wanted
 * @SPICEBD_VERDICT_ERROR: it had failed; who has it open gets errors
 * @SPICEBD_VERDICT_INACTIVE: another host has it now
 */
enum spicebd_verdict {
	SPICEBD_VERDICT_NONE,
	SPICEBD_VERDICT_ERROR,
	SPICEBD_VERDICT_INACTIVE,
};

/**
 * enum spicebd_event - what a SPICEBD_CMD_DRIVE_NTF message reports
 * @SPICEBD_EVENT_MEDIUM_CHANGED: a medium became readable, or went; sent with
 *	or after the uevent, never before
 * @SPICEBD_EVENT_EJECT_REQUEST: somebody asked for a medium that is locked or
 *	in use
 * @SPICEBD_EVENT_UNUSED: after such a request the last user has gone, or the
 *	last lock was opened, whichever is later; once for all requests before
 * @SPICEBD_EVENT_FREEZE: the drive's enum spicebd_freeze has changed, or its
 *	holders have
 * @SPICEBD_EVENT_FREEZE_EXPIRED: a holder's limit has come and it is one no
 *	more
 */
enum spicebd_event {
	SPICEBD_EVENT_DRIVE_ADDED,
	SPICEBD_EVENT_DRIVE_REMOVED,
	SPICEBD_EVENT_TRAY_MOVED,
	SPICEBD_EVENT_MEDIUM_CHANGED,
	SPICEBD_EVENT_EJECT_REQUEST,
	SPICEBD_EVENT_LOCK_CHANGED,
	SPICEBD_EVENT_HELPER_ATTACHED,
	SPICEBD_EVENT_HELPER_LOST,
	SPICEBD_EVENT_LINK_LOST,
	SPICEBD_EVENT_LINK_BACK,
	SPICEBD_EVENT_UNUSED,
	SPICEBD_EVENT_FREEZE,
	SPICEBD_EVENT_FREEZE_EXPIRED,
};

/**
 * enum spicebd_attr_drive - a drive: arguments, answers and events
 *
 * The medium's own attributes are nested in @SPICEBD_A_DRIVE_MEDIUM, counters
 * in @SPICEBD_A_DRIVE_STATS.
 *
 * @SPICEBD_A_DRIVE_USERS: a disk's openers; a cdrom's that opened it for data,
 * so without O_NONBLOCK. "In use" and "stale" mean these. Where the kernel does
 * not tell a driver who closes (since 6.5), it is the largest number that can
 * be: an opener for data and one with O_NONBLOCK at one time, of which one
 * closes, leave one user until the other closes too.
 */
enum {
	SPICEBD_A_DRIVE_UNSPEC,
	SPICEBD_A_DRIVE_PAD,
	SPICEBD_A_DRIVE_INDEX,			/* u32, 0..SPICEBD_MAX_DRIVES-1 */
	SPICEBD_A_DRIVE_NAME,			/* string, the disk's name */
	SPICEBD_A_DRIVE_MAJOR,			/* u32 */
	SPICEBD_A_DRIVE_MINOR,			/* u32 */
	SPICEBD_A_DRIVE_PERSONALITY,		/* u32, enum spicebd_personality */
	SPICEBD_A_DRIVE_NR_QUEUES,		/* u32 */
	SPICEBD_A_DRIVE_QUEUE_DEPTH,		/* u32 */
	SPICEBD_A_DRIVE_MAX_IO,			/* u32, bytes */
	SPICEBD_A_DRIVE_RECONNECT_TIMEOUT,	/* s32, seconds; 0 fail at once, -1 for ever */
	SPICEBD_A_DRIVE_STALL_TIMEOUT,		/* u32, seconds; 0 never */
	SPICEBD_A_DRIVE_TRAY,			/* u32, enum spicebd_tray */
	SPICEBD_A_DRIVE_STATE,			/* u32, SPICEBD_STATE_* */
	SPICEBD_A_DRIVE_HELPER,			/* u32, enum spicebd_helper */
	SPICEBD_A_DRIVE_HELPER_PID,		/* u32, pid that attached, initial pid namespace */
	SPICEBD_A_DRIVE_LINK,			/* u32, enum spicebd_link */
	SPICEBD_A_DRIVE_NR_SOCKETS,		/* u32, bound queue sockets */
	SPICEBD_A_DRIVE_OPENERS,		/* u32, successful opens */
	SPICEBD_A_DRIVE_IN_FLIGHT,		/* u32, requests the helper has */
	SPICEBD_A_DRIVE_HELD,			/* u32, requests held */
	SPICEBD_A_DRIVE_HOLD_LEFT,		/* u32, ms until held requests fail; absent: no limit runs */
	SPICEBD_A_DRIVE_GENERATION,		/* u64, counts changes of medium */
	SPICEBD_A_DRIVE_MEDIUM,			/* nest, enum spicebd_attr_medium */
	SPICEBD_A_DRIVE_STATS,			/* nest, enum spicebd_attr_stats */
	SPICEBD_A_DRIVE_FORCE,			/* flag, argument */
	SPICEBD_A_DRIVE_EVENT,			/* u32, enum spicebd_event */
	SPICEBD_A_DRIVE_USERS,			/* u32, openers that hold the medium */
	SPICEBD_A_DRIVE_FREEZE,			/* u32, enum spicebd_freeze */
	SPICEBD_A_DRIVE_FREEZE_ERROR,		/* u32, errno value of a flush that failed */
	SPICEBD_A_DRIVE_HOLDER,			/* string, 1..SPICEBD_HOLDER_NAME_MAX, argument */
	SPICEBD_A_DRIVE_HOLD_LIMIT,		/* u32, seconds, argument; 0 or absent: none */
	SPICEBD_A_DRIVE_HELD_START,		/* flag, argument: make it held */
	SPICEBD_A_DRIVE_HOLDERS,		/* nest, enum spicebd_attr_holder; one for each */
	SPICEBD_A_DRIVE_OPEN_WAIT,		/* u32, seconds that an open of the held drive waits; 0 none */
	SPICEBD_A_DRIVE_CONDITION,		/* u32, enum spicebd_condition */
	SPICEBD_A_DRIVE_VERDICT,		/* u32, enum spicebd_verdict; absent: none */
	SPICEBD_A_DRIVE_VERDICT_SINCE,		/* u64, ms since that was said */

	__SPICEBD_A_DRIVE_MAX,
	SPICEBD_A_DRIVE_MAX = (__SPICEBD_A_DRIVE_MAX - 1)
};

/**
 * enum spicebd_attr_holder - one that keeps a drive frozen
 *
 * Only a manager sees @SPICEBD_A_HOLDER_NAME in answers.
 */
enum {
	SPICEBD_A_HOLDER_UNSPEC,
	SPICEBD_A_HOLDER_PAD,
	SPICEBD_A_HOLDER_NAME,			/* string */
	SPICEBD_A_HOLDER_SINCE,			/* u64, ms, for how long */
	SPICEBD_A_HOLDER_LEFT,			/* u32, ms until its limit; absent: it has none */

	__SPICEBD_A_HOLDER_MAX,
	SPICEBD_A_HOLDER_MAX = (__SPICEBD_A_HOLDER_MAX - 1)
};

/**
 * enum spicebd_attr_medium - a medium
 *
 * Only a manager sees @SPICEBD_A_MEDIUM_ID in answers.
 */
enum {
	SPICEBD_A_MEDIUM_UNSPEC,
	SPICEBD_A_MEDIUM_PAD,
	SPICEBD_A_MEDIUM_ID,			/* binary, 1..SPICEBD_MEDIUM_ID_MAX */
	SPICEBD_A_MEDIUM_SIZE,			/* u64, bytes; what exceeds a whole block is not shown */
	SPICEBD_A_MEDIUM_FLAGS,			/* u32, SPICEBD_MEDIUM_* */
	SPICEBD_A_MEDIUM_BLOCK_SIZE,		/* u32, bytes, power of two 512..65536: physical block */
	SPICEBD_A_MEDIUM_IO_OPT,		/* u32, bytes, preferred I/O; 0 unknown */
	SPICEBD_A_MEDIUM_DISCARD_ALIGN,		/* u32, bytes, discard granularity */
	SPICEBD_A_MEDIUM_MAX_DISCARD,		/* u32, bytes, largest discard or write zeroes */
	SPICEBD_A_MEDIUM_READ_AHEAD,		/* u32, bytes; 0 or absent: the kernel's default */

	__SPICEBD_A_MEDIUM_MAX,
	SPICEBD_A_MEDIUM_MAX = (__SPICEBD_A_MEDIUM_MAX - 1)
};

/**
 * enum spicebd_attr_stats - counters of a drive since it was made, all u64
 */
enum {
	SPICEBD_A_STATS_UNSPEC,
	SPICEBD_A_STATS_PAD,
	SPICEBD_A_STATS_READS,
	SPICEBD_A_STATS_WRITES,
	SPICEBD_A_STATS_FLUSHES,
	SPICEBD_A_STATS_DISCARDS,
	SPICEBD_A_STATS_WRITE_ZEROES,
	SPICEBD_A_STATS_READ_BYTES,
	SPICEBD_A_STATS_WRITE_BYTES,
	SPICEBD_A_STATS_ERRORS,			/* requests that ended in an error */
	SPICEBD_A_STATS_REFUSED,		/* replies refused */
	SPICEBD_A_STATS_RESENT,			/* requests handed to a second helper */
	SPICEBD_A_STATS_MEDIUM_CHANGES,

	__SPICEBD_A_STATS_MAX,
	SPICEBD_A_STATS_MAX = (__SPICEBD_A_STATS_MAX - 1)
};

/**
 * enum spicebd_attr_helper - attaching a helper and binding its sockets
 */
enum {
	SPICEBD_A_HELPER_UNSPEC,
	SPICEBD_A_HELPER_PAD,
	SPICEBD_A_HELPER_INDEX,			/* u32, drive */
	SPICEBD_A_HELPER_NR_KEYS,		/* u32, 1..SPICEBD_MAX_KEYS */
	SPICEBD_A_HELPER_KEY,			/* binary SPICEBD_KEY_LEN, several in answers */
	SPICEBD_A_HELPER_QUEUES,		/* u64, mask of hardware queues; absent: the driver spreads */
	SPICEBD_A_HELPER_CREDIT,		/* u32, requests the socket may have at once */
	SPICEBD_A_HELPER_CREDIT_BYTES,		/* u32, of receive buffer these are sure of */
	SPICEBD_A_HELPER_LINK,			/* u32, enum spicebd_link */
	SPICEBD_A_HELPER_BUFFER_ADDR,		/* u64, of the caller, page aligned */
	SPICEBD_A_HELPER_BUFFER_LEN,		/* u64, bytes, whole pages */

	__SPICEBD_A_HELPER_MAX,
	SPICEBD_A_HELPER_MAX = (__SPICEBD_A_HELPER_MAX - 1)
};

/**
 * enum spicebd_attr_io - one message of the data path
 */
enum {
	SPICEBD_A_IO_UNSPEC,
	SPICEBD_A_IO_PAD,
	SPICEBD_A_IO_COOKIE,			/* u64, names the request */
	SPICEBD_A_IO_OP,			/* u32, enum spicebd_op */
	SPICEBD_A_IO_FLAGS,			/* u32, SPICEBD_IO_* */
	SPICEBD_A_IO_OFFSET,			/* u64, bytes from the start of the medium */
	SPICEBD_A_IO_LENGTH,			/* u32, bytes */
	SPICEBD_A_IO_QUEUE,			/* u32, hardware queue it came from */
	SPICEBD_A_IO_DATA_OFFSET,		/* u32, of DATA within the request; absent: 0 */
	SPICEBD_A_IO_DATA,			/* binary, 1..SPICEBD_PIECE_MAX */
	SPICEBD_A_IO_ERROR,			/* u32, errno value; 0 or absent: success */
	SPICEBD_A_IO_GENERATION,		/* u64, medium the request is meant for */
	SPICEBD_A_IO_REQUESTS,			/* struct spicebd_io_request, 1..SPICEBD_BATCH_MAX */
	SPICEBD_A_IO_ANSWERS,			/* struct spicebd_io_answer, 1..SPICEBD_BATCH_MAX */

	__SPICEBD_A_IO_MAX,
	SPICEBD_A_IO_MAX = (__SPICEBD_A_IO_MAX - 1)
};

/**
 * struct spicebd_io_request - a request whose payload is in registered memory
 * @cookie: names the request
 * @offset: bytes from the start of the medium
 * @generation: medium the request is meant for
 * @length: bytes
 * @buffer: where in the registered memory its payload is, bytes; of a read:
 *	has to be when it is answered
 * @queue: hardware queue it came from
 * @op: enum spicebd_op
 * @flags: SPICEBD_IO_*
 * @reserved: 0
 *
 * That part of the memory, @length bytes rounded up to whole pages, belongs to
 * the helper until it answers the request.
 */
struct spicebd_io_request {
	__u64 cookie;
	__u64 offset;
	__u64 generation;
	__u32 length;
	__u32 buffer;
	__u16 queue;
	__u8 op;
	__u8 flags;
	__u32 reserved;
};

/**
 * struct spicebd_io_answer - the answer to a request
 * @cookie: names the request
 * @error: errno value, 0 for success
 * @reserved: 0
 */
struct spicebd_io_answer {
	__u64 cookie;
	__u32 error;
	__u32 reserved;
};

/**
 * enum spicebd_cmd - commands
 *
 * "manager" commands need a socket that SPICEBD_CMD_MANAGE was accepted on;
 * "queue" commands one that SPICEBD_CMD_QUEUE_BIND was accepted on. No command
 * waits for a helper.
 *
 * @SPICEBD_CMD_DRIVE_GET: one drive by INDEX, or a dump of all. Open to all.
 * @SPICEBD_CMD_DRIVE_NTF: event, to the multicast group.
 * @SPICEBD_CMD_MANAGE: make the socket a manager. Needs CAP_SYS_ADMIN in the
 *	initial user namespace, opener and sender. INDEX given (several times):
 *	of these drives only; such a manager may not add drives.
 * @SPICEBD_CMD_DRIVE_ADD: manager. PERSONALITY, optional INDEX, NR_QUEUES,
 *	QUEUE_DEPTH, MAX_IO, RECONNECT_TIMEOUT, STALL_TIMEOUT, HELD_START: with
 *	that one it is frozen from its first moment, by SPICEBD_DEFAULT_HOLDER;
 *	OPEN_WAIT: an open without O_NONBLOCK of the frozen drive, whose medium
 *	was not shown yet, waits for that, not longer than this. Answers with
 *	the drive. -EEXIST: that index is taken; -ENOSPC: no more drives.
 * @SPICEBD_CMD_DRIVE_SET: manager. INDEX, RECONNECT_TIMEOUT, STALL_TIMEOUT.
 * @SPICEBD_CMD_DRIVE_DEL: manager. INDEX, FORCE. -EBUSY while open or locked
 *	by the administrator, unless FORCE: then the drive is gone at once, for
 *	its openers with errors.
 * @SPICEBD_CMD_ATTACH: manager. INDEX, NR_KEYS: become the drive's helper;
 *	answers with one-use KEYs. -EBUSY: another helper is attached.
 * @SPICEBD_CMD_DETACH: manager that attached. HELPER_INDEX. Requests that the
 *	helper still has are held as if it had died.
 * @SPICEBD_CMD_KEY_NEW: manager that attached. More keys.
 * @SPICEBD_CMD_QUEUE_BIND: any socket. KEY, optional QUEUES. Answers with
 *	INDEX, CREDIT, CREDIT_BYTES. Requests begin to arrive after the answer,
 *	so before an NLM_F_ACK of it: ask for none. -EKEYREJECTED: no such key,
 *	or it was used; -EBUSY: the socket is bound already.
 *	-ENOBUFS: the receive buffer does not hold one request of the drive's
 *	size: set SO_RCVBUFFORCE first.
 *	With BUFFER_ADDR and BUFFER_LEN the socket registers that memory of the
 *	caller: payload is copied from and to there, and requests come as
 *	IO_REQUESTS. The memory must be present and writable (mlock() it), hold
 *	the drive's largest request, and counts as locked by the caller until
 *	the socket is closed. -EINVAL, -EFAULT, -ENOMEM.
 * @SPICEBD_CMD_LINK_REPORT: manager that attached. HELPER_INDEX, LINK.
 * @SPICEBD_CMD_MEDIUM_INSERT: manager that attached, with a queue bound. INDEX
 *	and MEDIUM (SIZE at least). Answers with GENERATION; the medium is
 *	readable when SPICEBD_EVENT_MEDIUM_CHANGED with that generation comes.
 *	-EEXIST: there is one; -EINVAL: the tray of a cdrom is closed;
 *	-ENOTCONN: no queue bound; -EBUSY: the drive is stale; -ENOMEDIUM: it
 *	is smaller than one block; -EFBIG: it is larger than 8 EiB - 512.
 * @SPICEBD_CMD_MEDIUM_SET: manager that attached. INDEX, and of MEDIUM what can
 *	change while it is in: READ_AHEAD. Files that are open keep what they
 *	were opened with. -ENOMEDIUM: there is none.
 * @SPICEBD_CMD_MEDIUM_REMOVE: manager. INDEX, FORCE. Empty: success. A cdrom's
 *	tray must be open (-EINVAL). In use: an eject request and -EBUSY.
 *	Locked (disk): an eject request and -EINPROGRESS.
 * @SPICEBD_CMD_TRAY_OPEN: manager. INDEX, FORCE. Open already: success, no
 *	event. Locked or in use: an eject request and -EINPROGRESS; with FORCE
 *	it opens all the same and requests end with errors. -ENOSYS: no tray.
 * @SPICEBD_CMD_TRAY_CLOSE: manager. INDEX. A medium in it becomes readable as
 *	after insert. -ENOSYS: no tray.
 * @SPICEBD_CMD_EJECT: manager. INDEX, FORCE, VERDICT. For a cdrom, TRAY_OPEN
 *	then MEDIUM_REMOVE; for a disk, MEDIUM_REMOVE; as one step. VERDICT is
 *	why, for whoever asks afterwards: until the next MEDIUM_INSERT,
 *	MEDIUM_REMOVE or EJECT.
 * @SPICEBD_CMD_LOCK: manager. INDEX. The administrator's lock: until UNLOCK no
 *	command takes the medium without FORCE (-EINPROGRESS and an eject
 *	request, for a disk too), nor does an ioctl, nor DRIVE_DEL. Other than
 *	the lock of the drive's user it outlives all openers.
 * @SPICEBD_CMD_UNLOCK: manager. INDEX, FORCE: the lock of the drive's user too.
 * @SPICEBD_CMD_FREEZE: manager. INDEX, HOLDER, HOLD_LIMIT. From now on no
 *	request passes until every holder has thawed; those that come wait.
 *	Answers with the drive at once: it is frozen when FREEZE says so, of
 *	which an event tells. A holder that freezes again sets its limit anew.
 *	While a drive is frozen the clock of the reconnect timeout stands, and a
 *	medium that is inserted becomes readable when it is thawed; by force a
 *	medium can still be taken. -ENOSPC: too many holders. "suspend" is the
 *	kernel's own holder, before the machine sleeps (-EINVAL).
 * @SPICEBD_CMD_THAW: manager. INDEX, HOLDER. -ENOENT: it is no holder, or its
 *	limit has come.
 * @SPICEBD_CMD_IO_REQUEST: kernel to helper. COOKIE, OP, FLAGS, OFFSET, LENGTH,
 *	QUEUE, GENERATION. A write's payload follows in order: a first piece in
 *	the request itself, each other piece an IO_DATA message.
 * @SPICEBD_CMD_IO_DATA: COOKIE, DATA_OFFSET, DATA: a further piece, to the
 *	helper of a write, to the kernel of a read. Pieces come in order,
 *	without gap or overlap, and none is empty.
 * @SPICEBD_CMD_IO_COMPLETE: queue. COOKIE, ERROR; for a read the last piece may
 *	ride along as DATA_OFFSET and DATA. A successful read must have brought
 *	all its bytes.
 * @SPICEBD_CMD_IO_REQUESTS: kernel to helper, on a socket with registered
 *	memory: REQUESTS.
 * @SPICEBD_CMD_IO_ANSWERS: queue, with registered memory: ANSWERS. A request is
 *	taken as answered in full. One that is refused does not keep the others
 *	from being taken; the error is that of the first refused.
 */
enum spicebd_cmd {
	SPICEBD_CMD_UNSPEC,
	SPICEBD_CMD_DRIVE_GET,
	SPICEBD_CMD_DRIVE_NTF,
	SPICEBD_CMD_MANAGE,
	SPICEBD_CMD_DRIVE_ADD,
	SPICEBD_CMD_DRIVE_SET,
	SPICEBD_CMD_DRIVE_DEL,
	SPICEBD_CMD_ATTACH,
	SPICEBD_CMD_DETACH,
	SPICEBD_CMD_KEY_NEW,
	SPICEBD_CMD_QUEUE_BIND,
	SPICEBD_CMD_LINK_REPORT,
	SPICEBD_CMD_MEDIUM_INSERT,
	SPICEBD_CMD_MEDIUM_REMOVE,
	SPICEBD_CMD_TRAY_OPEN,
	SPICEBD_CMD_TRAY_CLOSE,
	SPICEBD_CMD_EJECT,
	SPICEBD_CMD_IO_REQUEST,
	SPICEBD_CMD_IO_DATA,
	SPICEBD_CMD_IO_COMPLETE,
	SPICEBD_CMD_LOCK,
	SPICEBD_CMD_UNLOCK,
	SPICEBD_CMD_IO_REQUESTS,
	SPICEBD_CMD_IO_ANSWERS,
	SPICEBD_CMD_MEDIUM_SET,
	SPICEBD_CMD_FREEZE,
	SPICEBD_CMD_THAW,

	__SPICEBD_CMD_MAX,
	SPICEBD_CMD_MAX = (__SPICEBD_CMD_MAX - 1)
};

#endif /* _UAPI_LINUX_SPICEBD_H */
