// SPDX-License-Identifier: GPL-2.0-only
/*
 * The small parts of lib/: hex digits, the boot's id, disc images, texts, holders,
 * and how far a freeze is.
 *
 * BUILD: gcc -std=gnu11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Wno-sign-compare -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib -Iuapi selftests/unit/lib_test.c userhelper/lib/hex.c userhelper/lib/bootid.c userhelper/lib/disc.c userhelper/lib/sock.c userhelper/lib/text.c userhelper/lib/holders.c userhelper/lib/freezing.c
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bootid.h"
#include "disc.h"
#include "freezing.h"
#include "hex.h"
#include "holders.h"
#include "text.h"

static int checks_failed;

#define CHECK(cond) do { \
	if (!(cond)) { \
		printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond); \
		checks_failed++; \
	} \
} while (0)

static void test_hex(void)
{
	uint8_t all[256], back[256];
	char text[513], one[3] = "";

	for (int i = 0; i < 256; i++)
		all[i] = i;
	hex_encode(all, sizeof(all), text);
	CHECK(strlen(text) == 512 && !memcmp(text, "000102", 6) && !strcmp(text + 508, "feff"));
	CHECK(hex_decode(text, back, sizeof(back)) && !memcmp(all, back, sizeof(all)));
	hex_encode(all, 0, text);
	CHECK(!*text && hex_decode("", back, 0));
	CHECK(hex_decode("aBCd", back, 2) && back[0] == 0xab && back[1] == 0xcd);
	CHECK(!hex_decode("abc", back, 1) && !hex_decode("abc", back, 2) && !hex_decode("", back, 1));
	for (int c = 1; c < 256; c++) {
		one[0] = one[1] = c;
		CHECK(hex_decode(one, back, 1) == (strchr("0123456789abcdefABCDEF", c) != NULL));
	}
}

static void test_boot_id(void)
{
	uint8_t a[16] = { 0 }, b[16] = { 0 }, none[16] = { 0 };

	boot_id_read(a);
	boot_id_read(b);
	CHECK(!memcmp(a, b, 16) && memcmp(a, none, 16));
}

/* Judge sectors of which the 5-byte names are given, both ways. */
static bool is_disc(const char * const names[], size_t n, size_t len)
{
	size_t size = DISC_START + len;
	uint8_t *medium = calloc(1, size + 1), *part = malloc(len ? len : 1);
	int fd = memfd_create("medium", MFD_CLOEXEC);
	bool r;

	for (size_t i = 0; i < n && (i + 1) * DISC_SECTOR <= len; i++)
		memcpy(medium + DISC_START + i * DISC_SECTOR + 1, names[i], strlen(names[i]));
	CHECK(fd >= 0 && write(fd, medium, size) == size);
	memcpy(part, medium + DISC_START, len);
	r = disc_in_memory(part, len);
	CHECK(r == disc_on_fd(fd));
	close(fd);
	free(medium);
	free(part);
	return r;
}

#define IS_DISC(len, ...) ({ \
	const char * const names_[] = { __VA_ARGS__ }; \
	is_disc(names_, sizeof(names_) / sizeof(names_[0]), len); \
})

static void test_disc(void)
{
	const char *many[DISC_LEN / DISC_SECTOR + 1];
	size_t n = DISC_LEN / DISC_SECTOR;

	CHECK(IS_DISC(DISC_LEN, "CD001"));
	CHECK(IS_DISC(DISC_LEN, "CD001", "CD001", "BEA01", "NSR02", "TEA01"));
	CHECK(IS_DISC(DISC_LEN, "BEA01", "NSR03", "TEA01"));
	CHECK(IS_DISC(DISC_LEN, "BEA01", "BOOT2", "CDW02", "NSR02"));
	CHECK(!IS_DISC(DISC_LEN, ""));
	CHECK(!IS_DISC(DISC_LEN, "BEA01", "TEA01"));
	CHECK(!IS_DISC(DISC_LEN, "NSR01") && !IS_DISC(DISC_LEN, "cd001"));
	/* What a file on a stick's own file system looks like. */
	CHECK(!IS_DISC(DISC_LEN, "", "CD001"));
	CHECK(IS_DISC(DISC_SECTOR, "CD001") && !IS_DISC(DISC_SECTOR - 1, "CD001"));
	CHECK(!IS_DISC(0, "CD001") && !IS_DISC(DISC_SECTOR, "BEA01", "NSR02"));
	for (size_t i = 0; i <= n; i++)
		many[i] = i < n - 1 ? "BEA01" : "CD001";
	CHECK(is_disc(many, n, DISC_LEN));
	many[n - 1] = "BEA01";
	CHECK(!is_disc(many, n + 1, DISC_LEN + DISC_SECTOR));
}

