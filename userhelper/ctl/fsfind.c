// SPDX-License-Identifier: GPL-2.0-only
/* What is mounted from a drive, and what is stacked on it. */
#include "freeze.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "holders.h"
#include "text.h"

#define NAMESPACES_MAX	256

static bool has(const struct holders_devs *v, dev_t dev)
{
	for (int i = 0; i < v->n; i++)
		if (v->dev[i] == dev)
			return true;
	return false;
}

static int refuse(struct fault *f, const char *drive, const char *by)
{
	char shown[200];

	text_clean(shown, sizeof(shown), by, strlen(by));
	fault_set(f, EXIT_REFUSED, "%s: %s is stacked on it: freeze what lies on that by its own "
		  "means (fsfreeze), then the drive without --fs", drive, shown);
	return -EBUSY;
}

/* ---- mounts */

/**
 * struct mount - a line of mountinfo
 * @source: a device, for those whose superblock has no device's number
 */
struct mount {
	int id;
	unsigned int major, minor;
	char where[4096], type[32], source[4096];
	bool read_only;
};

static bool parse_mount(char *line, struct mount *m)
{
	char *rest = strstr(line, " - "), super[256];

	if (!rest || sscanf(line, "%d %*d %u:%u %*s %4095s", &m->id, &m->major, &m->minor,
			    m->where) != 4)
		return false;
	if (sscanf(rest, " - %31s %4095s %255s", m->type, m->source, super) != 3)
		return false;
	m->read_only = !strncmp(super, "ro", 2) && (super[2] == ',' || !super[2]);
	holders_unescape(m->where);
	holders_unescape(m->source);
	return true;
}

static bool is_ours(const struct holders_devs *v, const struct mount *m)
{
	struct stat st;

	if (m->major)
		return has(v, makedev(m->major, m->minor));
	/* Of others anybody may say what their source is. */
	if (strcmp(m->type, "btrfs"))
		return false;
	return m->source[0] == '/' && stat(m->source, &st) == 0 && S_ISBLK(st.st_mode) &&
	       has(v, st.st_rdev);
}

/* Another mount may lie over it. */
static bool is_mount(int fd, int id)
{
	char path[64], line[128];
	bool same = false;
	int got;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "mnt_id: %d", &got) == 1)
			same = got == id;
	if (f)
		fclose(f);
	return same;
}

static int open_mount(const char *root, const struct mount *m)
{
	char path[4200];
	int fd;

	snprintf(path, sizeof(path), "%s%s", root, m->where);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
	if (fd < 0 || is_mount(fd, m->id))
		return fd;
	close(fd);
	return -1;
}

/* The superblock counts, of which one open place is enough. */
static int take(struct fs_list *l, const char *root, const struct mount *m)
{
	dev_t dev = makedev(m->major, m->minor);
	unsigned int i = 0;

	while (i < l->n && l->of[i].dev != dev)
		i++;
	if (i == l->n) {
		if (l->n == FS_MAX)
			return -E2BIG;
		l->n++;
		l->of[i].dev = dev;
		l->of[i].fd = -1;
		snprintf(l->of[i].type, sizeof(l->of[i].type), "%s", m->type);
		text_clean(l->of[i].where, sizeof(l->of[i].where), m->where, strlen(m->where));
	}
	if (l->of[i].fd < 0)
		l->of[i].fd = open_mount(root, m);
	return 0;
}

static int read_mounts(const char *pid, const struct holders_devs *v, struct fs_list *l)
{
	char path[64], root[64], *line = NULL;
	struct mount *m = g_new(struct mount, 1);
	size_t room = 0;
	FILE *f;
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%s/mountinfo", pid);
	snprintf(root, sizeof(root), "/proc/%s/root", pid);
	f = fopen(path, "re");
	while (f && !r && getline(&line, &room, f) > 0)
		if (parse_mount(line, m) && !m->read_only && is_ours(v, m))
			r = take(l, strcmp(pid, "self") ? root : "", m);
	free(line);
	if (f)
		fclose(f);
	g_free(m);
	return r;
}

static bool namespace_of(const char *pid, ino_t *ino)
{
	char path[300];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%s/ns/mnt", pid);
	if (stat(path, &st) < 0)
		return false;
	*ino = st.st_ino;
	return true;
}

static int read_namespaces(const struct holders_devs *v, struct fs_list *l)
{
	ino_t seen[NAMESPACES_MAX], ino;
	unsigned int n = 0, i;
	struct dirent *e;
	DIR *dir;
	int r = read_mounts("self", v, l);

	if (namespace_of("self", &ino))
		seen[n++] = ino;
	dir = opendir("/proc");
	while (dir && !r && (e = readdir(dir))) {
		if (!isdigit((unsigned char)e->d_name[0]) || strlen(e->d_name) > 10 ||
		    !namespace_of(e->d_name, &ino))
			continue;
		for (i = 0; i < n && seen[i] != ino; i++)
			;
		if (i < n)
			continue;
		if (n == NAMESPACES_MAX)
			r = -E2BIG;
		else
			seen[n++] = ino;
		if (!r)
			r = read_mounts(e->d_name, v, l);
	}
	if (dir)
		closedir(dir);
	return r;
}

