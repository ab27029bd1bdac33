// SPDX-License-Identifier: GPL-2.0-only
/*
 * The one program of the guest of selftests/e2e/qemu-guest.py: its init. Loads
 * the modules in /modules, then on the second serial port tells of uevents of
 * block devices, and takes commands, one answer each:
 *
 *	status DEV	what CDROM_DRIVE_STATUS says
 *	sum DEV		size, and the Adler-32 of all of it, from the drive
 *	eject DEV	unlock the door, and eject
 *	load DEV	close the tray
 *	path DEV	where sysfs has it
 *	mount DEV	iso9660, on /mnt
 *	list		what lies in /mnt
 *	umount
 *	write DEV N C	the character C, all over block N of 4 KiB, and sync
 *
 * A failed call's answer is "error" and its text.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <linux/cdrom.h>
#include <linux/netlink.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static FILE *out;

static int fail(const char *what)
{
	fprintf(out, "error %s: %s\n", what, strerror(errno));
	return -1;
}

static int open_dev(const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/%s", name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		fail("open");
	return fd;
}

static void do_status(const char *dev)
{
	static const char * const text[] = {
		[CDS_NO_INFO] = "no-info", [CDS_NO_DISC] = "no-disc",
		[CDS_TRAY_OPEN] = "tray-open", [CDS_DRIVE_NOT_READY] = "not-ready",
		[CDS_DISC_OK] = "disc-ok",
	};
	int fd = open_dev(dev, O_RDONLY | O_NONBLOCK);
	int r;

	if (fd < 0)
		return;
	r = ioctl(fd, CDROM_DRIVE_STATUS, CDSL_CURRENT);
	if (r < 0)
		fail("CDROM_DRIVE_STATUS");
	else
		fprintf(out, "%s\n", r < 5 ? text[r] : "?");
	close(fd);
}

static void do_sum(const char *dev)
{
	static unsigned char buf[65536];
	unsigned long long size = 0;
	unsigned int a = 1, b = 0;
	int fd = open_dev(dev, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return;
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			a += buf[i];
			a -= a >= 65521 ? 65521 : 0;
			b = (b + a) % 65521;
		}
		size += n;
	}
	if (n < 0)
		fail("read");
	else
		fprintf(out, "%llu %u\n", size, b << 16 | a);
	close(fd);
}

static void do_tray(const char *dev, int eject)
{
	int fd = open_dev(dev, O_RDONLY | O_NONBLOCK);

	if (fd < 0)
		return;
	if (eject && ioctl(fd, CDROM_LOCKDOOR, 0) < 0)
		fail("CDROM_LOCKDOOR");
	else if (ioctl(fd, eject ? CDROMEJECT : CDROMCLOSETRAY, 0) < 0)
		fail(eject ? "CDROMEJECT" : "CDROMCLOSETRAY");
	else
		fprintf(out, "done\n");
	close(fd);
}

static void do_mount(const char *dev)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/%s", dev);
	if (mount(path, "/mnt", "iso9660", MS_RDONLY, NULL) < 0)
		fail("mount");
	else
		fprintf(out, "done\n");
}

static void do_path(const char *dev)
{
	char path[64], to[512];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/block/%s", dev);
	n = readlink(path, to, sizeof(to));
	if (n < 0)
		fail("readlink");
	else
		fprintf(out, "%.*s\n", (int)n, to);
}

static void do_umount(void)
{
	if (umount("/mnt") < 0)
		fail("umount");
	else
		fprintf(out, "done\n");
}

static void do_list(void)
{
	DIR *d = opendir("/mnt");
	struct dirent *e;

	if (!d) {
		fail("opendir");
		return;
	}
	while ((e = readdir(d)))
		if (*e->d_name != '.')
			fprintf(out, "%s ", e->d_name);
	fprintf(out, "\n");
	closedir(d);
}

static void do_write(const char *dev, unsigned int block, int c)
{
	char buf[4096];
	int fd = open_dev(dev, O_WRONLY);

	if (fd < 0)
		return;
	memset(buf, c, sizeof(buf));
	if (pwrite(fd, buf, sizeof(buf), block * 4096ULL) != sizeof(buf) || fsync(fd) < 0)
		fail("write");
	else
		fprintf(out, "done\n");
	close(fd);
}

static void command(char *line)
{
	char verb[16] = "", dev[32] = "", c = 0;
	unsigned int n = 0;

	sscanf(line, "%15s %31s %u %c", verb, dev, &n, &c);
	if (!strcmp(verb, "status"))
		do_status(dev);
	else if (!strcmp(verb, "sum"))
		do_sum(dev);
	else if (!strcmp(verb, "eject") || !strcmp(verb, "load"))
		do_tray(dev, *verb == 'e');
	else if (!strcmp(verb, "path"))
		do_path(dev);
	else if (!strcmp(verb, "mount"))
		do_mount(dev);
	else if (!strcmp(verb, "umount"))
		do_umount();
	else if (!strcmp(verb, "list"))
		do_list();
	else if (!strcmp(verb, "write"))
		do_write(dev, n, c);
	else
		fprintf(out, "error unknown command\n");
	fflush(out);
}

/* "uevent ACTION DEVNAME", and the words a media change or request comes with */
static void uevent(int fd)
{
	char buf[8192];
	ssize_t n = recv(fd, buf, sizeof(buf) - 1, 0);
	const char *action = "", *name = "", *subsystem = "", *what = "";

	if (n <= 0)
		return;
	buf[n] = 0;
	for (char *p = buf; p < buf + n; p += strlen(p) + 1) {
		if (!strncmp(p, "ACTION=", 7))
			action = p + 7;
		else if (!strncmp(p, "DEVNAME=", 8))
			name = p + 8;
		else if (!strncmp(p, "SUBSYSTEM=", 10))
			subsystem = p + 10;
		else if (!strncmp(p, "DISK_", 5))
			what = p;
	}
	if (strcmp(subsystem, "block"))
		return;
	fprintf(out, "uevent %s %s %s\n", action, name, what);
	fflush(out);
}

