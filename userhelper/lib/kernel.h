/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Control messages of the generic netlink family "spicebd", over libnl.
 *
 * One handle belongs to one thread. The kernel answers without waiting for a
 * helper; all the same every wait here ends after KERNEL_TIMEOUT_MS.
 */
#ifndef SPICEBD_KERNEL_H
#define SPICEBD_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/spicebd.h>

#define KERNEL_TIMEOUT_MS	5000

/**
 * struct kernel_err - why a call failed
 * @code: errno value, positive
 * @text: one line for people; the kernel's own words where it gave any
 */
struct kernel_err {
	int code;
	char text[256];
};

struct kernel_medium {
	uint8_t id[SPICEBD_MEDIUM_ID_MAX];
	uint32_t id_len;		/* 0: not shown to this socket */
	uint64_t size;
	uint32_t flags;			/* SPICEBD_MEDIUM_* */
	uint32_t block_size;
	uint32_t io_opt;
	uint32_t discard_align;
	uint32_t max_discard;
	uint32_t read_ahead;		/* 0: the kernel's default */
};

struct kernel_stats {
	uint64_t reads, writes, flushes, discards, write_zeroes;
	uint64_t read_bytes, write_bytes;
	uint64_t errors, refused, resent, medium_changes;
};

/**
 * struct kernel_holder - one that keeps a drive frozen
 * @name: empty: not shown to this socket
 * @since_ms: for how long
 * @limited: @left_ms is until it is one no more
 */
struct kernel_holder {
	char name[SPICEBD_HOLDER_NAME_MAX + 1];
	uint64_t since_ms;
	bool limited;
	uint32_t left_ms;
};

/**
 * struct kernel_drive - a drive as the kernel tells it
 * @medium: meaningful with SPICEBD_STATE_MEDIUM in @state
 * @hold_left_ms: with @hold_limited: until held requests fail
 * @freeze: enum spicebd_freeze; @freeze_error: errno value of a flush that failed
 * @event: enum spicebd_event, in events only
 */
struct kernel_drive {
	uint32_t index;
	char name[32];
	uint32_t major, minor;
	uint32_t personality;
	uint32_t nr_queues, queue_depth, max_io;
	int32_t reconnect_timeout;
	uint32_t stall_timeout;
	uint32_t open_wait;
	uint32_t tray;
	uint32_t state;
	uint32_t helper, helper_pid;
	uint32_t link;
	uint32_t condition, verdict;
	uint64_t verdict_since_ms;		/* while there is a verdict */
	uint32_t nr_sockets;
	uint32_t openers, users;		/* users: those that hold the medium */
	uint32_t in_flight, held;
	bool hold_limited;
	uint32_t hold_left_ms;
	uint64_t generation;
	uint32_t freeze, freeze_error;
	unsigned int nr_holders;
	struct kernel_holder holders[SPICEBD_MAX_HOLDERS];
	struct kernel_medium medium;
	struct kernel_stats stats;
	uint32_t event;
};

/**
 * struct kernel_drive_new - arguments of a new drive
 *
 * A member is sent only when its "set_" flag is true.
 * @held: made frozen, by the holder SPICEBD_DEFAULT_HOLDER
 * @open_wait: seconds that an open waits until it is not; 0 none
 */
struct kernel_drive_new {
	uint32_t personality;
	bool set_index, set_queues, set_depth, set_max_io, set_reconnect, set_stall;
	uint32_t index, nr_queues, queue_depth, max_io;
	int32_t reconnect_timeout;
	uint32_t stall_timeout;
	bool held;
	bool set_open_wait;
	uint32_t open_wait;
};

struct kernel_keys {
	unsigned int n;
	uint8_t key[SPICEBD_MAX_KEYS][SPICEBD_KEY_LEN];
};

struct kernel;

/**
 * kernel_open() - connect to the family
 * @err: ENOENT: the module is not loaded (the request itself made the kernel
 *	try to load it)
 * Return: handle, or NULL
 */
struct kernel *kernel_open(struct kernel_err *err);
void kernel_close(struct kernel *k);
uint16_t kernel_family(const struct kernel *k);

/*
 * All of the following return 0 or -errno, and on an error fill in @err (which
 * may be NULL). What each command does is told in <linux/spicebd.h>.
 */
