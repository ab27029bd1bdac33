// SPDX-License-Identifier: GPL-2.0-only
/* Reading links.d/NAME.conf: strict, so that a mistyped key is never silence. */
#include "linkconf.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linkconf_dirs.h"
#include "linkconf_relay.h"

enum value { V_PATH, V_ADDRESS, V_USER, V_BOOL, V_NUMBER, V_SECONDS, V_MODE, V_RELAY, V_PORTS };

struct key {
	const char *name;
	enum value type;
	size_t offset;
	unsigned int min, max;
};

#define KEY(name_, type_, member, ...) \
	{ .name = name_, .type = type_, .offset = offsetof(struct linkconf, member), __VA_ARGS__ }

static const struct key keys[] = {
	KEY("address", V_ADDRESS, address),
	KEY("password-file", V_PATH, password_file),
	KEY("tls-cert", V_PATH, tls_cert),
	KEY("tls-key", V_PATH, tls_key),
	KEY("tls-ca", V_PATH, tls_ca),
	KEY("insecure", V_BOOL, insecure),
	KEY("busy-poll", V_BOOL, busy_poll),
	KEY("client-force", V_BOOL, client_force),
	KEY("client-change", V_BOOL, client_change),
	KEY("client-insert", V_BOOL, client_insert),
	KEY("memory-max", V_NUMBER, memory_max, .min = 32, .max = 65536),
	KEY("user", V_USER, user),
	KEY("relay", V_RELAY, relay),
	KEY("relay-user", V_USER, relay_user),
	KEY("relay-ports", V_PORTS, relay_ports),
	KEY("socket-mode", V_MODE, socket_mode),
	KEY("ping-interval", V_SECONDS, ping_interval, .min = 100, .max = 3600000),
	KEY("ping-timeout", V_SECONDS, ping_timeout, .min = 100, .max = 3600000),
	KEY("hello-timeout", V_SECONDS, hello_timeout, .min = 100, .max = 3600000),
};

#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

bool linkconf_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > LINKCONF_NAME_MAX || name[0] == '_' || name[0] == '-')
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

void linkconf_init(struct linkconf *c, const char *name)
{
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->busy_poll = true;
	c->client_force = true;
	c->client_change = true;
	c->memory_max = 256;
	c->socket_mode = 0600;
	c->ping_interval = 5000;
	c->ping_timeout = 15000;
	c->hello_timeout = 10000;
	linkconf_relay_init(c);
}

static const char *set_string(char *to, size_t size, const char *v)
{
	if (!*v)
		return "has no value";
	if (strlen(v) >= size)
		return "is too long";
	strcpy(to, v);
	return NULL;
}

static const char *set_number(unsigned int *to, const struct key *k, const char *v)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(v, &end, 10);
	if (!isdigit((unsigned char)*v) || *end || errno)
		return "is no number: write digits only";
	if (n < k->min || n > k->max)
		return "is out of range";
	*to = n;
	return NULL;
}

/* Seconds, also with a fraction, kept as milliseconds. */
static const char *set_seconds(unsigned int *to, const struct key *k, const char *v)
{
	char *end;
	double d;

	d = strtod(v, &end);
	if (!isdigit((unsigned char)*v) || *end || strspn(v, "0123456789.") != strlen(v))
		return "is no number of seconds: write e.g. 5 or 2.5";
	if (!(d * 1000 >= k->min && d * 1000 <= k->max))
		return "is out of range";
	*to = d * 1000;
	return NULL;
}

static const char *set_mode(mode_t *to, const char *v)
{
	unsigned long n;
	char *end;

	n = strtoul(v, &end, 8);
	if (!isdigit((unsigned char)*v) || *end || n > 0777)
		return "is no octal mode: write e.g. 0660";
	*to = n;
	return NULL;
}

static const char *set_path(char *to, const char *v)
{
	if (*v && *v != '/')
		return "is no absolute path: begin it with /";
	return set_string(to, LINKCONF_PATH_MAX + 1, v);
}

static const char *set_key(struct linkconf *c, const struct key *k, const char *v)
{
	void *to = (char *)c + k->offset;

	switch (k->type) {
	case V_PATH:
		return set_path(to, v);
	case V_ADDRESS:
		return set_string(to, sizeof(c->address), v);
	case V_USER:
		return set_string(to, sizeof(c->user), v);
	case V_RELAY:
		return set_string(to, sizeof(c->relay), v);
	case V_PORTS:
		return linkconf_relay_ports(c, v);
	case V_NUMBER:
		return set_number(to, k, v);
	case V_SECONDS:
		return set_seconds(to, k, v);
	case V_MODE:
		return set_mode(to, v);
	case V_BOOL:
		if (strcmp(v, "yes") && strcmp(v, "no"))
			return "is neither yes nor no: write one of them";
		*(bool *)to = *v == 'y';
		return NULL;
	}
	return "cannot be set";
}

