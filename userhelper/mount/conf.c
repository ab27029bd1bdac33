// SPDX-License-Identifier: GPL-2.0-only
/* Reading automount.conf: strict, so that a mistyped key is never silence. */
#include "conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX	65536

static const char type_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789_.-";
static const char option_chars[] =
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:+-/";

static const char *set_bool(bool *to, const char *v)
{
	if (strcmp(v, "yes") && strcmp(v, "no"))
		return "is neither yes nor no";
	*to = !strcmp(v, "yes");
	return NULL;
}

static const char *set_owner(enum conf_owner *to, const char *v)
{
	if (!strcmp(v, "auto"))
		*to = OWNER_AUTO;
	else if (!strcmp(v, "spicebd"))
		*to = OWNER_SPICEBD;
	else if (!strcmp(v, "udisks"))
		*to = OWNER_UDISKS;
	else
		return "is none of auto, spicebd, udisks";
	return NULL;
}

static const char *set_place(struct conf *c, const char *v)
{
	size_t n = strlen(v);

	while (n > 1 && v[n - 1] == '/')
		n--;
	if (v[0] != '/' || n < 2)
		return "is no absolute path of a directory";
	if (n >= sizeof(c->place))
		return "is too long";
	memcpy(c->place, v, n);
	c->place[n] = '\0';
	if (strstr(c->place, "/../") || strstr(c->place, "/./") || strstr(c->place, "//") ||
	    (n >= 3 && !strcmp(c->place + n - 3, "/..")) || !strcmp(c->place + n - 2, "/."))
		return "holds '.', '..' or '//': name the directory itself";
	return NULL;
}

/* "vfat", or "disk:ext4" and "cdrom:udf" for one sort of drive only. */
static const char *add_type(struct conf *c, const char *word)
{
	struct conf_type *t = &c->type[c->n_types];
	const char *name = word;

	if (c->n_types == CONF_TYPES_MAX)
		return "names too many types";
	t->cdrom = t->disk = true;
	if (!strncmp(word, "disk:", 5)) {
		t->cdrom = false;
		name = word + 5;
	} else if (!strncmp(word, "cdrom:", 6)) {
		t->disk = false;
		name = word + 6;
	}
	if (!*name || strlen(name) > CONF_TYPE_LEN || strspn(name, type_chars) != strlen(name))
		return "holds what is no name of a file system";
	strcpy(t->name, name);
	c->n_types++;
	return NULL;
}

/* Words are separated by blanks or commas. */
static const char *each_word(struct conf *c, const char *v,
			     const char *(*add)(struct conf *c, const char *word))
{
	char word[128];

	for (;;) {
		const char *wrong;
		size_t n;

		v += strspn(v, " \t,");
		n = strcspn(v, " \t,");
		if (!n)
			return NULL;
		if (n >= sizeof(word))
			return "holds a word that is too long";
		memcpy(word, v, n);
		word[n] = '\0';
		wrong = add(c, word);
		if (wrong)
			return wrong;
		v += n;
	}
}

static const char *keep(struct conf *c, const char *s, size_t n)
{
	char *to = c->text + c->text_len;

	if (n >= sizeof(c->text) - c->text_len)
		return NULL;
	memcpy(to, s, n);
	to[n] = '\0';
	c->text_len += n + 1;
	return to;
}

/* "noexec", "uid=1000", or "vfat:utf8" for one type of file system only. */
static const char *add_option(struct conf *c, const char *word)
{
	struct conf_option *o = &c->option[c->n_options];
	const char *key = word, *colon = strchr(word, ':'), *eq = strchr(word, '=');

	if (c->n_options == CONF_OPTIONS_MAX)
		return "names too many options";
	o->type[0] = '\0';
	if (colon && (!eq || colon < eq)) {
		if (colon == word || colon - word > CONF_TYPE_LEN)
			return "holds what is no option";
		memcpy(o->type, word, colon - word);
		o->type[colon - word] = '\0';
		key = colon + 1;
	}
	if (strspn(key, option_chars) != (eq ? (size_t)(eq - key) : strlen(key)) || !*key ||
	    eq == key || (eq && strspn(eq + 1, option_chars) != strlen(eq + 1)))
		return "holds what is no option";
	o->key = keep(c, key, eq ? (size_t)(eq - key) : strlen(key));
	o->value = eq ? keep(c, eq + 1, strlen(eq + 1)) : NULL;
	if (!o->key || (eq && !o->value))
		return "is too long";
	c->n_options++;
	return NULL;
}

