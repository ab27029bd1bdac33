// SPDX-License-Identifier: GPL-2.0-only
#include "condition.h"

#include <stdio.h>

#include "freezing.h"

const char *condition_str(uint32_t condition)
{
	static const char * const words[] = {
		[SPICEBD_CONDITION_EMPTY] = "empty",
		[SPICEBD_CONDITION_READY] = "ready",
		[SPICEBD_CONDITION_SETTLING] = "settling",
		[SPICEBD_CONDITION_HELD] = "held",
		[SPICEBD_CONDITION_RECONNECTING] = "reconnecting",
		[SPICEBD_CONDITION_FROZEN] = "frozen",
		[SPICEBD_CONDITION_ERROR] = "error",
		[SPICEBD_CONDITION_INACTIVE] = "inactive",
		[SPICEBD_CONDITION_STALE] = "stale",
		[SPICEBD_CONDITION_GONE] = "gone",
	};

	return condition < sizeof(words) / sizeof(words[0]) ? words[condition] : "unknown";
}

void condition_wait(const struct kernel_drive *d, const char *why, char *out, size_t size)
{
	if (d->hold_limited)
		snprintf(out, size, "%s: requests fail in %u s", why,
			 (d->hold_left_ms + 999) / 1000);
	else
		snprintf(out, size, "%s: requests %s", why, d->reconnect_timeout ? "wait" : "fail");
}

void condition_verdict(const struct kernel_drive *d, const char *why, char *out, size_t size)
{
	snprintf(out, size, "%s, %llu s ago: insert another, or eject", why,
		 (unsigned long long)d->verdict_since_ms / 1000);
}

const char *condition_cause(const struct kernel_drive *d, char *out, size_t size)
{
	char by[400];

	out[0] = '\0';
	switch (d->condition) {
	case SPICEBD_CONDITION_HELD:
		if (d->state & SPICEBD_STATE_FREEZING)
			snprintf(out, size, "frozen by %s", freezing_by(d, by, sizeof(by)));
		else
			condition_wait(d, "no helper serves it", out, size);
		break;
	case SPICEBD_CONDITION_RECONNECTING:
		condition_wait(d, "the far end is lost", out, size);
		break;
	case SPICEBD_CONDITION_FROZEN:
		snprintf(out, size, "frozen by %s", freezing_by(d, by, sizeof(by)));
		break;
	case SPICEBD_CONDITION_ERROR:
		condition_verdict(d, "the medium failed", out, size);
		break;
	case SPICEBD_CONDITION_INACTIVE:
		condition_verdict(d, "the medium moved to another host", out, size);
		break;
	case SPICEBD_CONDITION_STALE:
		snprintf(out, size, "a medium ejected by force is still open");
		break;
	default:
		break;
	}
	return out;
}
