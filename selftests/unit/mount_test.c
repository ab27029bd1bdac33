// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-mount without a mount: automount.conf, what is mounted and what is
 * not, names of mount points, names of devices.
 *
 * BUILD: gcc -std=gnu11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Wno-sign-compare -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib -Iuserhelper/mount selftests/unit/mount_test.c userhelper/mount/conf.c userhelper/mount/decide.c userhelper/mount/name.c userhelper/mount/device.c userhelper/lib/text.c
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf.h"
#include "decide.h"
#include "device.h"
#include "name.h"
#include "text.h"

static int checks_failed;

#define CHECK(cond) do { \
	if (!(cond)) { \
		printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond); \
		checks_failed++; \
	} \
} while (0)

static struct conf c;
static char err[400];

static bool parse(const char *text)
{
	conf_init(&c);
	err[0] = '\0';
	return conf_parse(&c, "f", text, err, sizeof(err));
}

static void test_conf_defaults(void)
{
	CHECK(parse(""));
	CHECK(c.enable && !c.disk_writable && c.owner == OWNER_AUTO);
	CHECK(!strcmp(c.place, "/run/media/spicebd") && !c.n_options);
	CHECK(conf_allows(&c, "iso9660", true) && conf_allows(&c, "iso9660", false));
	CHECK(conf_allows(&c, "vfat", true) && conf_allows(&c, "udf", true));
	CHECK(conf_allows(&c, "ext4", false) && !conf_allows(&c, "ext4", true));
	CHECK(!conf_allows(&c, "btrfs", false) && !conf_allows(&c, "", false));
}

static void test_conf_values(void)
{
	CHECK(parse(" # a comment\n\nenable = no\ndisk-writable=yes\r\nowner=udisks\n"
		    "place=/mnt/x//\ntypes= disk:xfs, cdrom:udf  vfat\n"
		    "options=exec,uid=1000 vfat:umask=000 ext4:noauto_da_alloc"));
	CHECK(!c.enable && c.disk_writable && c.owner == OWNER_UDISKS);
	CHECK(!strcmp(c.place, "/mnt/x"));
	CHECK(c.n_types == 3 && conf_allows(&c, "xfs", false) && !conf_allows(&c, "xfs", true));
	CHECK(conf_allows(&c, "udf", true) && !conf_allows(&c, "udf", false));
	CHECK(!conf_allows(&c, "iso9660", true));
	CHECK(c.n_options == 4 && !strcmp(c.option[0].key, "exec") && !c.option[0].value);
	CHECK(!strcmp(c.option[1].key, "uid") && !strcmp(c.option[1].value, "1000"));
	CHECK(!strcmp(c.option[2].type, "vfat") && !strcmp(c.option[2].value, "000"));
	CHECK(!strcmp(c.option[3].type, "ext4") && !c.option[3].value);
	CHECK(parse("types=") && !c.n_types && parse("options=a\noptions=b") && c.n_options == 1);
}

static void test_conf_refused(void)
{
	static const char * const bad[] = {
		"enable=maybe", "enabled=yes", "enable", "=yes", "owner=me", "place=media",
		"place=/", "place=/a/../b", "place=/a/./b", "place=/a/..", "place=/a//b",
		"place=", "types=EXT4", "types=disk:", "types=a/b", "types=abcdefghijklmnop",
		"options==x", "options=a$b", "options=:x", "options=vfat:", "options=k=a b=c\"d",
		"options=a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q",
		"types=a b c d e f g h i j k l m n o p q",
	};
	static char line[3000];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		bool ok = parse(bad[i]);

		if (ok)
			printf("# taken: %s\n", bad[i]);
		CHECK(!ok && !strncmp(err, "f:1: ", 5) && !strchr(err, '\n'));
	}
	memset(line, 'x', sizeof(line) - 1);
	CHECK(!parse(line));
	memcpy(line, "place=/", 7);
	line[1000] = '\0';
	CHECK(!parse(line) && !parse("enable=yes\n\nbad=1") && !strncmp(err, "f:3: ", 5));
}