/* In exact room on the heap, so that the sanitizer sees an overrun. */
static bool cleans(const char *text, size_t len, size_t size, const char *want)
{
	char *in = malloc(len ? len : 1), *out = malloc(size);
	size_t n;
	bool r;

	memcpy(in, text, len);
	n = text_clean(out, size, in, len);
	r = n == strlen(out) && n == strlen(want) && !memcmp(out, want, n) && text_ok(out, n);
	if (r && text_ok(in, len) && size > len)
		r = n == len;
	free(in);
	free(out);
	return r;
}

#define CLEANS(text, want) cleans(text, sizeof(text) - 1, sizeof(text), want)

static void test_text(void)
{
	char own[] = "a\x1b[2Jb\xc2\x85";

	CHECK(CLEANS("", "") && CLEANS("plain", "plain") && CLEANS("a\0b", "a?b"));
	CHECK(CLEANS("\x1b]0;x\x07\n\t\x7f", "?]0;x????"));
	CHECK(CLEANS("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x92\xbf", "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x92\xbf"));
	/* C1, line separator, right-to-left override, isolates, marks */
	CHECK(CLEANS("a\xc2\x9b" "b\xe2\x80\xa8" "c\xe2\x80\xae" "d\xe2\x81\xa6", "a?b?c?d?"));
	CHECK(CLEANS("\xd8\x9c\xe2\x80\x8e\xe2\x80\x8f\xe2\x81\xa9", "????"));
	CHECK(CLEANS("\xe2\x80\xa7\xe2\x80\xaf\xe2\x81\xa5", "\xe2\x80\xa7\xe2\x80\xaf\xe2\x81\xa5"));
	/* not the shortest form, surrogate, too large, stray, cut */
	CHECK(CLEANS("\xc0\xaf", "??") && CLEANS("\xe0\x80\xaf", "???"));
	CHECK(CLEANS("\xed\xa0\x80", "???") && CLEANS("\xf4\x90\x80\x80", "????"));
	CHECK(CLEANS("\x80", "?") && CLEANS("\xff\xfe", "??") && CLEANS("x\xe2\x82", "x??"));
	/* No character is cut in two. */
	CHECK(cleans("ab\xe2\x82\xac", 5, 5, "ab") && cleans("ab\xe2\x82\xac", 5, 6, "ab\xe2\x82\xac"));
	CHECK(cleans("abc", 3, 1, "") && cleans("\n\n", 2, 2, "?"));
	text_clean(own, sizeof(own), own, strlen(own));
	CHECK(!strcmp(own, "a?[2Jb?"));
}

static void test_holders(void)
{
	char out[64], tiny[8];

	CHECK(!holders_describe("no-such-disk", 0, out, sizeof(out)) && !*out);
	CHECK(holders_describe("no-such-disk", 1, out, sizeof(out)) &&
	      !strcmp(out, "open by 1 program"));
	CHECK(holders_describe("no-such-disk", 3, out, sizeof(out)) &&
	      !strcmp(out, "open by 3 programs"));
	CHECK(holders_describe("no-such-disk", 3, tiny, sizeof(tiny)) && !strcmp(tiny, "open by"));
}

static void test_freezing_names(void)
{
	static const char *const bad[] = {
		"", "a b", "-a", ".a", "a/b", "a\n", "\xc3\xa4", "12345678901234567890123456789012",
	};

	CHECK(freezing_holder_ok("a") && freezing_holder_ok("qemu@host:1_2-3.4"));
	CHECK(freezing_holder_ok("1234567890123456789012345678901"));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(!freezing_holder_ok(bad[i]));
	CHECK(!strcmp(freeze_str(SPICEBD_FREEZE_FROZEN), "frozen"));
	CHECK(!strcmp(freeze_str(1000), "failed"));
}

