// SPDX-License-Identifier: GPL-2.0-only
#include "schema.h"

#include <errno.h>
#include <string.h>

/* Definitions may hold themselves; what a peer sends is not that deep. */
#define DEPTH_MAX	16

static int check_value(const char *type, JsonNode *n, const char *path, int depth,
		       struct derr *e);

const struct schema_def *schema_find(const char *name)
{
	for (const struct schema_def *d = schema_defs; d->name; d++)
		if (!strcmp(d->name, name))
			return d;
	return NULL;
}

bool schema_next(const char **list, struct schema_item *it)
{
	const char *p = *list + strspn(*list, " "), *colon;
	size_t len = strcspn(p, " "), name = len, type = 0;

	if (!len)
		return false;
	*list = p + len;
	it->optional = p[len - 1] == '?';
	colon = memchr(p, ':', len);
	if (colon) {
		name = colon - p;
		type = len - name - 1 - it->optional;
	}
	/* Only our own tables come here; a test reads each of them. */
	g_assert(name < sizeof(it->name) && type < sizeof(it->type));
	memcpy(it->name, p, name);
	it->name[name] = '\0';
	if (colon)
		memcpy(it->type, colon + 1, type);
	it->type[type] = '\0';
	return true;
}

static bool listed(const char *list, const char *name, struct schema_item *it)
{
	while (schema_next(&list, it))
		if (!strcmp(it->name, name))
			return true;
	return false;
}

static GType value_type(JsonNode *n)
{
	return JSON_NODE_HOLDS_VALUE(n) ? json_node_get_value_type(n) : G_TYPE_INVALID;
}

static int wrong_type(const char *path, const char *wanted, struct derr *e)
{
	return derr_set(e, EINVAL, "Invalid parameter type for '%s', expected: %s", path, wanted);
}

static int check_builtin(char type, JsonNode *n, const char *path, struct derr *e)
{
	switch (type) {
	case 's':
		return value_type(n) == G_TYPE_STRING ? 0 : wrong_type(path, "string", e);
	case 'i':
		return value_type(n) == G_TYPE_INT64 ? 0 : wrong_type(path, "integer", e);
	case 'b':
		return value_type(n) == G_TYPE_BOOLEAN ? 0 : wrong_type(path, "boolean", e);
	default:
		return 0;
	}
}

static int check_array(const char *type, JsonNode *n, const char *path, int depth, struct derr *e)
{
	char *element = g_strndup(type + 1, strlen(type) - 2);
	JsonArray *a;
	int r = 0;

	if (!JSON_NODE_HOLDS_ARRAY(n)) {
		g_free(element);
		return wrong_type(path, "array", e);
	}
	a = json_node_get_array(n);
	for (guint i = 0; i < json_array_get_length(a) && !r; i++) {
		char *p = g_strdup_printf("%s[%u]", path, i);

		r = check_value(element, json_array_get_element(a, i), p, depth + 1, e);
		g_free(p);
	}
	g_free(element);
	return r;
}

static int check_enum(const struct schema_def *d, JsonNode *n, const char *path, struct derr *e)
{
	const char *dot = strrchr(path, '.');
	struct schema_item it;

	if (value_type(n) != G_TYPE_STRING)
		return wrong_type(path, "string", e);
	/* Here, and here alone, QEMU does not tell the whole path. */
	if (!listed(d->body, json_node_get_string(n), &it))
		return derr_set(e, EINVAL, "Parameter '%s' does not accept value '%s'",
				dot ? dot + 1 : path, json_node_get_string(n));
	return 0;
}

/* The only alternate that arguments have: an object, or a string. */
static int check_alternate(const struct schema_def *d, JsonNode *n, const char *path, int depth,
			   struct derr *e)
{
	const char *list = d->body;
	struct schema_item it;

	while (schema_next(&list, &it)) {
		bool object = schema_find(it.name);

		if (object ? JSON_NODE_HOLDS_OBJECT(n) : value_type(n) == G_TYPE_STRING)
			return check_value(it.name, n, path, depth + 1, e);
	}
	return wrong_type(path, d->name, e);
}

static char *path_of(const char *prefix, const char *name)
{
	return *prefix ? g_strdup_printf("%s.%s", prefix, name) : g_strdup(name);
}

static int check_members(const char *list, JsonObject *o, const char *path, int depth,
			 struct derr *e)
{
	struct schema_item it;
	int r = 0;

	while (!r && schema_next(&list, &it)) {
		JsonNode *n = json_object_get_member(o, it.name);
		char *p = path_of(path, it.name);

		if (n)
			r = check_value(it.type, n, p, depth + 1, e);
		else if (!it.optional)
			r = derr_set(e, EINVAL, "Parameter '%s' is missing", p);
		g_free(p);
	}
	return r;
}

static int check_known(const char *list, const char *more, JsonObject *o, const char *path,
		       struct derr *e)
{
	GList *names = json_object_get_members(o);
	struct schema_item it;
	int r = 0;

	for (GList *l = names; l && !r; l = l->next) {
		char *p = path_of(path, l->data);

		if (!listed(list, l->data, &it) && !listed(more, l->data, &it))
			r = derr_set(e, EINVAL, "Parameter '%s' is unexpected", p);
		g_free(p);
	}
	g_list_free(names);
	return r;
}

static int check_object(const struct schema_def *d, JsonObject *o, const char *path, int depth,
			struct derr *e)
{
	const struct schema_def *v = NULL;
	struct schema_item it;
	int r = check_members(d->body, o, path, depth, e);

	if (!r && d->tag && listed(d->variants, json_object_get_string_member(o, d->tag), &it))
		v = schema_find(it.type);
	if (!r && v)
		r = check_members(v->body, o, path, depth, e);
	return r ? r : check_known(d->body, v ? v->body : "", o, path, e);
}

static int check_value(const char *type, JsonNode *n, const char *path, int depth, struct derr *e)
{
	const struct schema_def *d;

	if (depth > DEPTH_MAX)
		return derr_set(e, EINVAL, "Parameter '%s' is nested too deeply", path);
	if (*type == '[')
		return check_array(type, n, path, depth, e);
	if (!type[1])
		return check_builtin(*type, n, path, e);
	d = schema_find(type);
	if (d->kind == SCHEMA_ENUM)
		return check_enum(d, n, path, e);
	if (d->kind == SCHEMA_ALTERNATE)
		return check_alternate(d, n, path, depth, e);
	if (!JSON_NODE_HOLDS_OBJECT(n))
		return wrong_type(path, "object", e);
	return check_object(d, json_node_get_object(n), path, depth, e);
}

int schema_check(const char *members, JsonObject *o, struct derr *e)
{
	struct schema_def plain = { .body = members };

	if (*members == '@')
		return check_object(schema_find(members + 1), o, "", 0, e);
	return check_object(&plain, o, "", 0, e);
}
