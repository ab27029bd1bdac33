// SPDX-License-Identifier: GPL-2.0-only
/* Who has a drive, or a partition of it: mounts, and open files of processes. */
#include "ctl.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEVS_MAX	260	/* the drive and its partitions */
#define NAMED_MAX	4	/* of each sort; the others are counted */

struct devs {
	dev_t dev[DEVS_MAX];
	int n;
};

static void add_dev(struct devs *v, const char *path)
{
	unsigned int maj, min;
	FILE *f = fopen(path, "re");

	if (!f)
		return;
	if (fscanf(f, "%u:%u", &maj, &min) == 2 && v->n < DEVS_MAX)
		v->dev[v->n++] = makedev(maj, min);
	fclose(f);
}

static void find_devs(const struct kernel_drive *d, struct devs *v)
{
	size_t len = strlen(d->name);
	char path[512];
	struct dirent *e;
	DIR *dir;

	v->n = 0;
	v->dev[v->n++] = makedev(d->major, d->minor);
	snprintf(path, sizeof(path), "/sys/block/%s", d->name);
	dir = opendir(path);
	if (!dir)
		return;
	while ((e = readdir(dir))) {
		if (strncmp(e->d_name, d->name, len) || e->d_name[len] != 'p')
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/%s/dev", d->name, e->d_name);
		add_dev(v, path);
	}
	closedir(dir);
}

static bool has(const struct devs *v, dev_t dev)
{
	for (int i = 0; i < v->n; i++)
		if (v->dev[i] == dev)
			return true;
	return false;
}

/* mountinfo writes space, tab, line feed and backslash as \ooo. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (s[0] == '\\' && isdigit(s[1]) && isdigit(s[2]) && isdigit(s[3])) {
			*to++ = (s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0');
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

static void find_mounts(const struct devs *v, GString *out, bool *any)
{
	unsigned int maj, min, n = 0;
	char line[8192], where[4096];
	FILE *f = fopen("/proc/self/mountinfo", "re");

	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &maj, &min, where) != 3 ||
		    !has(v, makedev(maj, min)))
			continue;
		*any = true;
		if (n++ >= NAMED_MAX)
			continue;
		unescape(where);
		g_string_append_printf(out, "%s%s", n == 1 ? "mounted on " : " and ", clean(where));
	}
	fclose(f);
	if (n > NAMED_MAX)
		g_string_append_printf(out, " and %u more", n - NAMED_MAX);
}

static bool has_open(const struct devs *v, const char *pid)
{
	char path[300];
	struct dirent *e;
	struct stat st;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (e = readdir(dir)))
		found = isdigit((unsigned char)e->d_name[0]) &&
			fstatat(dirfd(dir), e->d_name, &st, 0) == 0 &&
			S_ISBLK(st.st_mode) && has(v, st.st_rdev);
	closedir(dir);
	return found;
}

static void name_of(const char *pid, char *out, size_t size)
{
	char path[300];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	out[0] = '\0';
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(out, size, f))
		out[strcspn(out, "\n")] = '\0';
	fclose(f);
}

static void find_openers(const struct devs *v, GString *out, bool *any)
{
	struct dirent *e;
	unsigned int n = 0;
	char name[64];
	DIR *dir = opendir("/proc");

	if (!dir)
		return;
	while ((e = readdir(dir))) {
		if (!isdigit((unsigned char)e->d_name[0]) || atoi(e->d_name) == getpid() ||
		    !has_open(v, e->d_name))
			continue;
		*any = true;
		if (n++ >= NAMED_MAX)
			continue;
		name_of(e->d_name, name, sizeof(name));
		g_string_append_printf(out, "%s%s (%s)",
				       n > 1 ? ", " : out->len ? ", open by PID " : "open by PID ",
				       e->d_name, clean(name));
	}
	closedir(dir);
	if (n > NAMED_MAX)
		g_string_append_printf(out, " and %u more", n - NAMED_MAX);
}

/*
 * False when nobody was found: it may be another mount namespace's mount, swap,
 * or a device stacked on it.
 */
bool holders_describe(const struct kernel_drive *d, char *out, size_t size)
{
	g_autoptr(GString) text = g_string_new(NULL);
	bool any = false;
	struct devs v;

	find_devs(d, &v);
	find_mounts(&v, text, &any);
	find_openers(&v, text, &any);
	snprintf(out, size, "%s", text->str);
	return any;
}
