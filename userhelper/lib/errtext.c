// SPDX-License-Identifier: GPL-2.0-only
#include "errtext.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

#define LINES_MAX	20	/* logged in LINES_MS; a bad disk says much */
#define LINES_MS	10000

/* One limit for all children of a process: a stranger may cause many of them. */
static void log_limited(const char *line)
{
	static unsigned int lines;
	static long long window;

	if (now_ms() - window >= LINES_MS) {
		if (lines > LINES_MAX)
			log_warn("nbdkit: %u more lines not shown", lines - LINES_MAX);
		window = now_ms();
		lines = 0;
	}
	if (lines++ < LINES_MAX)
		log_info("%s", line);
}

static void line_done(struct errtext *e)
{
	const char *text = e->line;

	e->line[e->len] = '\0';
	e->len = 0;
	if (!*text)
		return;
	log_limited(text);
	if (!strncmp(text, "nbdkit: ", 8))
		text += 8;
	snprintf(e->last, sizeof(e->last), "%.199s", text);
}

static void take(struct errtext *e, const char *p, size_t n)
{
	for (; n; p++, n--) {
		if (*p == '\n')
			line_done(e);
		else if (e->len < sizeof(e->line) - 1)
			e->line[e->len++] = (unsigned char)*p < 0x20 ? ' ' : *p;
	}
}

void errtext_read(struct errtext *e)
{
	char buf[1024];
	ssize_t n;

	/* A bounded bite: a child that never stops talking must not starve us. */
	for (int i = 0; e->fd >= 0 && i < 16; i++) {
		n = read(e->fd, buf, sizeof(buf));
		if (n < 0)
			return;
		if (n == 0) {
			close(e->fd);
			e->fd = -1;
			return;
		}
		take(e, buf, n);
	}
}

void errtext_finish(struct errtext *e)
{
	errtext_read(e);
	if (e->len)
		line_done(e);
	if (e->fd >= 0)
		close(e->fd);
	e->fd = -1;
}
