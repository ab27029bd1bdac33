// SPDX-License-Identifier: GPL-2.0-only
#include "command.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <glib-unix.h>

#include "frame.h"
#include "help.h"
#include "sock.h"
#include "ui.h"

#define LINE_MAX_LEN	8192
#define WAITING_MAX	64	/* commands whose answer is awaited */
#define BACKGROUND_MS	1000	/* until the terminal is looked at again */
#define ARGS_MAX	4

/* A command that waits: for drives, or first for a folder's image. */
struct waiting {
	const char *verb;
	char *name;
	uint32_t id;		/* of the medium that is asked for */
	uint32_t by;		/* (change) of the other one */
	bool drop;		/* (remove) withdraw it when it is back */
	bool preparing;		/* @by is not ready yet */
	long long since;	/* now_ms() when drives were asked */
};

static struct spicebd_share *share;
static struct command_hooks hooks;
static GList *waiting;
static guint source;
static char line[LINE_MAX_LEN];
static size_t len;
static bool too_long;

/* ---- answers */

static struct waiting *wait_new(const char *verb, const struct spicebd_share_info *m)
{
	struct waiting *w;

	if (g_list_length(waiting) >= WAITING_MAX) {
		ui_answer(verb, m->name, UI_FAILED, "too many commands wait for their answer");
		return NULL;
	}
	w = g_new0(struct waiting, 1);
	w->verb = verb;
	w->name = g_strdup(m->name);
	w->id = m->id;
	w->since = now_ms();
	waiting = g_list_append(waiting, w);
	return w;
}

static void wait_free(struct waiting *w)
{
	waiting = g_list_remove(waiting, w);
	g_free(w->name);
	g_free(w);
}

static void on_answer(void *user, enum spicebd_share_answer answer, const char *text)
{
	static const enum ui_result results[] = {
		[SPICEBD_SHARE_DONE] = UI_DONE,
		[SPICEBD_SHARE_REFUSED] = UI_BUSY,
		[SPICEBD_SHARE_NO_ANSWER] = UI_NO_ANSWER,
	};
	struct waiting *w = user;
	bool done = answer == SPICEBD_SHARE_DONE;
	uint32_t gone = 0;

	ui_answer(w->verb, w->name, results[answer], text);
	/*
	 * Of a change one of the two stays, whichever drives have. Without an
	 * answer that is not known, and both do.
	 */
	if (w->by && done)
		gone = w->id;
	else if (w->by && answer == SPICEBD_SHARE_REFUSED)
		gone = spicebd_share_is_inserted(share, w->by) ? 0 : w->by;
	else if (w->drop && done)
		gone = w->id;
	wait_free(w);
	if (gone)
		spicebd_share_withdraw(share, gone);
}

void commands_share_event(const struct spicebd_share_event *ev)
{
	for (GList *l = waiting, *next; l; l = next) {
		struct waiting *w = l->data;

		next = l->next;
		if (!w->preparing || !ev->medium || ev->medium->id != w->by)
			continue;
		w->preparing = false;
		w->since = now_ms();
		if (ev->type == SPICEBD_SHARE_READY)
			spicebd_share_change(share, w->id, w->by, on_answer, w);
		else if (ev->type == SPICEBD_SHARE_FAILED)
			on_answer(w, SPICEBD_SHARE_REFUSED, ev->text);
		else
			w->preparing = true;
	}
}

void commands_waiting(struct ui_wait *to)
{
	for (GList *l = waiting; l && !to->verb; l = l->next) {
		const struct waiting *w = l->data;

		/* By force it is over sooner than it could be told of. */
		if (w->preparing)
			continue;
		to->verb = w->verb;
		to->name = w->name;
		to->since = w->since;
		to->limit = w->by ? SPICEBD_SHARE_CHANGE_MS : SPICEBD_SHARE_EJECT_MS;
	}
}

/* ---- the commands */

static const struct spicebd_share_info *named(const char *verb, const char *name)
{
	const struct spicebd_share_info *m = spicebd_share_find(share, name);

	if (!m)
		ui_answer(verb, name, UI_FAILED, "nothing of that name is offered; 'list' shows "
			  "what is");
	return m;
}

