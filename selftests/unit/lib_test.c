// SPDX-License-Identifier: GPL-2.0-only
/*
 * The small parts of lib/: hex digits, the boot's id, disc images.
 *
 * BUILD: gcc -std=gnu11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Wno-sign-compare -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib selftests/unit/lib_test.c userhelper/lib/hex.c userhelper/lib/bootid.c userhelper/lib/disc.c userhelper/lib/sock.c
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bootid.h"
#include "disc.h"
#include "hex.h"

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

static const struct {
	void (*run)(void);
	const char *what;
} tests[] = {
	{ test_hex, "hex digits" },
	{ test_boot_id, "the boot's id" },
	{ test_disc, "disc images" },
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
