// SPDX-License-Identifier: GPL-2.0-only
#include "source.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fdset.h"
#include "hex.h"
#include "linkconf.h"
#include "member.h"
#include "text.h"

static const char *const type_names[] = {
	[SOURCE_SPICE] = "spice",
	[SOURCE_NBD] = "nbd",
	[SOURCE_FILE] = "file",
};

const char *source_type_str(enum source_type t)
{
	return type_names[t];
}

struct source *source_ref(struct source *s)
{
	g_atomic_int_inc(&s->refs);
	return s;
}

void source_unref(struct source *s)
{
	if (!s || !g_atomic_int_dec_and_test(&s->refs))
		return;
	g_free(s->uri);
	g_free(s->name);
	g_free(s->node_name);
	s->ops->free(s);
}

char *source_clean_name(const char *name)
{
	char out[256];

	text_clean(out, sizeof(out), name, strlen(name));
	return g_strdup(out);
}

/* spice:[LINK/][NAME]: a medium's name holds no '/', so the first one divides. */
static struct source *parse_spice(const char *rest, struct derr *e)
{
	const char *slash = strchr(rest, '/');
	struct source *s = NULL;
	char *link;

	if (!slash)
		return source_spice_new(NULL, *rest ? rest : NULL);
	link = g_strndup(rest, slash - rest);
	if (*link && !linkconf_name_ok(link))
		derr_set(e, EINVAL, "source 'spice:%s': a link's name has small letters, digits, "
			 "'-' and '_' only", rest);
	else
		s = source_spice_new(*link ? link : NULL, slash[1] ? slash + 1 : NULL);
	g_free(link);
	return s;
}

static bool is_nbd(const char *text)
{
	static const char *const schemes[] = {
		"nbd://", "nbds://", "nbd+unix://", "nbds+unix://", "nbd+vsock://",
		"nbds+vsock://",
	};

	for (size_t i = 0; i < G_N_ELEMENTS(schemes); i++)
		if (g_str_has_prefix(text, schemes[i]))
			return true;
	return false;
}

static bool has_scheme(const char *text)
{
	const char *p = text;

	while (isalnum(*p) || *p == '+' || *p == '-' || *p == '.')
		p++;
	return p != text && !strncmp(p, "://", 3);
}

/* A path opened by ourselves: only what the daemon's own uid may read. */
static int open_path(const char *path, struct derr *e)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 && (errno == EACCES || errno == EROFS || errno == EISDIR || errno == EPERM ||
		       errno == ETXTBSY))
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return derr_set(e, errno, "cannot open '%s': %s", path, strerror(errno));
	return fd;
}

struct source *source_parse(const char *text, const char *filename, struct derr *e)
{
	int fd;

	if (g_str_has_prefix(text, "spice:"))
		return parse_spice(text + strlen("spice:"), e);
	if (is_nbd(text))
		return source_nbd_new(text);
	if (has_scheme(text)) {
		derr_set(e, EINVAL, "unknown kind of source '%s': it is spice:, nbd://, nbds://, "
			 "nbd+unix:// or a path", text);
		return NULL;
	}
	if (g_str_has_prefix(text, "/dev/fdset/"))
		fd = fdset_dup(text, e);
	else if (text[0] == '/')
		fd = open_path(text, e);
	else
		fd = derr_set(e, EINVAL, "path '%s' is not absolute", text);
	return fd < 0 ? NULL : source_file_new(fd, filename ?: text, e);
}

static void set_store(const struct source *s, JsonObject *o)
{
	char hex[2 * sizeof(s->store) + 1];

	hex_encode(s->store, s->store_len, hex);
	json_object_set_string_member(o, "store", hex);
}

static void get_store(struct source *s, JsonObject *o)
{
	const char *hex = member_str(o, "store", "");
	size_t len = strlen(hex) / 2;

	if (len <= sizeof(s->store) && hex_decode(hex, s->store, len))
		s->store_len = len;
}

JsonObject *source_to_state(struct source *s)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "type", type_names[s->type]);
	json_object_set_string_member(o, "uri", s->uri);
	json_object_set_string_member(o, "name", s->name ?: "");
	json_object_set_boolean_member(o, "resend", s->resend);
	json_object_set_boolean_member(o, "read-only", s->read_only);
	set_store(s, o);
	s->ops->save(s, o);
	return o;
}

struct source *source_from_state(JsonObject *o)
{
	const char *type = member_str(o, "type", "");
	const char *uri = member_str(o, "uri", "");
	struct source *s = NULL;

	if (!strcmp(type, "nbd"))
		s = source_nbd_new(uri);
	else if (!strcmp(type, "file"))
		s = source_file_new(-1, uri, NULL);
	else if (!strcmp(type, "spice"))
		s = source_spice_new(NULL, NULL);
	if (!s)
		return NULL;
	g_free(s->uri);
	s->uri = g_strdup(uri);
	g_free(s->name);
	s->name = source_clean_name(member_str(o, "name", ""));
	s->resend = member_bool(o, "resend", FALSE);
	s->read_only = member_bool(o, "read-only", TRUE);
	get_store(s, o);
	if (s->ops->load(s, o) < 0) {
		source_unref(s);
		return NULL;
	}
	return s;
}
