// SPDX-License-Identifier: GPL-2.0-only
#include "ui.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sock.h"
#include "text.h"

#define BAR_WIDTH	20

static bool ui_json;
/* The live line; with live_above the cursor is below it, where commands are typed. */
static bool live_possible, live_above, live_shown;
static uint64_t last_read, last_write;
static long long last_time;

void ui_init(bool json)
{
	const char *term = g_getenv("TERM");

	ui_json = json;
	live_possible = !json && isatty(STDOUT_FILENO) && term && strcmp(term, "dumb");
	live_above = isatty(STDIN_FILENO);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

void ui_end(void)
{
	if (!live_shown)
		return;
	fputs(live_above ? "\r\033[K\033[A\033[K" : "\r\033[K", stdout);
	fflush(stdout);
	live_shown = false;
}

void ui_typed(void)
{
	if (!live_shown || !live_above)
		return;
	/* What was typed stays, and goes up by that line. */
	fputs("\033[2A\r\033[M\033[B", stdout);
	fflush(stdout);
	live_shown = false;
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *fmt, ...)
{
	g_autofree char *line = NULL;
	va_list ap;

	ui_end();
	va_start(ap, fmt);
	line = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	/* In its own place: the text never grows. */
	text_clean(line, strlen(line) + 1, line, strlen(line));
	puts(line);
	fflush(stdout);
}

/* ---- JSON */

static void json_string(GString *s, const char *text)
{
	g_autofree char *valid = g_utf8_make_valid(text, -1);

	g_string_append_c(s, '"');
	for (const char *c = valid; *c; c = g_utf8_next_char(c)) {
		gunichar u = g_utf8_get_char(c);

		if (u == '"' || u == '\\')
			g_string_append_printf(s, "\\%c", *c);
		else if (text_is_control(u))
			g_string_append_printf(s, "\\u%04x", u);
		else
			g_string_append_unichar(s, u);
	}
	g_string_append_c(s, '"');
}

/* @s: freed */
static void print_json(GString *s)
{
	puts(s->str);
	fflush(stdout);
	g_string_free(s, TRUE);
}

static void json_medium(GString *s, const struct spicebd_share_info *m, bool traffic)
{
	g_string_append_printf(s, ", \"offer\": %u, \"name\": ", m->id);
	json_string(s, m->name);
	g_string_append(s, ", \"path\": ");
	json_string(s, m->path);
	g_string_append_printf(s, ", \"size\": %" G_GUINT64_FORMAT
			       ", \"kind\": \"%s\", \"read-only\": %s, \"folder\": %s, "
			       "\"address\": %s",
			       m->size, m->cdrom ? "cdrom" : "disk",
			       m->read_only ? "true" : "false",
			       m->folder ? "true" : "false", m->url ? "true" : "false");
	if (m->folder)
		g_string_append_printf(s, ", \"files\": %u", m->files);
	if (traffic)
		g_string_append_printf(s, ", \"read-bytes\": %" G_GUINT64_FORMAT
				       ", \"written-bytes\": %" G_GUINT64_FORMAT,
				       m->read_bytes, m->write_bytes);
}

static void json_line(const char *name, const struct spicebd_share_event *ev,
		      const char *text)
{
	GString *s = g_string_new("{\"event\": ");

	json_string(s, name);
	if (ev && ev->drive >= 0)
		g_string_append_printf(s, ", \"drive\": %d", ev->drive);
	if (ev && ev->medium)
		json_medium(s, ev->medium, ev->type == SPICEBD_SHARE_CLOSED);
	if (text) {
		g_string_append(s, ", \"text\": ");
		json_string(s, text);
	}
	print_json(g_string_append_c(s, '}'));
}

static const char *event_name(enum spicebd_share_event_type type)
{
	static const char *const names[] = {
		[SPICEBD_SHARE_PREPARING] = "preparing",
		[SPICEBD_SHARE_READY] = "ready",
		[SPICEBD_SHARE_FAILED] = "failed",
		[SPICEBD_SHARE_PORT_UP] = "drive-connected",
		[SPICEBD_SHARE_PORT_DOWN] = "drive-disconnected",
		[SPICEBD_SHARE_PORT_SILENT] = "drive-silent",
		[SPICEBD_SHARE_PORT_LOST] = "drive-lost",
		[SPICEBD_SHARE_OFFERED] = "offered",
		[SPICEBD_SHARE_OPENED] = "opened",
		[SPICEBD_SHARE_CLOSED] = "closed",
		[SPICEBD_SHARE_INSERTED] = "inserted",
		[SPICEBD_SHARE_EJECTED] = "ejected",
		[SPICEBD_SHARE_LOCKED] = "locked",
		[SPICEBD_SHARE_UNLOCKED] = "unlocked",
		[SPICEBD_SHARE_BUSY] = "busy",
		[SPICEBD_SHARE_CHANGED] = "changed",
		[SPICEBD_SHARE_ERROR] = "error",
		[SPICEBD_SHARE_MOVED] = "moved",
		[SPICEBD_SHARE_STAYED] = "stayed",
	};

	return type < G_N_ELEMENTS(names) ? names[type] : NULL;
}

/* ---- words */

static void say_ready(const struct spicebd_share_info *m)
{
	g_autofree char *size = g_format_size_full(m->size, G_FORMAT_SIZE_IEC_UNITS);
	const char *access = "read-write";

	if (m->read_only && m->folder)
		access = "read-only (a folder always is)";
	else if (m->read_only && m->url)
		access = "read-only (what is at an address always is)";
	else if (m->read_only && m->cdrom)
		access = "read-only (a CD always is)";
	else if (m->read_only)
		access = "read-only (no --read-write)";
	say("offering '%s': %s, %s, %s", m->name, m->cdrom ? "CD" : "disk", size, access);
}

static void say_preparing(const struct spicebd_share_info *m)
{
	g_autofree char *size = g_format_size_full(m->size, G_FORMAT_SIZE_IEC_UNITS);

	if (m->url)
		say("asking for '%s'", m->name);
	else
		say("making an image of '%s': %u files, about %s", m->name, m->files, size);
}

static void say_closed(const struct spicebd_share_event *ev)
{
	const struct spicebd_share_info *m = ev->medium;
	g_autofree char *r = g_format_size_full(m->read_bytes, G_FORMAT_SIZE_IEC_UNITS);
	g_autofree char *w = g_format_size_full(m->write_bytes, G_FORMAT_SIZE_IEC_UNITS);

	say("drive %d: closed '%s'%s%s (%s to the drive, %s from it)", ev->drive, m->name,
	    ev->text ? ": " : "", ev->text ? ev->text : "", r, w);
}

static void say_medium(const struct spicebd_share_event *ev)
{
	const struct spicebd_share_info *m = ev->medium;

	switch (ev->type) {
	case SPICEBD_SHARE_PREPARING:
		say_preparing(m);
		break;
	case SPICEBD_SHARE_READY:
		say_ready(m);
		break;
	case SPICEBD_SHARE_FAILED:
		say("'%s' is offered no more: %s", m->name, ev->text);
		break;
	case SPICEBD_SHARE_OPENED:
		say("drive %d: opened '%s' %s", ev->drive, m->name,
		    m->read_only ? "read-only" : "read-write");
		break;
	case SPICEBD_SHARE_CLOSED:
		say_closed(ev);
		break;
	case SPICEBD_SHARE_INSERTED:
		say("drive %d: '%s' is in the drive", ev->drive, m->name);
		break;
	case SPICEBD_SHARE_EJECTED:
		say("drive %d: ejected '%s'", ev->drive, m->name);
		break;
	case SPICEBD_SHARE_LOCKED:
		say("drive %d: in use: '%s' is %s", ev->drive, m->name,
		    ev->text ? ev->text : "locked");
		break;
	case SPICEBD_SHARE_UNLOCKED:
		say("drive %d: '%s' is unlocked", ev->drive, m->name);
		break;
	case SPICEBD_SHARE_BUSY:
		say("drive %d: '%s' is not given back: %s", ev->drive, m->name,
		    ev->text ? ev->text : "it is in use there");
		break;
	case SPICEBD_SHARE_CHANGED:
		say("'%s' was changed by another program: it is a new medium now", m->name);
		break;
	case SPICEBD_SHARE_ERROR:
		say("drive %d: '%s': %s", ev->drive, m->name, ev->text);
		break;
	case SPICEBD_SHARE_MOVED:
		say("drive %d: '%s' has moved to the host at %s", ev->drive, m->name, ev->text);
		break;
	case SPICEBD_SHARE_STAYED:
		say("drive %d: '%s' stays: %s", ev->drive, m->name, ev->text);
		break;
	default:
		break;
	}
}

static void say_drive(const struct spicebd_share_event *ev)
{
	const char *text = ev->text ? ev->text : "";

	switch (ev->type) {
	case SPICEBD_SHARE_PORT_UP:
		say("drive %d: connected", ev->drive);
		break;
	case SPICEBD_SHARE_PORT_DOWN:
		say("drive %d: disconnected%s%s", ev->drive, *text ? ": " : "", text);
		break;
	case SPICEBD_SHARE_PORT_SILENT:
	case SPICEBD_SHARE_PORT_LOST:
		say("drive %d: %s", ev->drive, text);
		break;
	default:
		break;
	}
}

void ui_share_event(const struct spicebd_share_event *ev)
{
	const char *name = event_name(ev->type);

	if (ev->type == SPICEBD_SHARE_MOVE || ev->type == SPICEBD_SHARE_LEAVE)
		return;
	if (ui_json && name)
		json_line(name, ev, ev->text);
	else if (!ui_json && ev->medium)
		say_medium(ev);
	else if (!ui_json)
		say_drive(ev);
}

void ui_event(const char *name, const char *text)
{
	if (ui_json)
		json_line(name, NULL, text);
	else if (text)
		say("%s", text);
}

void ui_text(const char *name, const char *text)
{
	if (ui_json) {
		json_line(name, NULL, text);
		return;
	}
	ui_end();
	puts(text);
	fflush(stdout);
}

/* ---- commands */

void ui_answer(const char *verb, const char *name, enum ui_result result, const char *text)
{
	static const char *const words[] = {
		[UI_DONE] = "done",
		[UI_BUSY] = "busy",
		[UI_NO_ANSWER] = "no answer",
		[UI_FAILED] = "failed",
	};
	GString *s;

	if (!ui_json) {
		say("%s%s%s%s: %s%s%s", verb, name ? " '" : "", name ? name : "",
		    name ? "'" : "", words[result], text ? ": " : "", text ? text : "");
		return;
	}
	s = g_string_new("{\"event\": \"answer\", \"command\": ");
	json_string(s, verb);
	if (name) {
		g_string_append(s, ", \"name\": ");
		json_string(s, name);
	}
	g_string_append_printf(s, ", \"result\": \"%s\"", words[result]);
	if (text) {
		g_string_append(s, ", \"text\": ");
		json_string(s, text);
	}
	print_json(g_string_append_c(s, '}'));
}

static void list_json(struct spicebd_share *share, const struct spicebd_share_info **list,
		      unsigned int n)
{
	GString *s = g_string_new("{\"event\": \"list\", \"media\": [");

	for (unsigned int i = 0; i < n; i++) {
		const char *sep = "";

		g_string_append_printf(s, "%s{\"ready\": %s", i ? ", " : "",
				       list[i]->ready ? "true" : "false");
		json_medium(s, list[i], true);
		g_string_append(s, ", \"drives\": [");
		for (int d = 0; d < SPICEBD_SHARE_DRIVES; d++) {
			if (!spicebd_share_is_in(share, list[i]->id, d))
				continue;
			g_string_append_printf(s, "%s%d", sep, d);
			sep = ", ";
		}
		g_string_append(s, "], \"in-use\": [");
		sep = "";
		for (int d = 0; d < SPICEBD_SHARE_DRIVES; d++) {
			if (!spicebd_share_is_locked(share, list[i]->id, d))
				continue;
			g_string_append_printf(s, "%s%d", sep, d);
			sep = ", ";
		}
		g_string_append(s, "], \"users\": {");
		sep = "";
		for (int d = 0; d < SPICEBD_SHARE_DRIVES; d++) {
			const char *who = spicebd_share_user(share, list[i]->id, d);

			if (!who)
				continue;
			g_string_append_printf(s, "%s\"%d\": ", sep, d);
			json_string(s, who);
			sep = ", ";
		}
		g_string_append(s, "}");
		if (list[i]->last_used)
			g_string_append_printf(s, ", \"last-used-ms\": %lld",
					       now_ms() - list[i]->last_used);
		g_string_append(s, "}");
	}
	print_json(g_string_append(s, "]}"));
}

/* "drive 0 (mounted on /mnt), drive 2"; NULL: in none */
static char *where_it_is(struct spicebd_share *share, const struct spicebd_share_info *m)
{
	GString *s = g_string_new(NULL);

	for (int d = 0; d < SPICEBD_SHARE_DRIVES; d++) {
		const char *who = spicebd_share_user(share, m->id, d);

		if (!spicebd_share_is_in(share, m->id, d))
			continue;
		g_string_append_printf(s, "%sdrive %d", s->len ? ", " : "", d);
		if (spicebd_share_is_locked(share, m->id, d))
			g_string_append_printf(s, " (%s)", who ? who : "in use");
	}
	return g_string_free(s, !s->len);
}

static void list_words(struct spicebd_share *share, const struct spicebd_share_info *m)
{
	g_autofree char *size = g_format_size_full(m->size, G_FORMAT_SIZE_IEC_UNITS);
	g_autofree char *drives = where_it_is(share, m);
	GString *where = g_string_new(NULL);

	if (drives)
		g_string_append_printf(where, ", in %s", drives);
	if (!m->ready)
		g_string_append(where, ", being prepared");
	if (m->last_used) {
		g_autofree char *r = g_format_size_full(m->read_bytes, G_FORMAT_SIZE_IEC_UNITS);
		g_autofree char *w = g_format_size_full(m->write_bytes, G_FORMAT_SIZE_IEC_UNITS);

		g_string_append_printf(where, "; %s to the drive, %s from it, last %lld s ago", r,
				       w, (now_ms() - m->last_used) / 1000);
	}
	say("'%s': %s, %s, %s%s", m->name, m->cdrom ? "CD" : "disk", size,
	    m->read_only ? "read-only" : "read-write", where->str);
	g_string_free(where, TRUE);
}

void ui_list(struct spicebd_share *share, const struct spicebd_share_info **list,
	     unsigned int n)
{
	if (ui_json) {
		list_json(share, list, n);
		return;
	}
	for (unsigned int i = 0; i < n; i++)
		list_words(share, list[i]);
	if (!n)
		say("nothing is offered; 'add FILE' offers one");
}

bool ui_wants_traffic(void)
{
	return live_possible;
}

/* The one medium that was used since then, or NULL if there are several. */
static const struct spicebd_share_info *used_since(const struct spicebd_share_info **list,
						   unsigned int n, long long since)
{
	const struct spicebd_share_info *one = NULL;

	for (unsigned int i = 0; i < n; i++) {
		if (!list[i]->last_used || list[i]->last_used < since)
			continue;
		if (one)
			return NULL;
		one = list[i];
	}
	return one;
}

/* Of those in a drive the one that was used last; @others: how many there are besides */
static const struct spicebd_share_info *used_last(struct spicebd_share *share,
						  const struct spicebd_share_info **list,
						  unsigned int n, unsigned int *others)
{
	const struct spicebd_share_info *one = NULL;
	unsigned int in = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (!spicebd_share_is_inserted(share, list[i]->id))
			continue;
		in++;
		if (!one || list[i]->last_used > one->last_used)
			one = list[i];
	}
	*others = in ? in - 1 : 0;
	return one;
}