int kernel_manage(struct kernel *k, struct kernel_err *err);
int kernel_get(struct kernel *k, uint32_t index, struct kernel_drive *d,
	       struct kernel_err *err);

/**
 * kernel_list() - all drives, in order of their index
 * @d: room for SPICEBD_MAX_DRIVES
 * @n: out: how many
 */
int kernel_list(struct kernel *k, struct kernel_drive *d, unsigned int *n,
		struct kernel_err *err);
int kernel_add(struct kernel *k, const struct kernel_drive_new *args,
	       struct kernel_drive *d, struct kernel_err *err);

/**
 * kernel_set() - change a drive's limits
 * @reconnect, @stall: NULL: stays as it is
 */
int kernel_set(struct kernel *k, uint32_t index, const int32_t *reconnect,
	       const uint32_t *stall, struct kernel_err *err);
int kernel_del(struct kernel *k, uint32_t index, bool force, struct kernel_err *err);
int kernel_attach(struct kernel *k, uint32_t index, uint32_t nr_keys,
		  struct kernel_keys *keys, struct kernel_err *err);
int kernel_detach(struct kernel *k, uint32_t index, struct kernel_err *err);
int kernel_key_new(struct kernel *k, uint32_t index, uint32_t nr_keys,
		   struct kernel_keys *keys, struct kernel_err *err);
int kernel_link_report(struct kernel *k, uint32_t index, enum spicebd_link link,
		       struct kernel_err *err);
int kernel_medium_insert(struct kernel *k, uint32_t index, const struct kernel_medium *m,
			 uint64_t *generation, struct kernel_err *err);
int kernel_read_ahead(struct kernel *k, uint32_t index, uint32_t bytes, struct kernel_err *err);
int kernel_medium_remove(struct kernel *k, uint32_t index, bool force,
			 struct kernel_err *err);
int kernel_tray_open(struct kernel *k, uint32_t index, bool force, struct kernel_err *err);
int kernel_tray_close(struct kernel *k, uint32_t index, struct kernel_err *err);
int kernel_eject(struct kernel *k, uint32_t index, bool force, struct kernel_err *err);
/* By force. @verdict: enum spicebd_verdict */
int kernel_eject_because(struct kernel *k, uint32_t index, uint32_t verdict,
			 struct kernel_err *err);
int kernel_lock(struct kernel *k, uint32_t index, struct kernel_err *err);

/**
 * kernel_unlock() - open the administrator's lock
 * @force: the lock of the drive's user too
 */
int kernel_unlock(struct kernel *k, uint32_t index, bool force, struct kernel_err *err);

/**
 * kernel_freeze() - become a holder of a frozen drive
 * @holder: its name; one that is a holder already sets its limit anew
 * @limit: seconds, 0 none
 * @d: out: the drive; it is frozen when its state says so, of which an event tells
 */
int kernel_freeze(struct kernel *k, uint32_t index, const char *holder, uint32_t limit,
		  struct kernel_drive *d, struct kernel_err *err);
int kernel_thaw(struct kernel *k, uint32_t index, const char *holder, struct kernel_drive *d,
		struct kernel_err *err);

/*
 * Events come on a socket of their own, which no answer can crowd out.
 */
struct kernel_events;

enum kernel_event_kind {
	KERNEL_EVENT_DRIVE,		/* @d is set, d->event says what */
	KERNEL_EVENT_FAMILY_GONE,	/* the module was removed */
	KERNEL_EVENT_FAMILY_NEW,	/* ... and came back: open everything anew */
};

typedef void (*kernel_event_fn)(enum kernel_event_kind kind, const struct kernel_drive *d,
				void *arg);

struct kernel_events *kernel_events_open(struct kernel_err *err);
void kernel_events_close(struct kernel_events *ev);
int kernel_events_fd(const struct kernel_events *ev);	/* non-blocking, for poll */

/**
 * kernel_events_read() - take what is there, without waiting
 * Return: 0; -ENOBUFS: events were lost, read the state of all drives again;
 *	another -errno: the socket is of no use any more
 */
int kernel_events_read(struct kernel_events *ev, kernel_event_fn fn, void *arg);

/**
 * kernel_parse_drive() - attributes of one drive message
 * @attrs, @len: what follows the generic netlink header
 */
int kernel_parse_drive(const void *attrs, size_t len, struct kernel_drive *d);

const char *kernel_event_str(uint32_t event);

#endif /* SPICEBD_KERNEL_H */
