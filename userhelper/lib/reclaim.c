// SPDX-License-Identifier: GPL-2.0-only
#include "reclaim.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "log.h"

bool reclaim_prepare(void)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };

	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_warn("cannot become an I/O flusher: %s", strerror(errno));
	/* The limit counts for what is mapped later, without the capability. */
	if (setrlimit(RLIMIT_MEMLOCK, &unlimited) < 0)
		log_warn("cannot lift the limit of locked memory: %s", strerror(errno));
	else if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		log_warn("cannot lock memory: %s", strerror(errno));
	else
		return true;
	return false;
}
