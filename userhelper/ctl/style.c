// SPDX-License-Identifier: GPL-2.0-only
/* Colours, for people: on a terminal, and where nobody said that they want none. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool wanted(void)
{
	static int known = -1;
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	if (known < 0)
		known = isatty(STDOUT_FILENO) && !(no && *no) && term && strcmp(term, "dumb");
	return known;
}

const char *style_of(const char *state)
{
	static const struct {
		const char *state, *style;
	} styles[] = {
		{ "title",		"\033[1m" },
		{ "ready",		"\033[32m" },
		{ "empty",		"\033[2m" },
		{ "settling",		"\033[33m" },
		{ "held",		"\033[33m" },
		{ "draining",		"\033[33m" },
		{ "flushing",		"\033[33m" },
		{ "frozen",		"\033[36m" },
		{ "reconnecting",	"\033[33m" },
		{ "inactive",		"\033[2m" },
		{ "failed",		"\033[31m" },
		{ "error",		"\033[31m" },
		{ "stale",		"\033[31m" },
	};

	for (size_t i = 0; wanted() && i < sizeof(styles) / sizeof(*styles); i++)
		if (!strcmp(state, styles[i].state))
			return styles[i].style;
	return "";
}

const char *style_end(void)
{
	return wanted() ? "\033[0m" : "";
}

const char *state_shown(JsonObject *o)
{
	const char *state = json_str(o, "state", "?");

	/* How far it has come. */
	return strcmp(state, "frozen") ? state : json_str(o, "freeze", state);
}
