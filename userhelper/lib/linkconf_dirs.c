// SPDX-License-Identifier: GPL-2.0-only
/* links.d directories: which, what is in them, and how one is written. */
#include "linkconf_dirs.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "linkconf_relay.h"
#include "sock.h"

bool linkconf_dir(int i, char *buf, size_t size)
{
	const char *etc;

	switch (i) {
	case 0:
		return snprintf(buf, size, "%s/links.d", run_dir()) < size;
	case 1:
		etc = secure_getenv("SPICEBD_CONF_DIR");
		return snprintf(buf, size, "%s/links.d", etc && *etc ? etc : "/etc/spicebd") < size;
	}
	return false;
}

typedef char link_name[LINKCONF_NAME_MAX + 1];

static int name_cmp(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* NAME.conf with a good NAME; anything else in the directory is not ours. */
static bool entry_name(const char *entry, link_name out)
{
	size_t n = strlen(entry);

	if (n < 6 || n - 5 > LINKCONF_NAME_MAX || strcmp(entry + n - 5, ".conf"))
		return false;
	memcpy(out, entry, n - 5);
	out[n - 5] = '\0';
	return linkconf_name_ok(out);
}

static int list_dir(const char *dir, link_name *names, int n)
{
	struct dirent *e;
	link_name name;
	DIR *d;

	d = opendir(dir);
	if (!d)
		return errno == ENOENT ? n : -errno;
	while (n < LINKCONF_LINKS_MAX && (e = readdir(d))) {
		bool known = false;

		if (!entry_name(e->d_name, name))
			continue;
		for (int i = 0; i < n && !known; i++)
			known = !strcmp(names[i], name);
		if (!known)
			strcpy(names[n++], name);
	}
	closedir(d);
	return n;
}

int linkconf_list(char names[LINKCONF_LINKS_MAX][LINKCONF_NAME_MAX + 1])
{
	char dir[LINKCONF_PATH_MAX - 64];
	int n = 0;

	for (int i = 0; linkconf_dir(i, dir, sizeof(dir)); i++) {
		n = list_dir(dir, names, n);
		if (n < 0)
			return n;
	}
	qsort(names, n, sizeof(names[0]), name_cmp);
	return n;
}

static void put(FILE *f, const char *key, const char *value)
{
	if (*value)
		fprintf(f, "%s=%s\n", key, value);
}

static void put_ms(FILE *f, const char *key, unsigned int ms, unsigned int usual)
{
	if (ms != usual)
		fprintf(f, "%s=%u.%03u\n", key, ms / 1000, ms % 1000);
}

/* What is as usual is left out, and so follows the defaults of later versions. */
static void put_all(FILE *f, const struct linkconf *c)
{
	struct linkconf usual;

	linkconf_init(&usual, c->name);
	put(f, "address", c->address);
	put(f, "password-file", c->password_file);
	put(f, "tls-cert", c->tls_cert);
	put(f, "tls-key", c->tls_key);
	put(f, "tls-ca", c->tls_ca);
	put(f, "user", c->user);
	put(f, "relay", c->relay);
	put(f, "relay-user", c->relay_user);
	if (!linkconf_relay_is_usual(c))
		linkconf_relay_put(f, c);
	if (c->insecure)
		put(f, "insecure", "yes");
	if (!c->busy_poll)
		put(f, "busy-poll", "no");
	if (!c->client_force)
		put(f, "client-force", "no");
	if (!c->client_change)
		put(f, "client-change", "no");
	if (c->client_insert)
		put(f, "client-insert", "yes");
	if (c->memory_max != usual.memory_max)
		fprintf(f, "memory-max=%u\n", c->memory_max);
	if (c->socket_mode != usual.socket_mode)
		fprintf(f, "socket-mode=%04o\n", (unsigned int)c->socket_mode);
	put_ms(f, "ping-interval", c->ping_interval, usual.ping_interval);
	put_ms(f, "ping-timeout", c->ping_timeout, usual.ping_timeout);
	put_ms(f, "hello-timeout", c->hello_timeout, usual.hello_timeout);
}

/* A line feed in a value would be a key of its own when it is read again. */
static bool values_clean(const struct linkconf *c)
{
	const char *v[] = {
		c->address, c->password_file, c->tls_cert, c->tls_key, c->tls_ca, c->user,
		c->relay, c->relay_user,
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		size_t n = strlen(v[i]);

		if (n && (v[i][0] == ' ' || v[i][n - 1] == ' '))
			return false;
		for (size_t k = 0; k < n; k++)
			if ((unsigned char)v[i][k] < 0x20 || v[i][k] == 0x7f)
				return false;
	}
	return true;
}

static int write_conf(const char *path, const struct linkconf *c)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	int r;

	if (!f)
		return -ENOMEM;
	put_all(f, c);
	r = fclose(f) ? -ENOMEM : file_replace(path, text, len);
	free(text);
	return r;
}

int linkconf_save(const struct linkconf *c, char *err, size_t errlen)
{
	char dir[LINKCONF_PATH_MAX - 64];
	char path[LINKCONF_PATH_MAX];
	int r;

	r = linkconf_check(c, err, errlen);
	if (r < 0)
		return r;
	if (!values_clean(c)) {
		snprintf(err, errlen, "a value has control characters, or spaces at its ends");
		return -EINVAL;
	}
	if (!linkconf_dir(0, dir, sizeof(dir))) {
		snprintf(err, errlen, "the path of the run directory is too long");
		return -ENAMETOOLONG;
	}
	mkdir(run_dir(), 0755);
	mkdir(dir, 0755);
	snprintf(path, sizeof(path), "%s/%s.conf", dir, c->name);
	r = write_conf(path, c);
	if (r < 0)
		snprintf(err, errlen, "cannot write %s: %s", path, strerror(-r));
	return r;
}
