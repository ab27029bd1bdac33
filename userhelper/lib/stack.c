// SPDX-License-Identifier: GPL-2.0-only
#include "stack.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "holders.h"

#define DEPTH_MAX	16	/* deeper than anybody stacks; a circle ends here */

struct walk {
	struct holders_devs devs;	/* of the drive */
	char *by;
	size_t size;
	int depth;
};

static int (*served_from)(const char *name);

static bool on_dev(struct walk *w, dev_t dev);
static bool on_path(struct walk *w, const char *path);
static bool on_fd(struct walk *w, int fd);

/* What was gone through is told from the top down. */
static bool through(struct walk *w, const char *name)
{
	char below[256];

	snprintf(below, sizeof(below), "%s", w->by);
	snprintf(w->by, w->size, "%.100s%s%.100s", name, below[0] ? ", " : "", below);
	return true;
}

static bool is_drive(const struct walk *w, dev_t dev)
{
	for (int i = 0; i < w->devs.n; i++)
		if (w->devs.dev[i] == dev)
			return true;
	return false;
}

static bool read_line(const char *path, char *out, size_t size)
{
	FILE *f = fopen(path, "re");
	bool got = f && fgets(out, size, f);

	if (f)
		fclose(f);
	if (got)
		out[strcspn(out, "\n")] = '\0';
	return got;
}

static bool dev_of(const char *path, dev_t *dev)
{
	unsigned int maj, min;
	char line[32];

	if (!read_line(path, line, sizeof(line)) || sscanf(line, "%u:%u", &maj, &min) != 2)
		return false;
	*dev = makedev(maj, min);
	return true;
}

/* Each entry of @dir is a device, with its number in the file dev. */
static bool on_any_of(struct walk *w, const char *dir)
{
	char path[800];
	struct dirent *e;
	bool found = false;
	DIR *d = opendir(dir);
	dev_t dev;

	while (d && !found && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%.500s/%.250s/dev", dir, e->d_name);
		found = dev_of(path, &dev) && on_dev(w, dev);
	}
	if (d)
		closedir(d);
	return found;
}

/* What the kernel calls it: where the link in /sys/dev/block leads. */
static const char *name_of(const char *dir, char target[PATH_MAX])
{
	ssize_t n = readlink(dir, target, PATH_MAX - 1);

	target[n > 0 ? n : 0] = '\0';
	return n > 0 ? basename(target) : dir;
}

static bool through_dev(struct walk *w, const char *dir)
{
	char target[PATH_MAX];

	return through(w, name_of(dir, target));
}

/* A program serves it, from something. */
static bool on_served(struct walk *w, const char *dir)
{
	char target[PATH_MAX];
	int fd = served_from ? served_from(name_of(dir, target)) : -1;
	bool found = fd >= 0 && on_fd(w, fd);

	if (fd >= 0)
		close(fd);
	return found;
}

/*
 * A loop device's file may have no name any more, or be another's behind a mount:
 * the device of its file system is told without one.
 */
static bool on_loop(struct walk *w, const char *dir)
{
	struct loop_info64 info;
	char path[128], line[4096];
	unsigned int min;
	bool got;
	int fd;

	snprintf(path, sizeof(path), "%s/loop/backing_file", dir);
	if (!read_line(path, line, sizeof(line)))
		return false;
	if (on_path(w, line))
		return true;
	if (sscanf(strchr(dir, ':') ?: "", ":%u", &min) != 1)
		return false;
	snprintf(path, sizeof(path), "/dev/loop%u", min);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = ioctl(fd, LOOP_GET_STATUS64, &info) == 0;
	close(fd);
	return got && on_dev(w, info.lo_rdevice ? info.lo_rdevice : info.lo_device);
}

static bool on_dev(struct walk *w, dev_t dev)
{
	char dir[64], path[128];
	bool found = false;
	dev_t disk;

	if (is_drive(w, dev))
		return true;
	if (w->depth >= DEPTH_MAX)
		return false;
	w->depth++;
	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	snprintf(path, sizeof(path), "%s/partition", dir);
	if (access(path, F_OK) == 0) {
		snprintf(path, sizeof(path), "%s/../dev", dir);
		found = dev_of(path, &disk) && on_dev(w, disk);
	}
	snprintf(path, sizeof(path), "%s/slaves", dir);
	if (!found)
		found = on_any_of(w, path);
	if (!found)
		found = on_loop(w, dir);
	if (!found)
		found = on_served(w, dir);
	w->depth--;
	return found && through_dev(w, dir);
}

