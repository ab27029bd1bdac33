// SPDX-License-Identifier: GPL-2.0-only
#include "member.h"

static JsonNode *value(JsonObject *o, const char *name, GType type)
{
	JsonNode *n = json_object_get_member(o, name);

	return n && JSON_NODE_HOLDS_VALUE(n) && json_node_get_value_type(n) == type ? n : NULL;
}

const char *member_str(JsonObject *o, const char *name, const char *fallback)
{
	JsonNode *n = value(o, name, G_TYPE_STRING);

	return n ? json_node_get_string(n) : fallback;
}

int64_t member_int(JsonObject *o, const char *name, int64_t fallback)
{
	JsonNode *n = value(o, name, G_TYPE_INT64);

	return n ? json_node_get_int(n) : fallback;
}

bool member_bool(JsonObject *o, const char *name, bool fallback)
{
	JsonNode *n = value(o, name, G_TYPE_BOOLEAN);

	return n ? json_node_get_boolean(n) : fallback;
}
