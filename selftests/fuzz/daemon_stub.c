// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel as spicebdd sees it, for the targets that link the daemon: drives
 * with a tray, whose calls succeed or fail as the script says. And no threads: a
 * task cannot be started, so nothing goes on behind an input's back.
 */
#include "daemon_stub.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "adopt.h"
#include "control.h"
#include "drive.h"
#include "export.h"
#include "kernel.h"
#include "links.h"
#include "nodes.h"
#include "privs.h"
#include "work.h"

#define EVENTS	64

struct kernel {
	int unused;
};

static struct kernel handle;
static struct kernel_drive drives[SPICEBD_MAX_DRIVES];
static bool there[SPICEBD_MAX_DRIVES];
static struct kernel_drive queue[EVENTS];
static unsigned int n_queue;
static int event_fd = -1;
static uint8_t failing;		/* so many calls succeed, the next fails; 0: none */

struct kernel *kernel_open(struct kernel_err *err)
{
	event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return &handle;
}

void kernel_close(struct kernel *k)
{
}

uint16_t kernel_family(const struct kernel *k)
{
	return 42;
}

static int err(struct kernel_err *e, int code, const char *text)
{
	if (e) {
		e->code = code;
		snprintf(e->text, sizeof(e->text), "%s", text);
	}
	return -code;
}

/* What every call begins with. */
static int check(uint32_t index, struct kernel_err *e)
{
	static const int codes[] = { EBUSY, EINPROGRESS, ENODEV, ENOMEM };

	if (failing && !--failing)
		return err(e, codes[index % 4], "the script wants it");
	if (index >= SPICEBD_MAX_DRIVES || !there[index])
		return err(e, ENODEV, "no such drive");
	return 0;
}

static void tell(uint32_t index, uint32_t event)
{
	uint64_t one = 1;

	if (n_queue == EVENTS)
		return;
	queue[n_queue] = drives[index];
	/* Only answers have names. */
	for (int i = 0; i < SPICEBD_MAX_HOLDERS; i++)
		queue[n_queue].holders[i].name[0] = '\0';
	queue[n_queue++].event = event;
	must(write(event_fd, &one, sizeof(one)) == sizeof(one));
}

int kernel_manage(struct kernel *k, struct kernel_err *e)
{
	return 0;
}

int kernel_get(struct kernel *k, uint32_t index, struct kernel_drive *d, struct kernel_err *e)
{
	int r = check(index, e);

	if (!r)
		*d = drives[index];
	return r;
}

int kernel_list(struct kernel *k, struct kernel_drive *d, unsigned int *n, struct kernel_err *e)
{
	*n = 0;
	for (int i = 0; i < SPICEBD_MAX_DRIVES; i++)
		if (there[i])
			d[(*n)++] = drives[i];
	return 0;
}

static void make(uint32_t i, uint32_t personality)
{
	there[i] = true;
	drives[i] = (struct kernel_drive) {
		.index = i, .personality = personality, .nr_queues = 1, .queue_depth = 64,
		.max_io = 1 << 20, .reconnect_timeout = 60, .stall_timeout = 30,
		.tray = SPICEBD_TRAY_CLOSED,
	};
	snprintf(drives[i].name, sizeof(drives[i].name), "spicebd%u", i);
	tell(i, SPICEBD_EVENT_DRIVE_ADDED);
}

int kernel_add(struct kernel *k, const struct kernel_drive_new *a, struct kernel_drive *d,
	       struct kernel_err *e)
{
	uint32_t i = 0;

	if (check(0, e) == -EBUSY)
		return -EBUSY;
	if (a->set_index)
		i = a->index;
	else
		while (i < SPICEBD_MAX_DRIVES && there[i])
			i++;
	if (i >= SPICEBD_MAX_DRIVES || there[i])
		return err(e, EEXIST, "no room for it");
	make(i, a->personality);
	if (a->set_reconnect)
		drives[i].reconnect_timeout = a->reconnect_timeout;
	*d = drives[i];
	return 0;
}

int kernel_set(struct kernel *k, uint32_t index, const int32_t *reconnect,
	       const uint32_t *stall, struct kernel_err *e)
{
	return check(index, e);
}

int kernel_del(struct kernel *k, uint32_t index, bool force, struct kernel_err *e)
{
	int r = check(index, e);

	if (r)
		return r;
	there[index] = false;
	tell(index, SPICEBD_EVENT_DRIVE_REMOVED);
	return 0;
}

int kernel_attach(struct kernel *k, uint32_t index, uint32_t nr_keys,
		  struct kernel_keys *keys, struct kernel_err *e)
{
	return err(e, ENOMEM, "not here");
}

int kernel_detach(struct kernel *k, uint32_t index, struct kernel_err *e)
{
	return check(index, e);
}

int kernel_key_new(struct kernel *k, uint32_t index, uint32_t nr_keys,
		   struct kernel_keys *keys, struct kernel_err *e)
{
	return err(e, ENOMEM, "not here");
}

