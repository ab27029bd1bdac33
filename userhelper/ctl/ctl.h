/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebdctl: a thin front of spicebdd's QMP. What the kernel alone knows it
 * asks the kernel, so that it can tell how things are with no daemon running.
 */
#ifndef SPICEBD_CTL_H
#define SPICEBD_CTL_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-glib/json-glib.h>

#include "kernel.h"

enum exit_status {
	EXIT_DONE = 0,
	EXIT_REFUSED = 1,
	EXIT_USAGE = 2,
	EXIT_NO_DAEMON = 3,
	EXIT_TIMEOUT = 4,
};

/* Why something was not done: one line, what, why, what to do. */
struct fault {
	enum exit_status status;
	char text[700];
};

void fault_set(struct fault *f, enum exit_status status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int fault_tell(const struct fault *f);

struct verb {
	const char *name;
	int (*run)(const struct verb *v, int argc, char **argv);
	const char *help;	/* begins with "usage: spicebdctl NAME" */
};

extern const struct verb verbs[];

/* verb.c: what the verbs' command lines have in common */
/**
 * verb_option() - the next of a verb's own options; --help and --json are seen to
 * @status: set at the end: -1 to go on, else the exit status
 * Return: its letter, its value in optarg; 0: there is no further one
 */
int verb_option(const struct verb *v, int argc, char **argv, const struct option *opts,
		bool *json, int *status);
/* --help, --json and, unless @force is NULL, --force. Return: as @status above. */
int verb_options(const struct verb *v, int argc, char **argv, bool *json, bool *force);
int verb_usage(const struct verb *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool parse_seconds(const char *text, int *out);
bool parse_u32(const char *text, uint32_t max, uint32_t *out);

/* Long options only, so that "-x" can be a file. Value of each: a letter. */
#define OPT_HELP { "help", no_argument, NULL, 'h' }
#define OPT_JSON { "json", no_argument, NULL, 'j' }
#define OPT_END { NULL, 0, NULL, 0 }

/* qmp_client.c */
struct qmp;

/* @who: "spicebdd", for complaints; a constant */
struct qmp *qmp_open(const char *path, const char *who, int timeout_ms, struct fault *f);
void qmp_close(struct qmp *q);
int qmp_fd(const struct qmp *q);

/*
 * Execute @command. @args: taken over, may be NULL. @fd: passed along, or -1.
 * Return: what "return" holds, to be freed by json_node_unref(); NULL: @f.
 */
JsonNode *qmp_call(struct qmp *q, const char *command, JsonObject *args, int fd,
		   int timeout_ms, struct fault *f);

/* An event, waiting at most @timeout_ms; NULL with @f->status EXIT_TIMEOUT. */
JsonObject *qmp_event(struct qmp *q, int timeout_ms, struct fault *f);

/* daemon.c */
enum daemon_how { DAEMON_MUST, DAEMON_IF_RUNNING, DAEMON_IF_QUICK };

struct qmp *daemon_connect(enum daemon_how how, struct fault *f);
bool daemon_by_systemd(void);
int daemon_run(char *const argv[], struct fault *f);
int supervisor_request(const char *text, int timeout_ms, struct fault *f);

/* drives.c */
bool drive_name_parse(const char *text, uint32_t *index);
struct kernel *drives_kernel(struct fault *f);
int drive_get(const char *text, struct kernel_drive *d, struct fault *f);
int drive_get_in(struct kernel *k, const char *text, struct kernel_drive *d, struct fault *f);

/**
 * drive_pick() - the drive of that name, or the one that fits
 * @name: or NULL
 * @fits: what the one drive must be like when none was named
 * @none, @several: what to say when it is not one
 */
int drive_pick(const char *name, bool (*fits)(const struct kernel_drive *d), const char *none,
	       const char *several, struct kernel_drive *out, struct fault *f);
bool drive_locked(const struct kernel_drive *d);

/*
 * What is forced is done within a second, so spicebdd is given this long to answer
 * and as long to greet; then the kernel is told directly.
 */
#define FORCE_MS	350

/*
 * Have spicebdd, if it runs, execute @command. @args: taken over; @timeout_ms: with
 * FORCE_MS its greeting is not waited for any longer either
 */
int drive_by_daemon(const char *command, JsonObject *args, int timeout_ms, struct fault *f);

/* Have the kernel do it, which takes no daemon. */
int drive_by_kernel(int (*what)(struct kernel *k, uint32_t index, bool force,
				struct kernel_err *e),
		    const struct kernel_drive *d, bool force, struct fault *f);
void fault_kernel(struct fault *f, const struct kernel_err *e);

/* busy.c */
void busy_explain(const struct kernel_drive *d, const char *does, struct fault *f);

/* source.c */
struct source {
	char uri[4400];		/* for spicebdd, when fd < 0 */
	char filename[4096];	/* for people */
	int fd;			/* of a local file or folder, or -1 */
};

int source_open(const char *text, bool cdrom, const char *mode, struct source *s, struct fault *f);

/* A descriptor goes to spicebdd: @uri becomes "/dev/fdset/N". */
bool source_hand_over(struct qmp *q, struct source *s, struct fault *f);

/* json_out.c */
JsonObject *json_of_drive(const struct kernel_drive *d);
void json_merge(JsonObject *to, JsonObject *from);
void json_print_object(JsonObject *o);
void json_print_node(JsonNode *n);
const char *json_str(JsonObject *o, const char *key, const char *otherwise);
int64_t json_int(JsonObject *o, const char *key, int64_t otherwise);
bool json_bool(JsonObject *o, const char *key);
JsonObject *json_obj(JsonObject *o, const char *key);
const char *size_text(uint64_t bytes, char *buf, size_t size);
const char *clean(const char *text);

/* style.c */
/* What begins the way in which a state, or a "title", is shown; "" but on a terminal. */
const char *style_of(const char *state);
const char *style_end(void);
/* The one word for a drive: its freeze if it has one. */
const char *state_shown(JsonObject *o);

/* wait.c: a line at the terminal for what takes its time: a QMP command, or anything else */
void wait_begin(const char *command, int limit_ms);
void wait_begin_as(const char *what, int limit_ms);
/* As poll(), of one, until @deadline; EINTR is no end. */
struct pollfd;
int wait_poll(struct pollfd *p, long long deadline);
/* How long to poll for, so that the line moves. */
int wait_slice(long long left_ms);
void wait_tell(void);
void wait_end(void);

/* verb_*.c */
int verb_insert(const struct verb *v, int argc, char **argv);
int verb_change(const struct verb *v, int argc, char **argv);
int verb_tray(const struct verb *v, int argc, char **argv);
int verb_freeze(const struct verb *v, int argc, char **argv);
int verb_thaw(const struct verb *v, int argc, char **argv);
int verb_snapshot(const struct verb *v, int argc, char **argv);
int verb_migrate(const struct verb *v, int argc, char **argv);
int verb_list(const struct verb *v, int argc, char **argv);
int verb_status(const struct verb *v, int argc, char **argv);
int verb_add(const struct verb *v, int argc, char **argv);
int verb_del(const struct verb *v, int argc, char **argv);
int verb_monitor(const struct verb *v, int argc, char **argv);
int verb_metrics(const struct verb *v, int argc, char **argv);
int verb_top(const struct verb *v, int argc, char **argv);
int verb_qemu(const struct verb *v, int argc, char **argv);
int verb_listen(const struct verb *v, int argc, char **argv);
int verb_unlisten(const struct verb *v, int argc, char **argv);
int verb_media(const struct verb *v, int argc, char **argv);
int verb_start(const struct verb *v, int argc, char **argv);
int verb_stop(const struct verb *v, int argc, char **argv);

#endif /* SPICEBD_CTL_H */