static void test_conf_file(void)
{
	char path[] = "/tmp/mount_test.XXXXXX";
	int fd = mkstemp(path);

	CHECK(fd >= 0 && write(fd, "enable=no\n", 10) == 10);
	CHECK(conf_load(&c, "/nonexistent", err, sizeof(err)) && c.enable);
	CHECK(conf_load(&c, path, err, sizeof(err)) == (getuid() == 0) && c.enable == (getuid() != 0));
	fchmod(fd, 0620);
	CHECK(!conf_load(&c, path, err, sizeof(err)) && strstr(err, "root alone"));
	fchmod(fd, 0644);
	CHECK(write(fd, "x=\0", 3) == 3 && !conf_load(&c, path, err, sizeof(err)));
	CHECK(ftruncate(fd, 70000) == 0 && !conf_load(&c, path, err, sizeof(err)));
	CHECK(!conf_load(&c, "/tmp", err, sizeof(err)) && strstr(err, "root alone"));
	close(fd);
	unlink(path);
}

static struct found found(const char *table, const char *a, const char *b)
{
	struct found f = { .n = !!a + !!b };

	strcpy(f.table, table);
	strcpy(f.sig[0].type, a ? a : "");
	strcpy(f.sig[1].type, b ? b : "");
	return f;
}

static enum verdict judge(struct found here, const struct found *whole, bool cdrom, const char *type)
{
	static struct found kept;
	struct decision d;

	kept = here;
	CHECK(found_valid(&kept));
	decide(&d, &c, &kept, whole, cdrom);
	CHECK((d.verdict == MOUNT_IT) == (d.sig != NULL) && (d.sig != NULL) != (d.why[0] != '\0'));
	CHECK(!type || (d.sig && !strcmp(d.sig->type, type)));
	return d.verdict;
}

static void test_decide(void)
{
	struct found none = found("", NULL, NULL), table = found("gpt", NULL, NULL);
	struct found iso = found("dos", "iso9660", NULL), ext = found("dos", "ext4", NULL);

	parse("");
	CHECK(judge(none, NULL, false, NULL) == LEAVE_IT);
	CHECK(judge(table, NULL, false, NULL) == LEAVE_IT);
	CHECK(judge(found("", "iso9660", NULL), NULL, true, "iso9660") == MOUNT_IT);
	CHECK(judge(found("", "iso9660", "udf"), NULL, true, "udf") == MOUNT_IT);
	CHECK(judge(found("", "udf", "iso9660"), NULL, false, "udf") == MOUNT_IT);
	/* an image that is a disk as well */
	CHECK(judge(iso, NULL, false, "iso9660") == MOUNT_IT);
	CHECK(judge(found("", "vfat", NULL), &iso, false, NULL) == LEAVE_IT);
	CHECK(judge(found("", "vfat", NULL), &table, false, "vfat") == MOUNT_IT);
	/* what can be taken for two things */
	CHECK(judge(ext, NULL, false, NULL) == REFUSE_IT);
	CHECK(judge(found("", "vfat", NULL), &ext, false, NULL) == REFUSE_IT);
	CHECK(judge(found("", "ext4", "btrfs"), NULL, false, NULL) == REFUSE_IT);
	CHECK(judge(found("", "iso9660", "ext4"), NULL, false, NULL) == REFUSE_IT);
	CHECK(judge(found("", "vfat", "linux_raid_member"), &table, false, NULL) == REFUSE_IT);
	/* what is not on the list */
	CHECK(judge(found("", "ext4", NULL), NULL, true, NULL) == REFUSE_IT);
	CHECK(judge(found("", "LVM2_member", NULL), NULL, false, NULL) == REFUSE_IT);
	CHECK(judge(found("", "swap", NULL), &table, false, NULL) == REFUSE_IT);
}

static void test_found(void)
{
	struct found f = found("", "vfat", NULL);

	CHECK(found_valid(&f));
	memset(f.sig[0].label, 'x', sizeof(f.sig[0].label));
	CHECK(!found_valid(&f));
	f = found("", "vfat", NULL);
	f.n = FOUND_SIGNATURES_MAX + 1;
	CHECK(!found_valid(&f));
	f.n = 2;
	CHECK(!found_valid(&f));
	f = found("", "v\nfat", NULL);
	CHECK(!found_valid(&f));
	f = found("", "vfat", NULL);
	memset(f.table, 'x', sizeof(f.table));
	CHECK(!found_valid(&f));
}

