// SPDX-License-Identifier: GPL-2.0-only
/* Why a drive was not let go: its users by name, which the daemon cannot see. */
#include "ctl.h"

#include <stdio.h>

#include "holders.h"

/**
 * busy_explain() - name the users of a drive that refused a verb
 * @d: as it was before; nothing is said of a medium that has gone meanwhile
 * @does: what --force would do, as "ejects it"
 * @f: replaced when there is more to say
 */
void busy_explain(const struct kernel_drive *d, const char *does, struct fault *f)
{
	struct fault ignored;
	struct kernel_drive now;
	char who[400];

	if (drive_get(d->name, &now, &ignored) < 0 || now.generation != d->generation ||
	    now.state & SPICEBD_STATE_FREEZING || !(now.users || drive_locked(&now)))
		return;
	if (now.state & SPICEBD_STATE_LOCKED_ADMIN)
		fault_set(f, EXIT_REFUSED,
			  "%s is locked; \"spicebdctl unlock %s\" opens it, and --force %s all "
			  "the same", now.name, now.name, does);
	else if (holders_describe(now.name, 0, who, sizeof(who)))
		fault_set(f, EXIT_REFUSED, "%s is busy: %s; --force %s all the same", now.name,
			  who, does);
	else if (drive_locked(&now))
		fault_set(f, EXIT_REFUSED, "%s is busy: it is locked; --force %s all the same",
			  now.name, does);
	else
		fault_set(f, EXIT_REFUSED,
			  "%s is busy: a device or another namespace uses it; --force %s",
			  now.name, does);
}
