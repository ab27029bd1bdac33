// SPDX-License-Identifier: GPL-2.0-only
#include "holders.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "text.h"

#define NAMED_MAX	4	/* of each sort; the others are counted */
#define SHOWN_MAX	200	/* bytes of one path */

struct line {
	char *out;
	size_t size, len;
};

static void add(struct line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct line *l, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(l->out + l->len, l->size - l->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		l->len += (size_t)n < l->size - l->len ? (size_t)n : l->size - l->len - 1;
}

/* ---- devices */

static void add_dev(struct holders_devs *v, const char *path)
{
	unsigned int maj, min;
	FILE *f = fopen(path, "re");

	if (!f)
		return;
	if (fscanf(f, "%u:%u", &maj, &min) == 2 && v->n < HOLDERS_DEVS_MAX)
		v->dev[v->n++] = makedev(maj, min);
	fclose(f);
}

void holders_devs(const char *name, struct holders_devs *v)
{
	size_t len = strlen(name);
	char path[600];
	struct dirent *e;
	DIR *dir;

	memset(v, 0, sizeof(*v));
	snprintf(path, sizeof(path), "/sys/block/%s/dev", name);
	add_dev(v, path);
	snprintf(path, sizeof(path), "/sys/block/%s", name);
	dir = opendir(path);
	if (!dir)
		return;
	while ((e = readdir(dir))) {
		if (strncmp(e->d_name, name, len) || e->d_name[len] != 'p')
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/%s/dev", name, e->d_name);
		add_dev(v, path);
	}
	closedir(dir);
}

static int find(const struct holders_devs *v, dev_t dev)
{
	for (int i = 0; i < v->n; i++)
		if (v->dev[i] == dev)
			return i;
	return -1;
}

/* ---- mounts */

void holders_unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (s[0] == '\\' && isdigit((unsigned char)s[1]) &&
		    isdigit((unsigned char)s[2]) && isdigit((unsigned char)s[3])) {
			*to++ = (s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0');
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

static unsigned int add_mounts(struct holders_devs *v, struct line *l)
{
	char *line = NULL, where[4096], shown[SHOWN_MAX];
	unsigned int maj, min, n = 0;
	size_t room = 0;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	int i;

	if (!f)
		return 0;
	while (getline(&line, &room, f) > 0) {
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &maj, &min, where) != 3)
			continue;
		i = find(v, makedev(maj, min));
		if (i < 0)
			continue;
		v->mounted[i] = true;
		if (n++ >= NAMED_MAX)
			continue;
		holders_unescape(where);
		text_clean(shown, sizeof(shown), where, strlen(where));
		add(l, "%s%s", n == 1 ? "mounted on " : " and ", shown);
	}
	free(line);
	fclose(f);
	if (n > NAMED_MAX)
		add(l, " and %u more", n - NAMED_MAX);
	return n;
}

/* ---- processes */

static bool has_open(const struct holders_devs *v, const char *pid)
{
	char path[300];
	struct dirent *e;
	struct statx st;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (e = readdir(dir)))
		found = isdigit((unsigned char)e->d_name[0]) &&
			/* It may be a file of a server that does not answer. */
			statx(dirfd(dir), e->d_name, AT_STATX_DONT_SYNC, STATX_TYPE, &st) == 0 &&
			S_ISBLK(st.stx_mode) &&
			find(v, makedev(st.stx_rdev_major, st.stx_rdev_minor)) >= 0;
	closedir(dir);
	return found;
}

static void name_of(const char *pid, char *out, size_t size)
{
	char path[300], comm[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	out[0] = '\0';
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(comm, sizeof(comm), f))
		text_clean(out, size, comm, strcspn(comm, "\n"));
	fclose(f);
}

static unsigned int add_openers(const struct holders_devs *v, struct line *l)
{
	const char *sep = l->len ? "; open by PID " : "open by PID ";
	struct dirent *e;
	unsigned int n = 0;
	char name[64];
	DIR *dir = opendir("/proc");

	if (!dir)
		return 0;
	while ((e = readdir(dir))) {
		if (!isdigit((unsigned char)e->d_name[0]) || atoi(e->d_name) == getpid() ||
		    !has_open(v, e->d_name))
			continue;
		if (n++ >= NAMED_MAX)
			continue;
		name_of(e->d_name, name, sizeof(name));
		add(l, "%s%s (%s)", n > 1 ? ", " : sep, e->d_name, name);
	}
	closedir(dir);
	if (n > NAMED_MAX)
		add(l, " and %u more", n - NAMED_MAX);
	return n;
}

bool holders_describe_devs(struct holders_devs *v, unsigned int users, char *out, size_t size)
{
	struct line l = { .out = out, .size = size };
	unsigned int mounts, openers, mounted = 0;

	out[0] = '\0';
	memset(v->mounted, 0, sizeof(v->mounted));
	mounts = add_mounts(v, &l);
	openers = add_openers(v, &l);
	for (int i = 0; i < v->n; i++)
		mounted += v->mounted[i];
	/* A mounted file system is one of those whom the kernel counts. */
	if (!openers && users > mounted)
		add(&l, "%sopen by %u program%s", mounts ? "; " : "", users - mounted,
		    users - mounted == 1 ? "" : "s");
	return l.len;
}

bool holders_describe(const char *name, unsigned int users, char *out, size_t size)
{
	struct holders_devs v;

	holders_devs(name, &v);
	return holders_describe_devs(&v, users, out, size);
}

bool holders_mounts(const char *name, char *out, size_t size)
{
	struct line l = { .out = out, .size = size };
	struct holders_devs v;

	out[0] = '\0';
	holders_devs(name, &v);
	return add_mounts(&v, &l);
}