/* Coarse: a line that changes every second draws the eye. */
static void add_ago(GString *s, const struct spicebd_share_info *m)
{
	long long ago = m->last_used ? (now_ms() - m->last_used) / 1000 : -1;

	if (ago < 0)
		g_string_append(s, ", never read");
	else if (ago < 10)
		g_string_append(s, ", last just now");
	else if (ago < 60)
		g_string_append_printf(s, ", last %lld s ago", ago / 10 * 10);
	else if (ago < 3600)
		g_string_append_printf(s, ", last %lld min ago", ago / 60);
	else
		g_string_append_printf(s, ", last %lld h ago", ago / 3600);
}

/* @m: whose it is, or NULL: that of all media */
static void add_bytes(GString *s, const struct spicebd_share_info *m, uint64_t read_bytes,
		      uint64_t write_bytes)
{
	g_autofree char *r = g_format_size_full(m ? m->read_bytes : read_bytes,
						G_FORMAT_SIZE_IEC_UNITS);
	g_autofree char *w = g_format_size_full(m ? m->write_bytes : write_bytes,
						G_FORMAT_SIZE_IEC_UNITS);
	g_autofree char *who = m ? g_utf8_substring(m->name, 0,
						    MIN(g_utf8_strlen(m->name, -1), 24)) : NULL;

	g_string_append_printf(s, "%s: %s out, %s in", m ? who : "all media", r, w);
}