static int compare(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void load_modules(void)
{
	struct dirent **e;
	int n = scandir("/modules", &e, NULL, compare);

	for (int i = 0; i < n; i++) {
		char path[300];
		int fd;

		if (*e[i]->d_name == '.')
			continue;
		snprintf(path, sizeof(path), "/modules/%s", e[i]->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (syscall(SYS_finit_module, fd, "", 0) < 0)
			fprintf(stderr, "%s: %s\n", path, strerror(errno));
		close(fd);
	}
}

static int open_port(void)
{
	struct termios t;
	int fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd >= 0 && tcgetattr(fd, &t) == 0) {
		cfmakeraw(&t);
		cfsetspeed(&t, B115200);
		tcsetattr(fd, TCSANOW, &t);
	}
	return fd;
}

static int open_uevents(void)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	int size = 1 << 20;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		perror("uevents");
	return fd;
}

int main(void)
{
	char line[256];
	size_t have = 0;
	struct pollfd p[2];

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	p[0] = (struct pollfd){ .fd = open_port(), .events = POLLIN };
	p[1] = (struct pollfd){ .fd = open_uevents(), .events = POLLIN };
	out = fdopen(dup(p[0].fd), "w");
	if (!out)
		return 1;
	load_modules();
	fprintf(out, "guest up\n");
	fflush(out);
	for (;;) {
		char c;

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents)
			uevent(p[1].fd);
		if (!p[0].revents || read(p[0].fd, &c, 1) != 1)
			continue;
		if (c != '\n' && have < sizeof(line) - 1) {
			line[have++] = c;
			continue;
		}
		line[have] = 0;
		have = 0;
		command(line);
	}
}