static void eject_one(const struct spicebd_share_info *m, bool force)
{
	struct waiting *w = wait_new("eject", m);

	if (w)
		spicebd_share_eject(share, m->id, force, on_answer, w);
}

static void eject_all(bool force)
{
	const struct spicebd_share_info *list[FRAME_OFFERS_MAX];
	unsigned int n = spicebd_share_list(share, list, FRAME_OFFERS_MAX), asked = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (!spicebd_share_is_in(share, list[i]->id, -1))
			continue;
		eject_one(list[i], force);
		asked++;
	}
	if (!asked)
		ui_answer("eject", NULL, UI_FAILED, "no drive has anything of this share");
}

static void cmd_eject(char **arg, int n, bool force)
{
	const struct spicebd_share_info *m;

	if (!n) {
		eject_all(force);
		return;
	}
	m = named("eject", arg[0]);
	if (m && !spicebd_share_is_in(share, m->id, -1))
		ui_answer("eject", m->name, UI_FAILED, "it is in no drive");
	else if (m)
		eject_one(m, force);
}

static void cmd_remove(char **arg, int n, bool force)
{
	const struct spicebd_share_info *m = named("remove", arg[0]);
	g_autofree char *name = m ? g_strdup(m->name) : NULL;
	struct waiting *w;

	if (!m)
		return;
	if (force) {
		spicebd_share_withdraw(share, m->id);
		ui_answer("remove", name, UI_DONE, NULL);
		return;
	}
	w = wait_new("remove", m);
	if (!w)
		return;
	w->drop = true;
	if (m->ready)
		spicebd_share_eject(share, m->id, false, on_answer, w);
	else
		on_answer(w, SPICEBD_SHARE_DONE, NULL);
}

static bool offer(const char *verb, const char *path, const char *name, uint32_t *id)
{
	struct spicebd_share_medium m = hooks.defaults;
	g_autofree char *error = NULL;

	m.path = path;
	m.name = name;
	if (spicebd_share_offer(share, &m, id, &error))
		return true;
	ui_answer(verb, path, UI_FAILED, error);
	return false;
}

static void cmd_add(char **arg, int n, bool force)
{
	uint32_t id;

	if (offer("add", arg[0], n > 1 ? arg[1] : NULL, &id))
		ui_answer("add", arg[0], UI_DONE, NULL);
}

static const struct spicebd_share_info *by_id(uint32_t id)
{
	const struct spicebd_share_info *list[FRAME_OFFERS_MAX];
	unsigned int n = spicebd_share_list(share, list, FRAME_OFFERS_MAX);

	for (unsigned int i = 0; i < n; i++)
		if (list[i]->id == id)
			return list[i];
	return NULL;
}

static void cmd_change(char **arg, int n, bool force)
{
	const struct spicebd_share_info *m = named("change", arg[0]), *other;
	struct waiting *w = m ? wait_new("change", m) : NULL;

	if (!w)
		return;
	if (!offer("change", arg[1], n > 2 ? arg[2] : NULL, &w->by)) {
		wait_free(w);
		return;
	}
	other = by_id(w->by);
	w->preparing = !other || !other->ready;
	if (!w->preparing)
		spicebd_share_change(share, w->id, w->by, on_answer, w);
}

static void cmd_list(char **arg, int n, bool force)
{
	const struct spicebd_share_info *list[FRAME_OFFERS_MAX];

	ui_list(share, list, spicebd_share_list(share, list, FRAME_OFFERS_MAX));
}

static void cmd_help(char **arg, int n, bool force)
{
	ui_text("help", help_commands);
}

static void cmd_quit(char **arg, int n, bool force)
{
	hooks.quit(hooks.user);
}