int kernel_link_report(struct kernel *k, uint32_t index, enum spicebd_link link,
		       struct kernel_err *e)
{
	return check(index, e);
}

int kernel_medium_insert(struct kernel *k, uint32_t index, const struct kernel_medium *m,
			 uint64_t *generation, struct kernel_err *e)
{
	return err(e, ENOMEM, "not here");
}

int kernel_read_ahead(struct kernel *k, uint32_t index, uint32_t bytes, struct kernel_err *e)
{
	return check(index, e);
}

static void out(uint32_t index)
{
	if (!(drives[index].state & SPICEBD_STATE_MEDIUM))
		return;
	drives[index].state &= ~(SPICEBD_STATE_MEDIUM | SPICEBD_STATE_READY);
	drives[index].generation++;
	tell(index, SPICEBD_EVENT_MEDIUM_CHANGED);
}

static int locked(uint32_t index, bool force, struct kernel_err *e)
{
	if (force || !(drives[index].state & SPICEBD_STATE_LOCKED_ADMIN))
		return 0;
	tell(index, SPICEBD_EVENT_EJECT_REQUEST);
	return err(e, EINPROGRESS, "locked");
}

int kernel_medium_remove(struct kernel *k, uint32_t index, bool force, struct kernel_err *e)
{
	int r = check(index, e);

	if (!r && drives[index].tray != SPICEBD_TRAY_OPEN)
		return err(e, EINVAL, "the tray is closed");
	if (!r)
		out(index);
	return r;
}

static int tray(uint32_t index, uint32_t state, struct kernel_err *e)
{
	if (drives[index].personality != SPICEBD_PERSONALITY_CDROM)
		return err(e, ENOSYS, "it has no tray");
	drives[index].tray = state;
	tell(index, SPICEBD_EVENT_TRAY_MOVED);
	return 0;
}

int kernel_tray_open(struct kernel *k, uint32_t index, bool force, struct kernel_err *e)
{
	int r = check(index, e);

	if (!r)
		r = locked(index, force, e);
	return r ? r : tray(index, SPICEBD_TRAY_OPEN, e);
}

int kernel_tray_close(struct kernel *k, uint32_t index, struct kernel_err *e)
{
	int r = check(index, e);

	return r ? r : tray(index, SPICEBD_TRAY_CLOSED, e);
}

int kernel_eject(struct kernel *k, uint32_t index, bool force, struct kernel_err *e)
{
	int r = check(index, e);

	if (!r)
		r = locked(index, force, e);
	if (r)
		return r;
	out(index);
	tray(index, SPICEBD_TRAY_OPEN, NULL);
	return 0;
}

int kernel_eject_because(struct kernel *k, uint32_t index, uint32_t verdict, struct kernel_err *e)
{
	return kernel_eject(k, index, true, e);
}

static int set_lock(uint32_t index, bool lock)
{
	if (lock)
		drives[index].state |= SPICEBD_STATE_LOCKED_ADMIN;
	else
		drives[index].state &= ~SPICEBD_STATE_LOCKED_ADMIN;
	tell(index, SPICEBD_EVENT_LOCK_CHANGED);
	return 0;
}

int kernel_lock(struct kernel *k, uint32_t index, struct kernel_err *e)
{
	int r = check(index, e);

	return r ? r : set_lock(index, true);
}

int kernel_unlock(struct kernel *k, uint32_t index, bool force, struct kernel_err *e)
{
	int r = check(index, e);

	return r ? r : set_lock(index, false);
}

static struct kernel_holder *holder(uint32_t index, const char *name)
{
	for (unsigned int i = 0; i < drives[index].nr_holders; i++)
		if (!strcmp(drives[index].holders[i].name, name))
			return &drives[index].holders[i];
	return NULL;
}

/* Nothing is under way here: whoever freezes has it frozen. */
static void set_freeze(uint32_t index, struct kernel_drive *d)
{
	bool held = drives[index].nr_holders;

	drives[index].freeze = held ? SPICEBD_FREEZE_FROZEN : SPICEBD_FREEZE_THAWED;
	drives[index].state &= ~SPICEBD_STATE_FREEZING;
	if (held)
		drives[index].state |= SPICEBD_STATE_FREEZING;
	tell(index, SPICEBD_EVENT_FREEZE);
	*d = drives[index];
}

int kernel_freeze(struct kernel *k, uint32_t index, const char *name, uint32_t limit,
		  struct kernel_drive *d, struct kernel_err *e)
{
	int r = check(index, e);
	struct kernel_holder *h = r ? NULL : holder(index, name);

