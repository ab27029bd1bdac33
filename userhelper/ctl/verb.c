// SPDX-License-Identifier: GPL-2.0-only
/* What the verbs have in common: command lines and complaints. */
#include "ctl.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

void fault_set(struct fault *f, enum exit_status status, const char *fmt, ...)
{
	va_list ap;

	f->status = status;
	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
}

int fault_tell(const struct fault *f)
{
	log_err("%s", f->text);
	return f->status;
}

int verb_usage(const struct verb *v, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_err("%s: %s; see spicebdctl %s --help", v->name, text, v->name);
	return EXIT_USAGE;
}

int verb_option(const struct verb *v, int argc, char **argv, const struct option *opts,
		bool *json, int *status)
{
	int c;

	do {
		c = getopt_long(argc, argv, "", opts, NULL);
		if (c == 'j')
			*json = true;
	} while (c == 'j');
	if (c == 'h')
		fputs(v->help, stdout);
	*status = c == 'h' ? EXIT_DONE : c == '?' ? EXIT_USAGE : -1;
	return c == -1 || c == 'h' || c == '?' ? 0 : c;
}

int verb_options(const struct verb *v, int argc, char **argv, bool *json, bool *force)
{
	static const struct option plain[] = { OPT_HELP, OPT_JSON, OPT_END };
	static const struct option forcible[] = {
		OPT_HELP, OPT_JSON, { "force", no_argument, NULL, 'f' }, OPT_END
	};
	int status;

	while (verb_option(v, argc, argv, force ? forcible : plain, json, &status))
		*force = true;
	return status;
}

bool parse_u32(const char *text, uint32_t max, uint32_t *out)
{
	unsigned long n;
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	n = strtoul(text, &end, 10);
	if (*end || errno || n > max)
		return false;
	*out = n;
	return true;
}

bool parse_seconds(const char *text, int *out)
{
	uint32_t n;

	if (!parse_u32(text, SPICEBD_MAX_TIMEOUT, &n))
		return false;
	*out = n;
	return true;
}