/* A line that wraps could not be taken back. */
static void cut(char *line)
{
	struct winsize w;
	int room = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;

	while (*line) {
		room -= g_unichar_iswide(g_utf8_get_char(line)) ? 2 : 1;
		if (room < 1)
			break;
		line = g_utf8_next_char(line);
	}
	*line = '\0';
}

static void draw(char *line)
{
	static char *last;

	text_clean(line, strlen(line) + 1, line, strlen(line));
	cut(line);
	if (live_shown && !g_strcmp0(last, line))
		return;
	if (!live_shown)
		printf("\r\033[K%s%s", line, live_above ? "\n" : "");
	else if (live_above)
		printf("\0337\033[A\r\033[K%s\0338", line);
	else
		printf("\r\033[K%s", line);
	fflush(stdout);
	live_shown = true;
	g_free(last);
	last = g_strdup(line);
}

static void add_bar(GString *s, uint64_t part, uint64_t whole)
{
	int filled = whole > part ? (int)(part * BAR_WIDTH / whole) : BAR_WIDTH;

	g_string_append_c(s, '[');
	for (int i = 0; i < BAR_WIDTH; i++)
		g_string_append_c(s, i < filled ? '#' : '.');
	g_string_append_c(s, ']');
}

/* @made: of the image of a folder; it may become larger than was thought */
static void add_image(GString *s, const struct spicebd_share_info *m, uint64_t made)
{
	g_autofree char *done = g_format_size_full(made, G_FORMAT_SIZE_IEC_UNITS);
	g_autofree char *all = g_format_size_full(m->size, G_FORMAT_SIZE_IEC_UNITS);

	g_string_append(s, "image ");
	add_bar(s, made, m->size);
	g_string_append_printf(s, " %s of about %s of '%s'", done, all, m->name);
}