static char *trim(char *s)
{
	char *end;

	while (*s == ' ' || *s == '\t')
		s++;
	end = s + strlen(s);
	while (end > s && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
		*--end = '\0';
	return s;
}

/* One line; NULL, or what is wrong with it. @seen: bits of keys given before. */
static const char *parse_line(char *line, struct linkconf *c, unsigned int *seen,
			      const char **name)
{
	char *s = trim(line), *eq, *k;

	*name = "line";
	if (!*s || *s == '#')
		return NULL;
	eq = strchr(s, '=');
	if (!eq)
		return "is not key=value: write it so, or # before a comment";
	*eq = '\0';
	k = trim(s);
	*name = k;
	for (size_t i = 0; i < N_KEYS; i++) {
		if (strcmp(k, keys[i].name))
			continue;
		if (*seen & (1u << i))
			return "is given twice: remove one of them";
		*seen |= 1u << i;
		return set_key(c, &keys[i], trim(eq + 1));
	}
	return "is no known key: remove it or correct its name";
}

int linkconf_parse(char *text, struct linkconf *out, char *err, size_t errlen)
{
	unsigned int seen = 0, line = 0;

	for (char *p = text, *next; p; p = next) {
		const char *name, *what;

		next = strchr(p, '\n');
		if (next)
			*next++ = '\0';
		line++;
		what = parse_line(p, out, &seen, &name);
		if (!what)
			continue;
		snprintf(err, errlen, "%s:%u: \"%.64s\" %s", out->file[0] ? out->file : out->name,
			 line, name, what);
		return -EINVAL;
	}
	return linkconf_check(out, err, errlen);
}

/* Whoever can write it decides where a root process listens. */
static int file_trusted(int fd, const char *path, char *err, size_t errlen)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode)) {
		snprintf(err, errlen, "%s: not a regular file", path);
		return -EINVAL;
	}
	if ((st.st_uid && st.st_uid != geteuid()) || (st.st_mode & 022)) {
		snprintf(err, errlen, "%s: others may write it; chown root and chmod 600 it", path);
		return -EPERM;
	}
	return 0;
}

static int read_file(int fd, const char *path, char *buf, char *err, size_t errlen)
{
	size_t n = 0;
	ssize_t r;

	do {
		r = read(fd, buf + n, LINKCONF_FILE_MAX + 1 - n);
		if (r < 0) {
			snprintf(err, errlen, "%s: cannot read: %s", path, strerror(errno));
			return -errno;
		}
		n += r;
	} while (r && n <= LINKCONF_FILE_MAX);
	if (n > LINKCONF_FILE_MAX || memchr(buf, '\0', n)) {
		snprintf(err, errlen, "%s: not a link configuration (binary or too long)", path);
		return -EINVAL;
	}
	buf[n] = '\0';
	return 0;
}

static int load_from(int fd, struct linkconf *out, char *err, size_t errlen)
{
	char *buf;
	int r;

	r = file_trusted(fd, out->file, err, errlen);
	if (r < 0)
		return r;
	buf = malloc(LINKCONF_FILE_MAX + 2);
	if (!buf)
		return -ENOMEM;
	r = read_file(fd, out->file, buf, err, errlen);
	if (!r)
		r = linkconf_parse(buf, out, err, errlen);
	free(buf);
	return r;
}

int linkconf_load(const char *name, struct linkconf *out, char *err, size_t errlen)
{
	char dir[LINKCONF_PATH_MAX - 64];
	int fd, r;

	if (!linkconf_name_ok(name)) {
		snprintf(err, errlen,
			 "\"%.40s\" is no name of a link: a-z, 0-9, - and _, at most %d",
			 name, LINKCONF_NAME_MAX);
		return -EINVAL;
	}
	linkconf_init(out, name);
	for (int i = 0; linkconf_dir(i, dir, sizeof(dir)); i++) {
		snprintf(out->file, sizeof(out->file), "%s/%s.conf", dir, name);
		fd = open(out->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0) {
			snprintf(err, errlen, "%s: %s", out->file, strerror(errno));
			return -errno;
		}
		snprintf(err, errlen, "%s: cannot read it", out->file);
		r = load_from(fd, out, err, errlen);
		close(fd);
		return r;
	}
	out->file[0] = '\0';
	if (!strcmp(name, LINKCONF_PORT_LINK)) {
		strcpy(out->address, "port:");
		return 0;
	}
	snprintf(err, errlen, "link \"%s\" is not configured; spicebdctl listen %s ADDRESS does it",
		 name, name);
	return -ENOENT;
}