static const struct {
	const char *verb;
	void (*run)(char **arg, int n, bool force);
	int min, max;		/* arguments */
	bool force;		/* takes --force */
	const char *usage;
} table[] = {
	{ "list", cmd_list, 0, 0, false, "list" },
	{ "eject", cmd_eject, 0, 1, true, "eject [NAME] [--force]" },
	{ "change", cmd_change, 2, 3, false, "change NAME FILE [NEW-NAME]" },
	{ "add", cmd_add, 1, 2, false, "add FILE [NAME]" },
	{ "remove", cmd_remove, 1, 1, true, "remove NAME [--force]" },
	{ "help", cmd_help, 0, 0, false, "help" },
	{ "quit", cmd_quit, 0, 0, false, "quit" },
};

/* ---- lines */

/* What is left of the words, without --force; -1: too many. */
static int arguments(char **word, char *arg[ARGS_MAX], bool *force)
{
	int n = 0;

	for (; *word; word++) {
		if (!strcmp(*word, "--force")) {
			*force = true;
			continue;
		}
		if (n == ARGS_MAX)
			return -1;
		arg[n++] = *word;
	}
	return n;
}

static void execute(char **word)
{
	char *arg[ARGS_MAX] = { NULL };
	bool force = false;
	int n = arguments(word + 1, arg, &force);

	for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
		g_autofree char *usage = NULL;

		if (strcmp(word[0], table[i].verb))
			continue;
		if (n >= table[i].min && n <= table[i].max && (!force || table[i].force)) {
			table[i].run(arg, n, force);
			return;
		}
		usage = g_strdup_printf("usage: %s", table[i].usage);
		ui_answer(table[i].verb, NULL, UI_FAILED, usage);
		return;
	}
	ui_answer(word[0], NULL, UI_FAILED, "no such command; 'help' lists them");
}

static void take_line(char *text)
{
	g_autoptr(GError) error = NULL;
	g_auto(GStrv) word = NULL;

	if (g_str_has_suffix(text, "\r"))
		text[strlen(text) - 1] = '\0';
	if (!text[strspn(text, " \t")])
		return;
	if (!g_utf8_validate(text, -1, NULL) || !g_shell_parse_argv(text, NULL, &word, &error))
		ui_answer("command", NULL, UI_FAILED, error ? error->message :
			  "the line is not UTF-8");
	else
		execute(word);
}

static void take_input(const char *data, size_t n)
{
	for (; n && source; data++, n--) {
		if (*data && *data != '\n') {
			too_long |= len == sizeof(line) - 1;
			if (!too_long)
				line[len++] = *data;
			continue;
		}
		line[len] = '\0';
		len = 0;
		if (too_long)
			ui_answer("command", NULL, UI_FAILED, "the line is too long");
		else
			take_line(line);
		too_long = false;
	}
}

static gboolean on_input(gint fd, GIOCondition cond, gpointer data);

static gboolean watch_again(gpointer data)
{
	source = g_unix_fd_add(STDIN_FILENO, G_IO_IN | G_IO_HUP | G_IO_ERR, on_input, NULL);
	return G_SOURCE_REMOVE;
}

/*
 * The descriptor stays blocking, since the terminal's other programs have it,
 * too; what poll announced is there to be read. In the background the terminal
 * is somebody else's: the read fails, and is tried again later.
 */
static gboolean on_input(gint fd, GIOCondition cond, gpointer data)
{
	char buf[4096];
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return G_SOURCE_CONTINUE;
	if (n < 0 && errno == EIO && isatty(STDIN_FILENO)) {
		source = g_timeout_add(BACKGROUND_MS, watch_again, NULL);
		return G_SOURCE_REMOVE;
	}
	if (n > 0) {
		ui_typed();
		take_input(buf, n);
		return source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
	}
	source = 0;
	hooks.quit(hooks.user);
	return G_SOURCE_REMOVE;
}

void commands_start(struct spicebd_share *s, const struct command_hooks *h)
{
	share = s;
	hooks = *h;
	signal(SIGTTIN, SIG_IGN);
	watch_again(NULL);
}

void commands_stop(void)
{
	if (source)
		g_source_remove(source);
	source = 0;
}

void commands_free(void)
{
	while (waiting)
		wait_free(waiting->data);
}