/* Of what takes no second nothing is told. */
static bool add_wait(GString *s, const struct ui_wait *wait)
{
	long long ms = wait->verb ? now_ms() - wait->since : 0;

	if (ms < 1000)
		return false;
	g_string_append_printf(s, "%s '%s': waiting for the drive ", wait->verb, wait->name);
	add_bar(s, ms, wait->limit);
	g_string_append_printf(s, " %lld s, %d s at most", ms / 1000, wait->limit / 1000);
	return true;
}

/* The first that is being made, if any is. */
static bool add_preparing(GString *s, struct spicebd_share *share,
			  const struct spicebd_share_info **list, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		uint64_t made = spicebd_share_made(share, list[i]->id);

		if (!made)
			continue;
		add_image(s, list[i], made);
		return true;
	}
	return false;
}

static void add_traffic(GString *s, struct spicebd_share *share, uint64_t read_bytes,
			uint64_t write_bytes, const struct spicebd_share_info **list,
			unsigned int n)
{
	long long dt = now_ms() - last_time;
	uint64_t moved = last_time && dt > 0 ?
			 read_bytes - last_read + write_bytes - last_write : 0;
	unsigned int others = 0;
	const struct spicebd_share_info *m = moved ? used_since(list, n, last_time) :
						     used_last(share, list, n, &others);
	g_autofree char *where = m ? where_it_is(share, m) : NULL;

	if (moved || m)
		add_bytes(s, m, read_bytes, write_bytes);
	if (moved) {
		g_autofree char *rate = g_format_size_full(moved * 1000 / dt,
							   G_FORMAT_SIZE_IEC_UNITS);

		g_string_append_printf(s, ", %s/s", rate);
	} else if (m) {
		add_ago(s, m);
	}
	if (where)
		g_string_append_printf(s, "; %s", where);
	if (others)
		g_string_append_printf(s, "; and %u more in drives", others);
}

void ui_live(struct spicebd_share *share, const struct ui_wait *wait,
	     const struct spicebd_share_info **list, unsigned int n)
{
	GString *s = g_string_new(NULL);
	uint64_t r, w;

	spicebd_share_traffic(share, &r, &w);
	if (!add_wait(s, wait) && !add_preparing(s, share, list, n))
		add_traffic(s, share, r, w, list, n);
	if (live_possible && s->len)
		draw(s->str);
	else
		ui_end();
	g_string_free(s, TRUE);
	last_read = r;
	last_write = w;
	last_time = now_ms();
}