static const char *set(struct conf *c, const char *key, const char *v)
{
	if (!strcmp(key, "enable"))
		return set_bool(&c->enable, v);
	if (!strcmp(key, "disk-writable"))
		return set_bool(&c->disk_writable, v);
	if (!strcmp(key, "owner"))
		return set_owner(&c->owner, v);
	if (!strcmp(key, "place"))
		return set_place(c, v);
	if (!strcmp(key, "types")) {
		c->n_types = 0;
		return each_word(c, v, add_type);
	}
	if (!strcmp(key, "options")) {
		c->n_options = 0;
		c->text_len = 0;
		return each_word(c, v, add_option);
	}
	return "is no key that this version knows";
}

void conf_init(struct conf *c)
{
	memset(c, 0, sizeof(*c));
	c->enable = true;
	strcpy(c->place, "/run/media/spicebd");
	(void)each_word(c, "iso9660 udf vfat exfat disk:ext4", add_type);
}

static char *trim(char *s)
{
	char *end;

	s += strspn(s, " \t\r");
	end = s + strlen(s);
	while (end > s && strchr(" \t\r", end[-1]))
		*--end = '\0';
	return s;
}

static bool parse_line(struct conf *c, const char *path, unsigned int number, char *line,
		       char *err, size_t size)
{
	const char *wrong;
	char *key = trim(line), *eq;

	if (!*key || *key == '#')
		return true;
	eq = strchr(key, '=');
	if (!eq) {
		snprintf(err, size, "%s:%u: no KEY=VALUE: correct the line", path, number);
		return false;
	}
	*eq = '\0';
	key = trim(key);
	wrong = set(c, key, trim(eq + 1));
	if (!wrong)
		return true;
	snprintf(err, size, "%s:%u: %.40s= %s", path, number, key, wrong);
	return false;
}

bool conf_parse(struct conf *c, const char *path, const char *text, char *err, size_t size)
{
	char line[1024];

	for (unsigned int number = 1; *text; number++) {
		size_t n = strcspn(text, "\n");

		if (n >= sizeof(line)) {
			snprintf(err, size, "%s:%u: the line is too long", path, number);
			return false;
		}
		memcpy(line, text, n);
		line[n] = '\0';
		if (!parse_line(c, path, number, line, err, size))
			return false;
		text += n + (text[n] == '\n');
	}
	return true;
}

static bool read_all(int fd, char *buf, size_t size)
{
	size_t have = 0;

	for (;;) {
		ssize_t n = read(fd, buf + have, size - 1 - have);

		if (n < 0)
			return false;
		have += n;
		buf[have] = '\0';
		if (n == 0)
			return strlen(buf) == have;
		if (have == size - 1) {
			errno = EFBIG;
			return false;
		}
	}
}

bool conf_load(struct conf *c, const char *path, char *err, size_t size)
{
	static char text[FILE_MAX];
	struct stat st;
	bool ok = false;
	int fd;

	conf_init(c);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && errno == ENOENT)
		return true;
	errno = fd < 0 ? errno : 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		snprintf(err, size, "%s: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
		snprintf(err, size, "%s: not a file that root alone can write: chown root and "
			 "chmod go-w it", path);
	else if (!read_all(fd, text, sizeof(text)))
		snprintf(err, size, "%s: cannot be read: %s", path,
			 errno ? strerror(errno) : "it holds a NUL byte");
	else
		ok = conf_parse(c, path, text, err, size);
	if (fd >= 0)
		close(fd);
	return ok;
}

bool conf_allows(const struct conf *c, const char *type, bool cdrom)
{
	for (unsigned int i = 0; i < c->n_types; i++)
		if (!strcmp(c->type[i].name, type))
			return cdrom ? c->type[i].cdrom : c->type[i].disk;
	return false;
}
