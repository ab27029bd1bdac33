// SPDX-License-Identifier: GPL-2.0-only
/* A drive's parameters, as they go to another host and lie in the state file. */
#include <string.h>

#include "member.h"
#include "migrate_impl.h"

JsonObject *migrate_describe_drive(const struct kernel_drive_new *n)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "personality", n->personality ==
				      SPICEBD_PERSONALITY_CDROM ? "cdrom" : "disk");
	json_object_set_int_member(o, "queues", n->nr_queues);
	json_object_set_int_member(o, "depth", n->queue_depth);
	json_object_set_int_member(o, "max-io", n->max_io);
	json_object_set_int_member(o, "reconnect-timeout", n->reconnect_timeout);
	json_object_set_int_member(o, "stall-timeout", n->stall_timeout);
	json_object_set_int_member(o, "open-wait", n->open_wait);
	return o;
}

static int64_t bounded(JsonObject *o, const char *name, int64_t min, int64_t max)
{
	return CLAMP(member_int(o, name, min), min, max);
}

bool migrate_parse_drive(JsonObject *o, struct kernel_drive_new *n)
{
	const char *personality = member_str(o, "personality", "");

	*n = (struct kernel_drive_new) {
		.personality = SPICEBD_PERSONALITY_DISK, .held = true,
		.set_queues = true,
		.nr_queues = bounded(o, "queues", SPICEBD_MIN_QUEUES, SPICEBD_MAX_QUEUES),
		.set_depth = true,
		.queue_depth = bounded(o, "depth", SPICEBD_MIN_QUEUE_DEPTH,
				       SPICEBD_MAX_QUEUE_DEPTH),
		.set_max_io = true,
		.max_io = bounded(o, "max-io", SPICEBD_MIN_MAX_IO, SPICEBD_MAX_MAX_IO),
		.set_reconnect = true,
		.reconnect_timeout = bounded(o, "reconnect-timeout", SPICEBD_TIMEOUT_FOREVER,
					     SPICEBD_MAX_TIMEOUT),
		.set_stall = true,
		.stall_timeout = bounded(o, "stall-timeout", 0, SPICEBD_MAX_TIMEOUT),
		.set_open_wait = true,
		.open_wait = bounded(o, "open-wait", 0, SPICEBD_MAX_TIMEOUT),
	};
	if (!strcmp(personality, "cdrom"))
		n->personality = SPICEBD_PERSONALITY_CDROM;
	else if (strcmp(personality, "disk"))
		return false;
	return true;
}
