// SPDX-License-Identifier: GPL-2.0-only
#include "conf.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

#define CONF_DIR	"/etc/spicebd/links.d"
#define CONF_SIZE_MAX	65536

bool conf_name_ok(const char *name)
{
	size_t i, n = strlen(name);

	if (n < 1 || n > 31 || name[0] == '_' || name[0] == '-')
		return false;
	for (i = 0; i < n; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !isdigit((unsigned char)name[i]) &&
		    name[i] != '_' && name[i] != '-')
			return false;
	return true;
}

static bool number(const char *v, int base, unsigned long lo, unsigned long hi, unsigned long *out)
{
	char *end;

	if (!isdigit((unsigned char)*v))
		return false;
	errno = 0;
	*out = strtoul(v, &end, base);
	return !errno && !*end && *out >= lo && *out <= hi;
}

/* Seconds, also with a fraction, to milliseconds. */
static bool seconds(const char *v, unsigned int *ms)
{
	char *end;
	double d;

	if (!isdigit((unsigned char)*v))
		return false;
	d = strtod(v, &end);
	if (*end || !(d >= 0.1 && d <= 3600))
		return false;
	*ms = d * 1000;
	return true;
}

static bool set_text(char **p, const char *v)
{
	if (!*v)
		return false;
	free(*p);
	*p = strdup(v);
	return *p;
}

/* Returns NULL, or what a right value looks like. */
static const char *set_key(struct conf *c, const char *key, const char *v)
{
	struct { const char *key; char **to; } texts[] = {
		{ "address", &c->address }, { "password-file", &c->password_file },
		{ "tls-cert", &c->tls_cert }, { "tls-key", &c->tls_key },
		{ "tls-ca", &c->tls_ca }, { "user", &c->user },
	};
	struct { const char *key; unsigned int *to; } times[] = {
		{ "ping-interval", &c->ping_interval }, { "ping-timeout", &c->ping_timeout },
		{ "hello-timeout", &c->hello_timeout },
	};
	unsigned long n;
	size_t i;

	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (!strcmp(key, texts[i].key))
			return set_text(texts[i].to, v) ? NULL : "a value";
	for (i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		if (!strcmp(key, times[i].key))
			return seconds(v, times[i].to) ? NULL : "seconds, 0.1 to 3600";
	if (!strcmp(key, "insecure")) {
		c->insecure = !strcmp(v, "yes");
		return c->insecure || !strcmp(v, "no") ? NULL : "yes or no";
	}
	if (!strcmp(key, "memory-max")) {
		if (!number(v, 10, 32, 65536, &n))
			return "MiB, 32 to 65536";
		c->memory_max = n;
		return NULL;
	}
	if (!strcmp(key, "socket-mode")) {
		if (!number(v, 8, 0, 0777, &n))
			return "an octal mode, e.g. 0660";
		c->socket_mode = n;
		return NULL;
	}
	return "a known key";
}

static char *trim(char *s)
{
	char *end;

	while (isspace((unsigned char)*s))
		s++;
	end = s + strlen(s);
	while (end > s && isspace((unsigned char)end[-1]))
		*--end = '\0';
	return s;
}

static bool parse_line(struct conf *c, const char *path, unsigned int line, char *s)
{
	const char *want;
	char *eq;

	s = trim(s);
	if (!*s || *s == '#')
		return true;
	eq = strchr(s, '=');
	if (!eq) {
		log_err("%s:%u: no '=' in this line: write key=value", path, line);
		return false;
	}
	*eq = '\0';
	s = trim(s);
	want = set_key(c, s, trim(eq + 1));
	if (!want)
		return true;
	if (!strcmp(want, "a known key"))
		log_err("%s:%u: unknown key \"%s\": remove it or correct its name", path, line, s);
	else
		log_err("%s:%u: bad value of \"%s\": write %s", path, line, s, want);
	return false;
}

static bool parse(struct conf *c, const char *path, char *text)
{
	unsigned int line = 1;
	char *nl;

	for (; text; text = nl, line++) {
		nl = strchr(text, '\n');
		if (nl)
			*nl++ = '\0';
		if (!parse_line(c, path, line, text))
			return false;
	}
	return true;
}

/* Returns the whole file, NUL-terminated, or NULL with errno. */
static char *read_file(const char *path, size_t max)
{
	char *buf = malloc(max + 1);
	size_t have = 0;
	ssize_t n = 0;
	int fd, err = 0;

	if (!buf)
		return NULL;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0) {
		err = errno;
	} else {
		while (have <= max && (n = read(fd, buf + have, max + 1 - have)) > 0)
			have += n;
		if (n < 0)
			err = errno;
		else if (have > max)
			err = EFBIG;
		close(fd);
	}
	if (err) {
		free(buf);
		errno = err;
		return NULL;
	}
	buf[have] = '\0';
	return buf;
}

static bool read_password(struct conf *c)
{
	char *text, *nl;
	bool ok = false;

	if (!c->password_file)
		return true;
	text = read_file(c->password_file, 4096);
	if (!text) {
		log_err("cannot read password-file %s: %s: give a file that root can read",
			c->password_file, strerror(errno));
		return false;
	}
	nl = text + strcspn(text, "\r\n");
	*nl = '\0';
	if (!*text)
		log_err("password-file %s: its first line is empty: write the password there",
			c->password_file);
	else if (nl - text > CONF_PASSWORD_MAX)
		log_err("password-file %s: longer than %d bytes, which is Spice's limit: shorten it",
			c->password_file, CONF_PASSWORD_MAX);
	else
		ok = true;
	if (ok)
		strcpy(c->password, text);
	explicit_bzero(text, 4096);
	free(text);
	return ok;
}

static bool check(struct conf *c, const char *path)
{
	if (!c->address) {
		log_err("%s: no address=: write address=unix:/PATH or address=HOST:PORT", path);
		return false;
	}
	c->is_unix = !strncmp(c->address, "unix:", 5);
	if (c->is_unix && c->address[5] != '/') {
		log_err("%s: address=%s: the path after unix: starts with /", path, c->address);
		return false;
	}
	if (!!c->tls_cert != !!c->tls_key || !!c->tls_cert != !!c->tls_ca) {
		log_err("%s: TLS needs all of tls-cert=, tls-key= and tls-ca=", path);
		return false;
	}
	if (c->ping_timeout < c->ping_interval) {
		log_err("%s: ping-timeout= is shorter than ping-interval=: make it longer", path);
		return false;
	}
	return true;
}

bool conf_load(struct conf *c, const char *name)
{
	char path[300], *text;
	bool ok;

	memset(c, 0, sizeof(*c));
	c->memory_max = 256;
	c->socket_mode = 0600;
	c->ping_interval = 5000;
	c->ping_timeout = 15000;
	c->hello_timeout = 10000;

	snprintf(path, sizeof(path), "%s/links.d/%s.conf", run_dir(), name);
	text = read_file(path, CONF_SIZE_MAX);
	if (!text && errno == ENOENT) {
		snprintf(path, sizeof(path), "%s/%s.conf", CONF_DIR, name);
		text = read_file(path, CONF_SIZE_MAX);
	}
	if (!text) {
		if (errno == ENOENT)
			log_err("no configuration of link %s in %s/links.d or %s: make one with spicebdctl listen",
				name, run_dir(), CONF_DIR);
		else
			log_err("cannot read %s: %s", path, strerror(errno));
		return false;
	}
	ok = parse(c, path, text) && check(c, path) && read_password(c);
	free(text);
	return ok;
}
