/* SPDX-License-Identifier: GPL-2.0-only */
/* What migrate.c, migrate_out.c and migrate_in.c share, and nobody else includes. */
#ifndef SPICEBD_MIGRATE_IMPL_H
#define SPICEBD_MIGRATE_IMPL_H

#include <stdbool.h>
#include <stdint.h>

#include "control.h"
#include "drive.h"
#include "faropts.h"
#include "freezing.h"
#include "links.h"
#include "migrate.h"
#include "migstream.h"

#define MIGRATE_VERSION		1
#define MIGRATE_HOLDER		"migration"
#define MIGRATE_SETUP_MS	60000	/* for the first answer: an ssh may still log in */
#define MIGRATE_TALK_MS		30000	/* for the other side to answer */
#define MIGRATE_MOVE_MS		45000	/* for the share to reach the other host */
#define MIGRATE_FREEZE_S	30
#define MIGRATE_TICK_MS		500

/*
 * Of a source: SETUP, MOVING, FREEZING can be taken back; RELEASED only by the
 * arbiter's word, or the administrator's; GRANTED is the end, the medium is gone.
 * Of a target: SETUP is forgotten when the source goes; from ACCEPTED on the medium
 * may become ours without another word of the source's; GRANTED: it is.
 */
enum mig_phase {
	MIG_SETUP,
	MIG_MOVING,
	MIG_FREEZING,
	MIG_ACCEPTED,
	MIG_RELEASED,
	MIG_GRANTED,
	MIG_DONE,		/* of a target; of a source GRANTED stays for who asks */
	MIG_FAILED,
};

/**
 * struct migration - of one drive, from here or to here
 * @peer: the other host, for people
 * @far_drive: the drive there, once known
 * @arbiter: a share decides; else the source's release does
 * @link, @medium_id, @owner_epoch: the medium at the share, before it moved
 * @nbd_uri, @nbd_id: without a share: where it is, and what
 * @tray_open, @locked: as they shall be at the target
 * @made: (target) the drive was made for it
 * @s: to the other spicebdd, or NULL
 * @c: who waits for the end, or NULL
 * @why: why it failed, or what keeps it from going on
 * @asked: epoch of the port's session in which the share was last asked
 * @far_ready, @share_ready: who has said so; of a target: the share was told of it
 * @nag: (source, failed) the share does not know that yet
 * @begin: (source) what the share is told
 * @busy: (target) a medium is being inserted
 * @since: (target) nobody has been there who could go on with it; ms, 0: somebody is
 * @unwanted: (target, accepted) the share is asked to end it
 * @late: (target, failed) the share may yet say that the medium is ours
 * @drive: (late) the drive that was kept for it
 * @make: (target) the drive that is made for it
 */
struct migration {
	bool incoming;
	enum mig_phase phase;
	uint8_t id[FRAME_UUID_LEN];
	uint32_t index;
	char *peer, *far_drive, *name;
	bool arbiter;
	char link[32];
	uint8_t medium_id[FRAME_UUID_LEN];
	uint32_t owner_epoch;
	char *nbd_uri, *nbd_id;
	bool resend;
	uint64_t size;
	bool read_only, tray_open, locked, made;
	struct faropts far;

	struct migstream *s;
	struct cmd *c;
	char *why;
	guint timer;
	long long deadline;
	uint32_t asked;
	bool far_ready, share_ready, nag, busy;
	struct frame_move begin;
	struct freezing freezing;
	long long since;
	bool unwanted, late;
	char *drive;
	struct kernel_drive_new make;
};

/* migrate.c */
struct migration *migration_new(bool incoming, uint32_t index);
void migration_free(struct migration *m);
/* Of that drive, under way, or (source) granted; or NULL. */
struct migration *migration_of(const struct drive *d);
struct migration *migration_by_id(const uint8_t *id);
struct drive *migration_drive(const struct migration *m);
/* On disk before it is acted upon. */
int migration_enter(struct migration *m, enum mig_phase phase, struct derr *e);
void migration_event(struct migration *m);
void migration_answer(struct migration *m, int r, const struct derr *e);
void migration_close(struct migration *m);
void migration_why(struct migration *m, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
const char *migration_phase_str(const struct migration *m);
JsonObject *migration_message(const char *what);
/* The port of its drive, if the share's list has come; and the medium there, or NULL. */
struct link_port *migration_port(const struct migration *m, struct link **l,
				 const struct link_offer **o);
/* @port: of the link; false: the share is not there */
bool migration_ask(struct migration *m, enum frame_move_verb verb);

/* migrate_out.c */
int migrate_out_check(struct drive *d, struct derr *e);
/* migrate_out_check() has just found nothing against it. @fd: taken over */
void migrate_out_start(struct cmd *c, struct drive *d, int fd);
void migrate_out_tick(struct migration *m);
void migrate_out_look(struct migration *m);
void migrate_out_state(struct migration *m, const struct frame_move_state *s);
void migrate_out_cancel(struct migration *m, const char *why);
void migrate_out_resolve(struct migration *m, bool here);
void migrate_out_adopt(struct migration *m);
void migrate_out_medium_lost(struct migration *m);

/* migrate_in.c */
void migrate_in_accept(int fd);
void migrate_in_tick(struct migration *m);
void migrate_in_look(struct migration *m);
void migrate_in_state(struct migration *m, const struct frame_move_state *s);
void migrate_in_drop(struct migration *m, const char *why);
/* The same, if it is not too late for it. */
void migrate_in_cancel(struct migration *m, const char *why);
int migrate_in_resolve(struct migration *m, bool here, struct derr *e);
void migrate_in_adopt(struct migration *m);
/* The share says that the medium of a late one is ours. */
int migrate_in_claim(struct migration *m, struct derr *e);

/* migrate_late.c: targets that nobody goes on with */
/* Of one that has accepted: its drive, if it is there, is given up. */
void migrate_late_begin(struct migration *m, const char *why);
void migrate_late_tick(struct migration *m);
void migrate_late_ask(struct migration *m);
void migrate_late_state(struct migration *m, const struct frame_move_state *s);
void migrate_late_adopt(struct migration *m);

/* migrate_drive.c */
JsonObject *migrate_describe_drive(const struct kernel_drive_new *n);
/* false: of a kind that is not known here */
bool migrate_parse_drive(JsonObject *o, struct kernel_drive_new *n);

#endif /* SPICEBD_MIGRATE_IMPL_H */