static const char *name(const char *label, const char *uuid)
{
	static char out[100];
	struct found_signature s = { .type = "vfat" };

	snprintf(s.label, sizeof(s.label), "%s", label);
	snprintf(s.uuid, sizeof(s.uuid), "%s", uuid);
	mount_name(&s, "spicebd0", out, sizeof(out));
	return out;
}

static void test_names(void)
{
	char all[193];

	CHECK(!strcmp(name("My Disc", ""), "My Disc"));
	CHECK(!strcmp(name("Müller ©", ""), "Müller ©"));
	CHECK(!strcmp(name("", "12-AB"), "12-AB") && !strcmp(name("", ""), "spicebd0"));
	CHECK(!strcmp(name("   ", "12-AB"), "12-AB") && !strcmp(name("//", "u"), "u"));
	CHECK(!strcmp(name("..", ""), "_."));
	CHECK(!strcmp(name("../../etc", ""), "_._.._etc"));
	CHECK(!strcmp(name(".x", ""), "_x") && !strcmp(name("-rf", ""), "_rf"));
	CHECK(!strcmp(name("~root", ""), "_root") && !strcmp(name("a/b\\c", ""), "a_b_c"));
	CHECK(!strcmp(name("a\x1b[31m\nb", ""), "a_31m_b"));
	CHECK(!strcmp(name("a\xffz", ""), "a_z"));
	CHECK(!strcmp(name("\xe2\x80\xae" "fdp", ""), "_fdp"));	/* right-to-left override */
	CHECK(!strcmp(name("a   b ", ""), "a b"));
	CHECK(!strcmp(name("$(x)", ""), "_x_"));
	memset(all, 'x', 192);
	all[192] = '\0';
	CHECK(strlen(name(all, "")) == NAME_LEN_MAX);
	/* never half a character */
	for (int i = 0; i < 190; i += 2)
		memcpy(all + i, "ü", 2);
	all[190] = '\0';
	CHECK(text_ok(name(all, ""), strlen(name(all, ""))));
	memmove(all + 1, all, 191);
	all[0] = 'x';
	CHECK(text_ok(name(all, ""), strlen(name(all, ""))) && strlen(name(all, "")) <= NAME_LEN_MAX);
	/* whatever it is, it is one harmless component */
	srand(1);
	for (int i = 0; i < 20000; i++) {
		const char *n;
		int len = rand() % 190;

		for (int k = 0; k < len; k++)
			all[k] = 1 + rand() % 255;
		all[len] = '\0';
		n = name(all, "");
		CHECK(*n && strlen(n) <= NAME_LEN_MAX && !strchr(n, '/') && *n != '.' && *n != '-' &&
		      text_ok(n, strlen(n)));
	}
}

static void test_devices(void)
{
	static const char * const bad[] = {
		"", "spicebd", "spicebd0p", "spicebdx", "spicebd0p1p2", "spicebd0/..", "sda",
		"spicebd00", "spicebd0p01", "spicebd1234567890", "spicebd0 ", "../spicebd0",
	};
	struct device d;

	CHECK(device_name(&d, "spicebd0") && !d.partition && !strcmp(d.drive, "spicebd0"));
	CHECK(device_name(&d, "spicebd12p34") && d.partition && !strcmp(d.drive, "spicebd12") &&
	      !strcmp(d.name, "spicebd12p34"));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(!device_name(&d, bad[i]));
	CHECK(device_name(&d, "spicebd999") && !device_present(&d) && !device_diskseq(&d));
	CHECK(device_read_only(&d) && !device_is_cdrom(&d));
}

int main(void)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "automount.conf: defaults", test_conf_defaults },
		{ "automount.conf: every key", test_conf_values },
		{ "automount.conf: what is refused, by line", test_conf_refused },
		{ "automount.conf: only root's own", test_conf_file },
		{ "what is mounted, as what, and what is not", test_decide },
		{ "the prober's answer is checked", test_found },
		{ "names of mount points", test_names },
		{ "names of devices", test_devices },
	};
	size_t n = sizeof(tests) / sizeof(tests[0]);
	int bad = 0;

	printf("TAP version 13\n1..%zu\n", n);
	for (size_t i = 0; i < n; i++) {
		checks_failed = 0;
		tests[i].run();
		bad += checks_failed > 0;
		printf("%s %zu - %s\n", checks_failed ? "not ok" : "ok", i + 1, tests[i].name);
	}
	return bad > 0;
}