static void test_freezing_by(void)
{
	struct kernel_drive d = { .nr_holders = 2, .holders = {
		{ .name = "backup", .since_ms = 12999, .limited = true, .left_ms = 1 },
		{ .name = "", .since_ms = 0 },
	} };
	char out[100], tiny[12];

	CHECK(!strcmp(freezing_by(&d, out, sizeof(out)),
		      "backup since 12 s, for 1 s more; somebody since 0 s"));
	CHECK(strlen(freezing_by(&d, tiny, sizeof(tiny))) == sizeof(tiny) - 1);
	CHECK(freezing_find(&d, "backup") == &d.holders[0] && !freezing_find(&d, "admin"));
	strcpy(d.holders[1].name, "x\033[2J");
	CHECK(!strchr(freezing_by(&d, out, sizeof(out)), '\033'));
}

static void test_freezing_look(void)
{
	struct kernel_drive d = {
		.name = "spicebd1", .generation = 3, .state = SPICEBD_STATE_MEDIUM,
		.helper = SPICEBD_HELPER_ATTACHED, .freeze = SPICEBD_FREEZE_DRAINING,
		.in_flight = 2, .nr_holders = 1, .holders = { { .name = "me" } },
	};
	struct kernel_drive now;
	struct freezing f;

	freezing_begin(&f, &d, "me");
	CHECK(freezing_look(&f, &d) == 0 && strstr(f.why, "2 requests are out"));
	now = d;
	now.in_flight = 0;	/* an earlier freeze's flush is */
	CHECK(freezing_look(&f, &now) == 0 && strstr(f.why, "the flush"));
	now = d;
	now.link = SPICEBD_LINK_LOST;
	CHECK(freezing_look(&f, &now) == 0 && strstr(f.why, "far end is lost"));
	now.helper = SPICEBD_HELPER_LOST;
	now.freeze = SPICEBD_FREEZE_FLUSHING;
	CHECK(freezing_look(&f, &now) == 0 && strstr(f.why, "helper") && strstr(f.why, "flush"));
	/* The limit came: what was out last is said. */
	now.holders[0].limited = true;
	now.holders[0].left_ms = 100;
	CHECK(freezing_look(&f, &now) == 0);
	now.nr_holders = 0;
	now.freeze = SPICEBD_FREEZE_THAWED;
	CHECK(freezing_look(&f, &now) == -ETIMEDOUT && strstr(f.why, "limit came first: its"));
	now = d;
	now.freeze = SPICEBD_FREEZE_FROZEN;
	CHECK(freezing_look(&f, &now) == 1);
	now.nr_holders = 0;
	CHECK(freezing_look(&f, &now) == -ECANCELED && strstr(f.why, "somebody thawed"));
	now.nr_holders = 1;
	now.generation++;
	CHECK(freezing_look(&f, &now) == -ECANCELED);
	now = d;
	now.state = 0;
	CHECK(freezing_look(&f, &now) == -ECANCELED);
	now = d;
	now.freeze = SPICEBD_FREEZE_FAILED;
	now.freeze_error = ENOSPC;
	CHECK(freezing_look(&f, &now) == -EIO && strstr(f.why, strerror(ENOSPC)));
	CHECK(freezing_look(&f, NULL) == -ENODEV);
	/* A held drive may be given its first medium. */
	d.state = 0;
	freezing_begin(&f, &d, "me");
	d.state = SPICEBD_STATE_MEDIUM;
	d.generation++;
	d.freeze = SPICEBD_FREEZE_FROZEN;
	CHECK(freezing_look(&f, &d) == 1);
}

static const struct {
	void (*run)(void);
	const char *what;
} tests[] = {
	{ test_hex, "hex digits" },
	{ test_boot_id, "the boot's id" },
	{ test_disc, "disc images" },
	{ test_text, "texts for people" },
	{ test_holders, "holders of a drive" },
	{ test_freezing_names, "names of those who freeze" },
	{ test_freezing_by, "by whom a drive is frozen" },
	{ test_freezing_look, "how far a freeze is" },
};

int main(void)
{
	int failures = 0;

	printf("TAP version 13\n1..%zu\n", sizeof(tests) / sizeof(tests[0]));
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		checks_failed = 0;
		tests[i].run();
		failures += !!checks_failed;
		printf("%sok %zu - lib: %s\n", checks_failed ? "not " : "", i + 1, tests[i].what);
	}
	return !!failures;
}
