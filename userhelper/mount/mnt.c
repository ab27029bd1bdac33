// SPDX-License-Identifier: GPL-2.0-only
#include "mnt.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* <sys/mount.h> cannot be had beside <linux/mount.h> in every C library. */
extern int umount2(const char *path, int flags);
#define UMOUNT_DETACH	2
#define UMOUNT_NOLINK	8

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW	0x00200000
#endif

static int fs_set(int fd, unsigned int cmd, const char *key, const char *value)
{
	return syscall(SYS_fsconfig, fd, cmd, key, value, 0) < 0 ? -errno : 0;
}

static int fs_option(int fd, const char *key, const char *value)
{
	return fs_set(fd, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value);
}

/* Options that are the mount's, not the file system's: what they change. */
static const struct {
	const char *key;
	unsigned int set, clear;
} attributes[] = {
	{ "exec", 0, MOUNT_ATTR_NOEXEC },	{ "noexec", MOUNT_ATTR_NOEXEC, 0 },
	{ "suid", 0, MOUNT_ATTR_NOSUID },	{ "nosuid", MOUNT_ATTR_NOSUID, 0 },
	{ "dev", 0, MOUNT_ATTR_NODEV },		{ "nodev", MOUNT_ATTR_NODEV, 0 },
	{ "nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0 },
	{ "noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME },
	{ "nodiratime", MOUNT_ATTR_NODIRATIME, 0 },
	{ "ro", MOUNT_ATTR_RDONLY, 0 },
};

static bool take_attribute(const char *key, unsigned int *attr)
{
	for (size_t i = 0; i < sizeof(attributes) / sizeof(attributes[0]); i++) {
		if (strcmp(attributes[i].key, key))
			continue;
		*attr = (*attr & ~attributes[i].clear) | attributes[i].set;
		return true;
	}
	return false;
}

/*
 * What a stranger's file system must not decide, or what makes its names
 * readable. An ext4 can ask for a panic when it finds itself damaged, and a
 * read-only mount writes to the medium unless it leaves the journal alone.
 */
static int own_options(int fd, const char *type, bool writable)
{
	int r = 0;

	if (!strcmp(type, "ext4") || !strcmp(type, "ext3") || !strcmp(type, "ext2"))
		r = fs_option(fd, "errors", "remount-ro");
	if (r == 0 && !writable && (!strcmp(type, "ext4") || !strcmp(type, "ext3")))
		r = fs_option(fd, "noload", NULL);
	if (!strcmp(type, "vfat"))
		r = fs_option(fd, "utf8", "1");
	/* Whose they were where the image was made means nothing here. */
	if (!strcmp(type, "iso9660") || !strcmp(type, "udf")) {
		r = fs_option(fd, "mode", "0444");
		if (r == 0)
			r = fs_option(fd, "dmode", "0555");
	}
	if (r == 0 && !strcmp(type, "iso9660"))
		r = fs_option(fd, "overriderockperm", NULL);
	return r;
}

static int user_options(int fd, const char *type, const struct conf *c, unsigned int *attr,
			const char **which)
{
	for (unsigned int i = 0; i < c->n_options; i++) {
		const struct conf_option *o = &c->option[i];
		int r;

		if (o->type[0] && strcmp(o->type, type))
			continue;
		if (!o->value && take_attribute(o->key, attr))
			continue;
		r = fs_option(fd, o->key, o->value);
		if (r < 0) {
			*which = o->key;
			return r;
		}
	}
	return 0;
}

/* The kernel's own words, one message a read: "e reason". */
static void kernel_says(int fd, char *out, size_t size)
{
	char line[256];
	ssize_t n = read(fd, line, sizeof(line) - 1);

	if (n <= 2)
		return;
	line[n] = '\0';
	line[strcspn(line, "\n")] = '\0';
	snprintf(out, size, ": %s", line + 2);
}

static int configure(int fd, const char *type, const char *source, bool writable,
		     const struct conf *c, unsigned int *attr, const char **what)
{
	int r;

	*what = "its source";
	r = fs_set(fd, FSCONFIG_SET_STRING, "source", source);
	if (r == 0 && !writable)
		r = fs_set(fd, FSCONFIG_SET_FLAG, "ro", NULL);
	if (r < 0)
		return r;
	*what = "its options";
	r = own_options(fd, type, writable);
	if (r == 0)
		r = user_options(fd, type, c, attr, what);
	if (r < 0)
		return r;
	*what = NULL;
	return fs_set(fd, FSCONFIG_CMD_CREATE, NULL, NULL);
}

int mnt_new(const char *type, const char *source, bool writable, const struct conf *c, char *err,
	    size_t size)
{
	unsigned int attr = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	const char *what = NULL;
	char detail[256] = "";
	int fd, m = -1, r;

	fd = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	if (fd < 0) {
		r = -errno;
		snprintf(err, size, r == -ENODEV ? "this kernel has no %s" : "%s cannot be used",
			 type);
		return r;
	}
	if (!writable)
		attr |= MOUNT_ATTR_RDONLY;
	r = configure(fd, type, source, writable, c, &attr, &what);
	if (r == 0) {
		m = syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attr);
		r = m < 0 ? -errno : m;
	}
	if (r < 0) {
		kernel_says(fd, detail, sizeof(detail));
		if (what)
			snprintf(err, size, "the kernel does not take %s%s%s (%s)",
				 strncmp(what, "its ", 4) ? "the option " : "", what, detail,
				 strerror(-r));
		else
			snprintf(err, size, "%s cannot be mounted%s (%s; the kernel's log may say "
				 "more)", type, detail, strerror(-r));
	}
	close(fd);
	return r;
}

static int mount_id(int fd, int *id)
{
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) < 0)
		return -errno;
	if (!(sx.stx_mask & STATX_MNT_ID))
		return -ENOSYS;
	*id = sx.stx_mnt_id;
	return 0;
}

int mnt_attach(struct mnt *m, int fd, int at)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != m->dev)
		return -ENODEV;
	r = mount_id(fd, &m->id);
	if (r < 0)
		return r;
	if (syscall(SYS_move_mount, fd, "", at, "",
		    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return -errno;
	return 0;
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

/* One line of mountinfo: @id 0 is any, @path NULL is any. */
static bool line_is(const char *line, int *id, dev_t dev, const char *path)
{
	unsigned int maj, min;
	char where[4096];
	int n;

	if (sscanf(line, "%d %*d %u:%u %*s %4095s", &n, &maj, &min, where) != 4 ||
	    makedev(maj, min) != dev || (*id && n != *id))
		return false;
	unescape(where);
	if (path && strcmp(where, path))
		return false;
	*id = n;
	return true;
}

static bool search(int *id, dev_t dev, const char *path)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[8192];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = line_is(line, id, dev, path);
	if (f)
		fclose(f);
	return found;
}

bool mnt_mounted(const struct mnt *m)
{
	int id = m->id;

	return search(&id, m->dev, NULL);
}

bool mnt_find(struct mnt *m, const char *path)
{
	m->id = 0;
	snprintf(m->path, sizeof(m->path), "%s", path);
	return search(&m->id, m->dev, m->path);
}

int mnt_away(const struct mnt *m, bool detach)
{
	if (m->writable && !detach) {
		int fd = open(m->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

		if (fd >= 0) {
			(void)syncfs(fd);
			close(fd);
		}
	}
	if (umount2(m->path, UMOUNT_NOLINK | (detach ? UMOUNT_DETACH : 0)) < 0)
		return -errno;
	return 0;
}
