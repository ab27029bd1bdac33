/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * QMP: the two sockets, the table of commands, events. Main thread.
 * Documentation/qmp.rst.
 */
#ifndef SPICEBD_CONTROL_H
#define SPICEBD_CONTROL_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "derr.h"
#include "kernel.h"
#include "qmp.h"

struct drive;

#define EXIT_AGAIN	75	/* start me again, nothing is wrong */
#define PEERS_MAX	64	/* of each socket */
#define PEERS_OF_UID_MAX	16	/* of the status socket, but for root */

/**
 * struct cmd - a command under way; answered once, then gone
 * @args: never NULL; checked against the command's table entry
 * @status: came over the status socket: nothing private in the answer
 */
struct cmd {
	struct qmp_peer *peer;
	JsonObject *args;
	bool status;
};

#define CMD_STATUS	(1u << 0)	/* allowed on the status socket */

/**
 * struct cmd_desc - a command
 * @args: what it takes, a list of members as in schema.h
 * @ret: type of what it answers, or NULL: an empty object
 */
struct cmd_desc {
	const char *name;
	void (*run)(struct cmd *c);
	unsigned int flags;
	const char *args;
	const char *ret;
};

/* The tables, each in a file of its own. */
extern const struct cmd_desc commands_block[], commands_export[], commands_freeze[],
	commands_job[], commands_migrate[], commands_own[], commands_query[], commands_snapshot[];

void cmd_return(struct cmd *c, JsonNode *ret);
void cmd_return_object(struct cmd *c, JsonObject *o);
void cmd_return_array(struct cmd *c, JsonArray *a);
void cmd_fail(struct cmd *c, const struct derr *e);
/* Either of the two, by an error code. */
void cmd_end(struct cmd *c, int r, const struct derr *e);

/* Arguments; NULL or the given value where one was left out. */
const char *arg_str(const struct cmd *c, const char *name);
bool arg_bool(const struct cmd *c, const char *name, bool fallback);
long long arg_int(const struct cmd *c, const char *name, long long fallback);
bool arg_has(const struct cmd *c, const char *name);

/* The drive that "device", "id" or "drive" names; fails the command if none. */
struct drive *arg_drive(struct cmd *c, bool needed, bool *failed);

/* The n-th of all commands, or NULL. */
const struct cmd_desc *control_command(unsigned int n);

int control_init(struct derr *e);
void control_listen(void);
void control_quit(int status);
/* Answers on their way get this long. */
void control_linger(int ms);

void control_drive_event(struct drive *d, const struct kernel_drive *k);
/* @k: with the names of its holders */
void control_freeze_event(const struct kernel_drive *k);
/* @holder: or NULL */
void control_freeze_expired(const char *drive, const char *holder);
void control_link_event(struct drive *d, bool up, const char *reason);
void control_media_event(const char *link);
void control_migration_event(const char *drive, bool incoming, const char *status);
void control_export_deleted(const char *id);
/* @status: "created", "failed", "deleted"; @reason: or NULL */
void control_snapshot_event(const char *drive, const char *name, const char *status,
			    const char *reason);
/* A job of QEMU's kind is over: cancelled, or @error. */
void control_job_event(const char *id, uint64_t len, uint64_t offset, const char *error);

#endif /* SPICEBD_CONTROL_H */