int fs_find(const char *drive, struct fs_list *l, struct fault *f)
{
	struct holders_devs v;
	int r;

	memset(l, 0, sizeof(*l));
	holders_devs(drive, &v);
	r = read_namespaces(&v, l);
	if (r < 0) {
		fault_set(f, EXIT_REFUSED, "%s: more mounts than can be looked at", drive);
		return r;
	}
	for (unsigned int i = 0; i < l->n; i++)
		if (l->of[i].fd < 0) {
			fault_set(f, EXIT_REFUSED, "%s: %s, mounted on %s, cannot be reached there: "
				  "unmount what is mounted over it", drive, l->of[i].type,
				  l->of[i].where);
			return -EBUSY;
		}
	return 0;
}

void fs_close(struct fs_list *l)
{
	for (unsigned int i = 0; i < l->n; i++)
		if (l->of[i].fd >= 0)
			close(l->of[i].fd);
	l->n = 0;
}

/* ---- what is stacked */

static bool first_line(const char *path, char *out, size_t size)
{
	FILE *f = fopen(path, "re");
	bool got = f && fgets(out, size, f);

	if (f)
		fclose(f);
	if (got)
		out[strcspn(out, "\n")] = '\0';
	return got;
}

/* Calls @fn for each entry of a directory until one returns other than 0. */
static int each(const char *path, int (*fn)(const char *path, const char *name, void *arg),
		void *arg)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int r = 0;

	while (dir && !r && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			r = fn(path, e->d_name, arg);
	if (dir)
		closedir(dir);
	return r;
}

struct stack {
	const char *drive;
	struct holders_devs devs;
	struct fault *f;
	bool ours;
	unsigned int others;
	char other[64];		/* one of them */
	char text[200];
};

static int a_holder(const char *path, const char *name, void *arg)
{
	struct stack *s = arg;
	char file[700], dm[128] = "";

	snprintf(file, sizeof(file), "/sys/block/%.100s/dm/name", name);
	if (first_line(file, dm, sizeof(dm)))
		snprintf(s->text, sizeof(s->text), "%.60s (device mapper %.100s)", name, dm);
	else
		snprintf(s->text, sizeof(s->text), "%.100s", name);
	return refuse(s->f, s->drive, s->text);
}

static int a_partition(const char *path, const char *name, void *arg)
{
	struct stack *s = arg;
	size_t len = strlen(s->drive);
	char dir[700];

	if (strncmp(name, s->drive, len) || name[len] != 'p')
		return 0;
	snprintf(dir, sizeof(dir), "%.300s/%.200s/holders", path, name);
	return each(dir, a_holder, s);
}

static int a_loop(const char *path, const char *name, void *arg)
{
	struct stack *s = arg;
	char file[700], backing[4096];
	struct stat st;

	if (strncmp(name, "loop", 4))
		return 0;
	snprintf(file, sizeof(file), "%.300s/%.200s/loop/backing_file", path, name);
	if (!first_line(file, backing, sizeof(backing)) || stat(backing, &st) < 0 ||
	    !has(&s->devs, S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev))
		return 0;
	snprintf(s->text, sizeof(s->text), "%.60s (%.120s)", name, backing);
	return refuse(s->f, s->drive, s->text);
}

static int a_device(const char *path, const char *name, void *arg)
{
	struct stack *s = arg;
	unsigned int maj, min;
	char file[700], dev[32];

	snprintf(file, sizeof(file), "%.400s/%.200s/dev", path, name);
	if (first_line(file, dev, sizeof(dev)) && sscanf(dev, "%u:%u", &maj, &min) == 2 &&
	    has(&s->devs, makedev(maj, min))) {
		s->ours = true;
	} else {
		s->others++;
		snprintf(s->other, sizeof(s->other), "%.63s", name);
	}
	return 0;
}

static int a_btrfs(const char *path, const char *name, void *arg)
{
	struct stack *s = arg;
	char dir[700];

	s->ours = false;
	s->others = 0;
	snprintf(dir, sizeof(dir), "%.300s/%.200s/devices", path, name);
	each(dir, a_device, s);
	if (!s->ours || !s->others)
		return 0;
	snprintf(s->text, sizeof(s->text), "a btrfs that lies on %s%s, too,", s->other,
		 s->others > 1 ? " and others" : "");
	return refuse(s->f, s->drive, s->text);
}

static int a_swap(struct stack *s)
{
	char line[4200], path[4096];
	FILE *f = fopen("/proc/swaps", "re");
	struct stat st;
	int r = 0;

	while (f && !r && fgets(line, sizeof(line), f)) {
		if (line[0] != '/' || sscanf(line, "%4095s", path) != 1)
			continue;
		holders_unescape(path);
		if (stat(path, &st) == 0 &&
		    has(&s->devs, S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev))
			r = refuse(s->f, s->drive, "swap");
	}
	if (f)
		fclose(f);
	return r;
}

int fs_stacked(const char *drive, struct fault *f)
{
	struct stack s = { .drive = drive, .f = f };
	char path[300];
	int r;

	holders_devs(drive, &s.devs);
	snprintf(path, sizeof(path), "/sys/block/%.64s/holders", drive);
	r = each(path, a_holder, &s);
	snprintf(path, sizeof(path), "/sys/block/%.64s", drive);
	if (!r)
		r = each(path, a_partition, &s);
	if (!r)
		r = each("/sys/block", a_loop, &s);
	if (!r)
		r = each("/sys/fs/btrfs", a_btrfs, &s);
	return r ? r : a_swap(&s);
}
