// SPDX-License-Identifier: GPL-2.0-only
#include "reclaim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

bool reclaim_prepare(char *why, size_t size)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	const char *what = NULL;
	int flusher = prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0 ? errno : 0;

	why[0] = '\0';
	/* The limit counts for what is mapped later, without the capability. */
	if (setrlimit(RLIMIT_MEMLOCK, &unlimited) < 0)
		what = "lift the limit of locked memory";
	else if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		what = "lock memory";
	if (what)
		snprintf(why, size, "cannot %s: %s", what, strerror(errno));
	else if (flusher)
		snprintf(why, size, "cannot become an I/O flusher: %s", strerror(flusher));
	return !what;
}
