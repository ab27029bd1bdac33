// SPDX-License-Identifier: GPL-2.0-only
/*
 * What takes longer than a second says so, to a person at a terminal: what it is, for
 * how long, and how long at most. It is gone when the answer is there.
 */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sock.h"

#define WIDTH	20

static struct {
	const char *what;	/* NULL: not a wait to tell of */
	long long since, until;
	bool shown;
} now;

static bool at_terminal(void)
{
	const char *term = getenv("TERM");

	return isatty(STDERR_FILENO) && term && strcmp(term, "dumb");
}

void wait_begin_as(const char *what, int limit_ms)
{
	now.what = at_terminal() ? what : NULL;
	now.shown = false;
	now.since = now_ms();
	now.until = now.since + limit_ms;
}

void wait_begin(const char *command, int limit_ms)
{
	static const struct {
		const char *command, *what;
	} names[] = {
		{ "spicebd-insert",		"inserting" },
		{ "spicebd-drive-add",		"adding" },
		{ "spicebd-drive-del",		"deleting" },
		{ "spicebd-freeze",		"freezing: what was written goes to the far end" },
		{ "spicebd-migrate",		"migrating" },
		{ "spicebd-snapshot-create",	"making the snapshot" },
		{ "spicebd-snapshot-delete",	"ending the snapshot" },
		{ "eject",			"asking the medium's users to let go" },
		{ "blockdev-open-tray",		"asking the medium's users to let go" },
		{ "blockdev-remove-medium",	"asking the medium's users to let go" },
	};

	const char *what = "waiting for the answer";

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(command, names[i].command))
			what = names[i].what;
	wait_begin_as(what, limit_ms);
}

int wait_slice(long long left_ms)
{
	const int max = now.what ? 1000 : 1000000;

	return left_ms > max ? max : left_ms < 0 ? 0 : (int)left_ms;
}

void wait_tell(void)
{
	static const char hashes[] = "####################", dots[] = "....................";
	long long t = now_ms() - now.since, all = now.until - now.since;
	int n;

	if (!now.what || t < 1000 || all <= 0)
		return;
	n = t >= all ? WIDTH : (int)(t * WIDTH / all);
	fprintf(stderr, "\r\033[K%s [%.*s%.*s] %lld s, %lld s at most", now.what, n, hashes,
		WIDTH - n, dots, t / 1000, all / 1000);
	fflush(stderr);
	now.shown = true;
}

void wait_end(void)
{
	if (now.shown)
		fputs("\r\033[K", stderr);
	now.shown = false;
	now.what = NULL;
}

int wait_poll(struct pollfd *p, long long deadline)
{
	for (;;) {
		long long left = deadline - now_ms();
		int r;

		if (left <= 0)
			return 0;
		r = poll(p, 1, wait_slice(left));
		if (r > 0 || (r < 0 && errno != EINTR))
			return r;
		if (!r)
			wait_tell();
	}
}
