// SPDX-License-Identifier: GPL-2.0-only
/*
 * The same input must do the same each time: time is what the script says, and
 * random numbers count. Linked with --wrap= of each. Log lines are formatted and
 * dropped, unless FUZZ_VERBOSE is set.
 */
#include <dirent.h>
#include <stdarg.h>

#include "fuzz.h"
#include "log.h"

long long fuzz_now = 1000000;
static uint32_t count;

long long __wrap_now_ms(void);
void __wrap_random_bytes(void *buf, size_t len);
void __wrap_log_line(enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The programs keep times between inputs, so it never runs backwards. */
void fuzz_clock_reset(void)
{
	fuzz_now += 10000000;
	count = 0;
}

long long __wrap_now_ms(void)
{
	return fuzz_now;
}

void __wrap_random_bytes(void *buf, size_t len)
{
	uint8_t *p = buf;

	count++;
	for (size_t i = 0; i < len; i++)
		p[i] = count >> i % 4 * 8 ^ 0x5a;
}

void __wrap_log_line(enum log_level level, const char *fmt, ...)
{
	static int verbose = -1;
	char line[1024];
	va_list ap;

	if (verbose < 0)
		verbose = getenv("FUZZ_VERBOSE") != NULL;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (verbose)
		fprintf(stderr, "<%d> %s\n", level, line);
}

int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}
