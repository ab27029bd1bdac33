// SPDX-License-Identifier: GPL-2.0-only
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

static const char *log_program = "spicebd";
static bool log_debug_on;
static bool log_level_prefix;

void log_init(const char *program, bool debug)
{
	const char *e = getenv("SPICEBD_DEBUG");

	log_program = program;
	log_debug_on = debug || (e && *e && strcmp(e, "0"));
	log_level_prefix = getenv("JOURNAL_STREAM") || getenv("SPICEBD_LOG_PREFIX");
}

/*
 * One write(2) a line, so that lines of several processes on one stderr do not
 * mix; control characters never reach a terminal.
 */
void log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n, start;

	if (level == LOG_L_DEBUG && !log_debug_on)
		return;
	if (log_level_prefix)
		start = snprintf(line, sizeof(line), "<%d>", level);
	else
		start = snprintf(line, sizeof(line), "%s: ", log_program);
	va_start(ap, fmt);
	n = vsnprintf(line + start, sizeof(line) - start - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	n += start;
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	n = start + text_clean(line + start, sizeof(line) - start - 1, line + start, n - start);
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return;	/* nowhere to tell it */
}