static bool on_stat(struct walk *w, const struct stat *st)
{
	return on_dev(w, S_ISBLK(st->st_mode) ? st->st_rdev : st->st_dev);
}

/* ---- file systems whose superblock has no device's number */

/**
 * struct mount - a line of mountinfo
 * @options: of the superblock
 */
struct mount {
	int id;
	char type[32], source[4096], options[4096];
};

static bool find_mount(int id, struct mount *m)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	bool found = false;

	while (f && !found && getline(&line, &room, f) > 0) {
		char *rest = strstr(line, " - ");

		found = rest && sscanf(line, "%d", &m->id) == 1 && m->id == id &&
			sscanf(rest, " - %31s %4095s %4095s", m->type, m->source,
			       m->options) == 3;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* Any of the devices of the btrfs that has @dev. */
static bool on_btrfs(struct walk *w, dev_t dev)
{
	DIR *all = opendir("/sys/fs/btrfs");
	char dir[400], path[800];
	bool found = on_dev(w, dev);
	struct dirent *fs, *e;

	while (all && !found && (fs = readdir(all))) {
		bool ours = false;
		dev_t member;
		DIR *d;

		if (fs->d_name[0] == '.')
			continue;
		snprintf(dir, sizeof(dir), "/sys/fs/btrfs/%.250s/devices", fs->d_name);
		d = opendir(dir);
		while (d && !ours && (e = readdir(d))) {
			snprintf(path, sizeof(path), "%s/%.250s/dev", dir, e->d_name);
			ours = e->d_name[0] != '.' && dev_of(path, &member) && member == dev;
		}
		if (d)
			closedir(d);
		if (ours)
			found = on_any_of(w, dir) && through(w, "btrfs");
	}
	if (all)
		closedir(all);
	return found;
}

static bool on_overlay(struct walk *w, struct mount *m)
{
	char *upper = strstr(m->options, "upperdir=");

	if (!upper || (upper != m->options && upper[-1] != ','))
		return false;	/* nothing can be written there */
	upper += strlen("upperdir=");
	upper[strcspn(upper, ",")] = '\0';
	holders_unescape(upper);
	return on_path(w, upper) && through(w, "overlay");
}

static bool on_mount(struct walk *w, int id)
{
	struct mount *m = malloc(sizeof(*m));
	bool found = false;
	struct stat st;

	if (m && find_mount(id, m)) {
		holders_unescape(m->source);
		if (!strcmp(m->type, "overlay"))
			found = on_overlay(w, m);
		else if (!strcmp(m->type, "btrfs"))
			found = stat(m->source, &st) == 0 && S_ISBLK(st.st_mode) &&
				on_btrfs(w, st.st_rdev);
	}
	free(m);
	return found;
}

static bool on_fd(struct walk *w, int fd)
{
	struct statx x;
	struct stat st;
	bool found;

	if (fstat(fd, &st) < 0 || w->depth >= DEPTH_MAX)
		return false;
	if (S_ISBLK(st.st_mode) || major(st.st_dev))
		return on_stat(w, &st);
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &x) < 0 ||
	    !(x.stx_mask & STATX_MNT_ID))
		return false;
	w->depth++;
	found = on_mount(w, (int)x.stx_mnt_id);
	w->depth--;
	return found;
}

static bool on_path(struct walk *w, const char *path)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	bool found = fd >= 0 && on_fd(w, fd);

	if (fd >= 0)
		close(fd);
	return found;
}

bool stack_contains(int fd, const char *drive, char *by, size_t size)
{
	struct walk w = { .by = by, .size = size };

	by[0] = '\0';
	holders_devs(drive, &w.devs);
	return on_fd(&w, fd);
}

void stack_on_below(int (*fn)(const char *name))
{
	served_from = fn;
}