	if (r)
		return r;
	if (!h && drives[index].nr_holders == SPICEBD_MAX_HOLDERS)
		return err(e, ENOSPC, "too many holders");
	if (!h)
		h = &drives[index].holders[drives[index].nr_holders++];
	*h = (struct kernel_holder){ .limited = limit, .left_ms = limit * 1000 };
	must(strlen(name) < sizeof(h->name));
	strcpy(h->name, name);
	set_freeze(index, d);
	return 0;
}

int kernel_thaw(struct kernel *k, uint32_t index, const char *name, struct kernel_drive *d,
		struct kernel_err *e)
{
	int r = check(index, e);
	struct kernel_holder *h = r ? NULL : holder(index, name);

	if (r)
		return r;
	if (!h)
		return err(e, ENOENT, "it is no holder");
	*h = drives[index].holders[--drives[index].nr_holders];
	set_freeze(index, d);
	return 0;
}

struct kernel_events *kernel_events_open(struct kernel_err *e)
{
	return (struct kernel_events *)&handle;
}

void kernel_events_close(struct kernel_events *ev)
{
}

int kernel_events_fd(const struct kernel_events *ev)
{
	return event_fd;
}

int kernel_events_read(struct kernel_events *ev, kernel_event_fn fn, void *arg)
{
	struct kernel_drive now[EVENTS];
	unsigned int n = n_queue;
	uint64_t v;

	(void)!read(event_fd, &v, sizeof(v));
	memcpy(now, queue, sizeof(now));
	n_queue = 0;
	for (unsigned int i = 0; i < n; i++)
		fn(KERNEL_EVENT_DRIVE, &now[i], arg);
	return 0;
}

const char *kernel_event_str(uint32_t event)
{
	return "event";
}

/* ---- in place of privs.c, main.c and threads */

int privs_start_opener(struct derr *e)
{
	return 0;
}

int privs_opener_fd(void)
{
	return -1;
}

int privs_queue_socket(struct derr *e)
{
	return derr_set(e, ENOMEM, "not here");
}

void privs_prepare_memory(void)
{
}

int privs_drop(struct derr *e)
{
	return 0;
}

void control_quit(int status)
{
}

bool __wrap_task_run(struct task *t);

bool __wrap_task_run(struct task *t)
{
	return false;
}

guint __wrap_g_timeout_add(guint ms, GSourceFunc fn, gpointer data);
gboolean __wrap_g_source_remove(guint id);
gboolean __real_g_source_remove(guint id);

/* No timer ever ends: else the same input would not do the same each time. */
guint __wrap_g_timeout_add(guint ms, GSourceFunc fn, gpointer data)
{
	return 1u << 30;
}

gboolean __wrap_g_source_remove(guint id)
{
	return id == 1u << 30 ? TRUE : __real_g_source_remove(id);
}

int __wrap_fsync(int fd);

/* Nothing here outlives the machine, and a disk would be what is measured. */
int __wrap_fsync(int fd)
{
	return 0;
}

/* ---- for the targets */

static char dir[] = "/tmp/daemon_fuzz.XXXXXX";

static void remove_dir(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	if (system(command))
		return;
}

const char *stub_dir(void)
{
	return dir;
}

/* Only once in a process: the daemon's parts are not made to end. */
void stub_init(void)
{
	char path[64];
	struct derr e;

	must(mkdtemp(dir));
	atexit(remove_dir);
	snprintf(path, sizeof(path), "%s/link", dir);
	must(mkdir(path, 0700) == 0);
	setenv("SPICEBD_RUN_DIR", dir, 1);
	g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL | G_LOG_LEVEL_ERROR);
	work_init();
	exports_init();
	must(control_init(&e) == 0 && drives_init(&e) == 0);
	drives_follow();
	control_listen();
}

void stub_settle(void)
{
	for (int i = 0; i < 1000 && g_main_context_iteration(NULL, FALSE); i++)
		;
}

struct kernel_drive *stub_drive(uint32_t index)
{
	return &drives[index];
}

void stub_fail_later(uint8_t calls)
{
	failing = calls;
}

void stub_event(uint32_t index, uint32_t event)
{
	if (there[index])
		tell(index, event);
}

static void forget_node(const struct node_info *i, void *arg)
{
	GPtrArray *names = arg;

	g_ptr_array_add(names, g_strdup(i->name));
}

/* Two empty drives, and nothing else. */
void stub_reset(void)
{
	GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
	struct derr e;

	failing = 0;
	stub_settle();
	for (uint32_t i = 0; i < SPICEBD_MAX_DRIVES; i++) {
		if (!there[i])
			continue;
		there[i] = false;
		n_queue = 0;
		tell(i, SPICEBD_EVENT_DRIVE_REMOVED);
		stub_settle();
	}
	nodes_each(forget_node, names);
	for (guint i = 0; i < names->len; i++)
		node_del(g_ptr_array_index(names, i), &e);
	g_ptr_array_free(names, TRUE);
	make(0, SPICEBD_PERSONALITY_CDROM);
	make(1, SPICEBD_PERSONALITY_DISK);
	stub_settle();
}
