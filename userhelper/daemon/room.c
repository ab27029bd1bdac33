// SPDX-License-Identifier: GPL-2.0-only
#include "room.h"

#include <errno.h>
#include <poll.h>

#include "drive.h"
#include "holders.h"
#include "medium.h"
#include "polite.h"
#include "sock.h"

#define LOOK_MS		20
/*
 * For a probe that opened the old medium a moment ago, after a forced eject.
 * With force there is another way than to wait for it; without, it is all that
 * stands between the asker and a refusal, and a busy machine's udev is slow.
 */
#define STALE_FORCE_MS	300
#define STALE_MS	3000
/* For the kernel to delete a drive. */
#define DELETE_MS	10000

static bool left_stale(const struct drive *d)
{
	return d->k.state & SPICEBD_STATE_STALE && !drive_has_medium(d);
}

/* Who has to let go; where nobody can be seen, it is only known that somebody has it. */
static int stale_error(struct drive *d, struct derr *e)
{
	char who[300];

	if (!holders_describe(d->k.name, d->k.openers, who, sizeof(who)))
		g_strlcpy(who, "open", sizeof(who));
	return derr_set(e, EUCLEAN, "drive %s: an old medium, ejected by force, is still %s: "
			"unmount or close it first, or use force", d->k.name, who);
}

int room_check(struct room *room)
{
	struct drive *d = room->d;
	struct derr *e = &room->e;

	if (!d->present)
		return derr_set(e, ENODEV, "the drive was deleted meanwhile");
	if (drive_refresh(d, e) < 0)
		return -e->code;
	if (room->on_tray && drive_has_tray(d) && d->k.tray != SPICEBD_TRAY_OPEN)
		return derr_set(e, EINVAL, "Tray of the device is not open");
	if (!room->replace && blockers_check_begun(d, OP_INSERT, room->force, e) < 0)
		return room->on_tray ? derr_set(e, EEXIST, "There already is a medium in the "
						"device") : -e->code;
	if (left_stale(d) && !room->force)
		return stale_error(d, e);
	return 0;
}

/* The old medium goes and the tray opens in one step, or neither does. */
static int vacate(struct room *room)
{
	struct drive *d = room->d;
	struct kernel_err ke;
	int r = 0;

	/* Its events must not look like somebody's eject. */
	d->keep = drive_has_tray(d);
	if (drive_has_medium(d))
		r = kernel_eject(drives_kernel, d->index, room->force, &ke);
	else if (drive_has_tray(d))
		r = kernel_tray_open(drives_kernel, d->index, room->force, &ke);
	if (r < 0) {
		drive_refresh(d, NULL);
		d->keep = d->keep && d->k.tray == SPICEBD_TRAY_OPEN;
		return drive_in_use_err(d, &ke, "put out the old medium", &room->e);
	}
	if (d->medium)
		medium_out(d->medium);
	return drive_refresh(d, &room->e);
}

static void step_vacate(void *arg)
{
	struct room *room = arg;

	room->r = room_check(room);
	if (!room->r && !left_stale(room->d))
		room->r = vacate(room);
	/* Those who locked or froze it were not asked. */
	room->locked = room->d->k.state & (SPICEBD_STATE_LOCKED_ADMIN | SPICEBD_STATE_FREEZING);
}

static void step_is_free(void *arg)
{
	struct room *room = arg;

	room->free = !room->d->present || drive_refresh(room->d, NULL) < 0 ||
		     !drive_in_use(room->d);
}

static void step_is_clean(void *arg)
{
	struct room *room = arg;

	room->free = !room->d->present || drive_refresh(room->d, NULL) < 0 ||
		     !left_stale(room->d);
}

static void step_is_deleted(void *arg)
{
	struct room *room = arg;

	room->free = !room->d->present;
}

static void step_patience(void *arg)
{
	struct room *room = arg;

	room->patience = polite_patience(room->d, room->patience);
}

/* Until @look says so, or @end. */
static bool await(struct room *room, struct task *t, long long end, void (*look)(void *arg))
{
	for (;;) {
		uint64_t seq = change_seq();

		main_call(look, room);
		if (room->free)
			return true;
		if (now_ms() >= end || task_cancelled(t))
			return false;
		task_wait_until(t, seq, end);
	}
}

/* The kernel tells nobody that the old medium's last opener has gone. */
static bool await_clean(struct room *room, struct task *t)
{
	long long end = now_ms() + (room->force ? STALE_FORCE_MS : STALE_MS);

	do {
		main_call(step_is_clean, room);
	} while (!room->free && now_ms() < end && task_pause(t, LOOK_MS) == 0);
	return room->free;
}

static int asked(struct room *room, struct task *t)
{
	bool waited = false;
	long long end;

	main_call(step_patience, room);
	end = now_ms() + room->patience;
	for (;;) {
		main_call(step_vacate, room);
		if (room->r == -EUCLEAN && !waited) {
			waited = true;
			if (await_clean(room, t))
				continue;
		}
		if (room->force || room->locked ||
		    (room->r != -EBUSY && room->r != -EINPROGRESS))
			return room->r;
		if (!await(room, t, end, step_is_free))
			return task_cancelled(t) ? derr_set(&room->e, ECANCELED, "ended by an "
							    "eject") : room->r;
	}
}

static void step_renew_begin(void *arg)
{
	struct room *room = arg;

	room->r = drive_renew_begin(room->d, &room->e);
}

static void step_renew_end(void *arg)
{
	struct room *room = arg;
	struct drive *d = room->d;

	if (d->present)
		room->r = derr_set(&room->e, ETIMEDOUT, "drive %s is being deleted, to be made "
				   "anew, and that does not end", d->k.name);
	else
		room->r = drive_renew_end(d, &room->e);
	d->renewing = false;
	if (!room->r)
		room->r = vacate(room);
}

int room_make(struct room *room, struct task *t)
{
	int r = asked(room, t);
	long long end;

	if (r < 0 || !room->force)
		return r;
	if (await_clean(room, t)) {
		/* Nothing was done while it was stale. */
		main_call(step_vacate, room);
		return room->r;
	}
	main_call(step_renew_begin, room);
	if (room->r < 0)
		return room->r;
	/* It goes whether we wait or not, and must come back: nobody cancels this. */
	end = now_ms() + DELETE_MS;
	for (room->free = false; !room->free && now_ms() < end; poll(NULL, 0, LOOK_MS))
		main_call(step_is_deleted, room);
	main_call(step_renew_end, room);
	return room->r;
}
