// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loaded into nbdkit (LD_PRELOAD): locks its memory, as it comes to be used.
 * nbdkit --swap would lock what it never uses too, which is 200 MB.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void __attribute__((constructor)) lock_memory(void)
{
	/* It is for this program, not for those that it may start. */
	unsetenv("LD_PRELOAD");
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		dprintf(STDERR_FILENO, "cannot lock memory: %s\n", strerror(errno));
}
