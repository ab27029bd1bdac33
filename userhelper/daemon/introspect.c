// SPDX-License-Identifier: GPL-2.0-only
#include "introspect.h"

#include <string.h>

#include "control.h"
#include "schema.h"

/* Names of our short types, and JSON's for them. */
static const struct {
	const char *letter, *name, *json;
} builtins[] = {
	{ "s", "str", "string" },
	{ "i", "int", "int" },
	{ "b", "bool", "boolean" },
	{ "*", "any", "value" },
	{ "null", "null", "null" },
};

/**
 * struct walk - an introspection under way
 * @out: what was told so far
 * @told: names of the types in it
 */
struct walk {
	JsonArray *out;
	GHashTable *told;
};

static void tell_def(struct walk *w, const struct schema_def *d);

static void set(JsonObject *o, const char *key, const char *value)
{
	json_object_set_string_member(o, key, value);
}

/* Return: an object that is in the answer from now on, or NULL: it is already. */
static JsonObject *tell(struct walk *w, const char *name, const char *meta)
{
	JsonObject *o;

	if (!g_hash_table_add(w->told, g_strdup(name)))
		return NULL;
	o = json_object_new();
	set(o, "name", name);
	set(o, "meta-type", meta);
	json_array_add_object_element(w->out, o);
	return o;
}

static const char *tell_builtin(struct walk *w, const char *type)
{
	for (size_t i = 0; i < G_N_ELEMENTS(builtins); i++) {
		JsonObject *o;

		if (strcmp(builtins[i].letter, type))
			continue;
		o = tell(w, builtins[i].name, "builtin");
		if (o)
			set(o, "json-type", builtins[i].json);
		return builtins[i].name;
	}
	return NULL;
}

/* Tell of a type, if nobody has; its name in the answer, to be freed. */
static char *type_name(struct walk *w, const char *type)
{
	const char *builtin = tell_builtin(w, type);
	char *inner, *element, *name;
	JsonObject *o;

	if (builtin)
		return g_strdup(builtin);
	if (*type != '[') {
		tell_def(w, schema_find(type));
		return g_strdup(type);
	}
	inner = g_strndup(type + 1, strlen(type) - 2);
	element = type_name(w, inner);
	name = g_strdup_printf("[%s]", element);
	o = tell(w, name, "array");
	if (o)
		set(o, "element-type", element);
	g_free(inner);
	g_free(element);
	return name;
}

static JsonArray *members_of(struct walk *w, const char *list)
{
	JsonArray *a = json_array_new();
	struct schema_item it;

	while (schema_next(&list, &it)) {
		JsonObject *m = json_object_new();
		char *type = type_name(w, it.type);

		set(m, "name", it.name);
		set(m, "type", type);
		if (it.optional)
			json_object_set_null_member(m, "default");
		json_array_add_object_element(a, m);
		g_free(type);
	}
	return a;
}

static JsonArray *variants_of(struct walk *w, const struct schema_def *d)
{
	JsonArray *a = json_array_new();
	const char *list = d->variants;
	struct schema_item it;

	while (schema_next(&list, &it)) {
		JsonObject *v = json_object_new();
		char *type = type_name(w, it.type);

		set(v, "case", it.name);
		set(v, "type", type);
		json_array_add_object_element(a, v);
		g_free(type);
	}
	return a;
}

static JsonArray *choices_of(struct walk *w, const char *list)
{
	JsonArray *a = json_array_new();
	struct schema_item it;

	while (schema_next(&list, &it)) {
		JsonObject *m = json_object_new();
		char *type = type_name(w, it.name);

		set(m, "type", type);
		json_array_add_object_element(a, m);
		g_free(type);
	}
	return a;
}

static void tell_enum(JsonObject *o, const char *list)
{
	JsonArray *members = json_array_new(), *values = json_array_new();
	struct schema_item it;

	while (schema_next(&list, &it)) {
		JsonObject *m = json_object_new();

		set(m, "name", it.name);
		json_array_add_object_element(members, m);
		json_array_add_string_element(values, it.name);
	}
	json_object_set_array_member(o, "members", members);
	json_object_set_array_member(o, "values", values);
}

static void tell_def(struct walk *w, const struct schema_def *d)
{
	static const char *const meta[] = {
		[SCHEMA_ENUM] = "enum",
		[SCHEMA_OBJECT] = "object",
		[SCHEMA_ALTERNATE] = "alternate",
	};
	JsonObject *o = tell(w, d->name, meta[d->kind]);

	if (!o)
		return;
	if (d->kind == SCHEMA_ENUM)
		tell_enum(o, d->body);
	else
		json_object_set_array_member(o, "members", d->kind == SCHEMA_OBJECT ?
					     members_of(w, d->body) : choices_of(w, d->body));
	if (d->tag) {
		set(o, "tag", d->tag);
		json_object_set_array_member(o, "variants", variants_of(w, d));
	}
}

/* The type of a command's arguments or an event's data, to be freed. */
static char *list_name(struct walk *w, const char *name, const char *list)
{
	char *type;
	JsonObject *o;

	if (*list == '@')
		return type_name(w, list + 1);
	type = *list ? g_strdup_printf("q_obj_%s-arg", name) : g_strdup("q_empty");
	o = tell(w, type, "object");
	if (o)
		json_object_set_array_member(o, "members", members_of(w, list));
	return type;
}

static void tell_command(struct walk *w, const struct cmd_desc *c)
{
	char *arg = list_name(w, c->name, c->args);
	char *ret = c->ret ? type_name(w, c->ret) : list_name(w, "", "");
	JsonObject *o = tell(w, c->name, "command");

	set(o, "arg-type", arg);
	set(o, "ret-type", ret);
	json_object_set_boolean_member(o, "allow-oob", FALSE);
	g_free(arg);
	g_free(ret);
}

/* It is no command of the tables: it makes the others available. */
static const struct cmd_desc negotiation = {
	"qmp_capabilities", NULL, CMD_STATUS, "enable:[s]?", NULL,
};

static bool shown(const struct cmd_desc *c, bool status)
{
	return !status || c->flags & CMD_STATUS;
}

JsonArray *introspect_schema(bool status)
{
	struct walk w = {
		json_array_new(),
		g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
	};
	const struct cmd_desc *c;

	tell_command(&w, &negotiation);
	for (unsigned int i = 0; (c = control_command(i)); i++)
		if (shown(c, status))
			tell_command(&w, c);
	for (const struct schema_event *e = schema_events; e->name; e++) {
		char *arg = list_name(&w, e->name, e->data);
		JsonObject *o = tell(&w, e->name, "event");

		set(o, "arg-type", arg);
		g_free(arg);
	}
	g_hash_table_unref(w.told);
	return w.out;
}

static void add_name(JsonArray *a, const char *name)
{
	JsonObject *o = json_object_new();

	set(o, "name", name);
	json_array_add_object_element(a, o);
}

JsonArray *introspect_commands(bool status)
{
	JsonArray *a = json_array_new();
	const struct cmd_desc *c;

	add_name(a, negotiation.name);
	for (unsigned int i = 0; (c = control_command(i)); i++)
		if (shown(c, status))
			add_name(a, c->name);
	return a;
}

JsonArray *introspect_events(void)
{
	JsonArray *a = json_array_new();

	for (const struct schema_event *e = schema_events; e->name; e++)
		add_name(a, e->name);
	return a;
}
