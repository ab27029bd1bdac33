// SPDX-License-Identifier: GPL-2.0-only
/*
 * When to look for the next event instead of sleeping.
 *
 * BUILD: gcc -std=gnu11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib selftests/unit/spin_test.c userhelper/lib/spin.c
 */
#include <sched.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spin.h"

static int checks_failed;

#define CHECK(cond) do { \
	if (!(cond)) { \
		printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond); \
		checks_failed++; \
	} \
} while (0)

/* Not spin_init(), which may find one processor. */
static struct spin fresh(void)
{
	return (struct spin){ .need = SPIN_ROW_MIN };
}

static void sleeps(struct spin *s, unsigned int n)
{
	while (n--)
		spin_slept(s, SPIN_SLEEP_NS, true);
}

static void test_row(void)
{
	struct spin s = fresh();

	for (unsigned int i = 0; i < SPIN_ROW_MIN; i++) {
		CHECK(!spin_wanted(&s));
		sleeps(&s, 1);
	}
	CHECK(spin_wanted(&s));
	/* and on, while what is looked for comes */
	for (int i = 0; i < 100; i++) {
		spin_looked(&s, true, true);
		CHECK(spin_wanted(&s));
	}
	spin_slept(&s, SPIN_SLEEP_NS + 1, true);
	CHECK(!spin_wanted(&s));
	sleeps(&s, SPIN_ROW_MIN - 1);
	CHECK(!spin_wanted(&s));
	sleeps(&s, 1);
	CHECK(spin_wanted(&s));
}

/* After a look in vain the row must be so long; returns that. */
static unsigned int row_after_vain(struct spin *s)
{
	unsigned int n = 0;

	spin_looked(s, false, false);
	for (; !spin_wanted(s) && n < 5 * SPIN_ROW_MAX; n++)
		sleeps(s, 1);
	return n;
}

static void test_vain(void)
{
	struct spin s = fresh();

	sleeps(&s, SPIN_ROW_MIN);
	for (unsigned int n = 2 * SPIN_ROW_MIN; n <= SPIN_ROW_MAX; n *= 2)
		CHECK(row_after_vain(&s) == n);
	for (int i = 0; i < 100; i++)
		CHECK(row_after_vain(&s) == SPIN_ROW_MAX);
	/* a row that is longer than any that is asked for does not run over */
	sleeps(&s, 5 * SPIN_ROW_MAX);
	CHECK(spin_wanted(&s) && s.row <= SPIN_ROW_MAX);
}

static void looks(struct spin *s, unsigned int n)
{
	while (n--)
		spin_looked(s, true, true);
}

static void test_forgiven(void)
{
	struct spin s = fresh();

	sleeps(&s, SPIN_ROW_MIN);
	row_after_vain(&s);
	row_after_vain(&s);
	CHECK(s.need == 4 * SPIN_ROW_MIN);
	looks(&s, SPIN_FORGIVE - 1);
	CHECK(s.need == 4 * SPIN_ROW_MIN);
	looks(&s, 1);
	CHECK(s.need == 2 * SPIN_ROW_MIN);
	/* one in vain takes what was gathered, too */
	looks(&s, SPIN_FORGIVE - 1);
	row_after_vain(&s);
	CHECK(s.need == 4 * SPIN_ROW_MIN);
	looks(&s, SPIN_FORGIVE - 1);
	CHECK(s.need == 4 * SPIN_ROW_MIN);
	looks(&s, 100 * SPIN_FORGIVE);
	CHECK(s.need == SPIN_ROW_MIN);
}

static void test_not_alone(void)
{
	struct spin s = fresh();

	for (int i = 0; i < 100; i++) {
		sleeps(&s, SPIN_ROW_MIN - 1);
		spin_slept(&s, 0, false);
		CHECK(!spin_wanted(&s));
	}
	sleeps(&s, SPIN_ROW_MIN);
	CHECK(spin_wanted(&s));
	spin_looked(&s, true, false);
	CHECK(!spin_wanted(&s) && s.need == SPIN_ROW_MIN);
	CHECK(s.hits == 1);
}

static void test_off(void)
{
	struct spin s;

	spin_init(&s, true);
	for (unsigned int i = 0; i < 2 * SPIN_ROW_MAX; i++) {
		CHECK(!spin_wanted(&s));
		spin_slept(&s, 0, true);
	}
}

/* Whether a process looks that may run on so many processors; -1: has not so many. */
static int looks_with(int processors)
{
	int status, taken = 0;
	cpu_set_t all, few;
	struct spin s;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ?
		       (WEXITSTATUS(status) == 2 ? -1 : WEXITSTATUS(status)) : -2;
	CPU_ZERO(&few);
	if (sched_getaffinity(0, sizeof(all), &all) < 0)
		_exit(2);
	for (int i = 0; i < CPU_SETSIZE && taken < processors; i++) {
		if (!CPU_ISSET(i, &all))
			continue;
		CPU_SET(i, &few);
		taken++;
	}
	if (taken < processors || sched_setaffinity(0, sizeof(few), &few) < 0)
		_exit(2);
	spin_init(&s, false);
	sleeps(&s, SPIN_ROW_MIN);
	_exit(spin_wanted(&s));
}

static void test_processors(void)
{
	int two = looks_with(2);

	CHECK(looks_with(1) == 0);
	if (two < 0)
		printf("# there is one processor only\n");
	else
		CHECK(two == 1);
}

static void test_clock(void)
{
	uint64_t a = spin_now(), b;

	do {
		b = spin_now();
		CHECK(b >= a);
	} while (b == a);
	usleep(2000);
	CHECK(spin_now() - a >= 2000000);
}

static const struct {
	void (*run)(void);
	const char *what;
} tests[] = {
	{ test_row, "a row of short sleeps comes first, and a long one ends it" },
	{ test_vain, "a look in vain makes the row twice as long, up to a bound" },
	{ test_forgiven, "looks with success make up for it" },
	{ test_not_alone, "events that come together are not looked for" },
	{ test_off, "it can be off" },
	{ test_processors, "nothing is looked for with one processor" },
	{ test_clock, "the clock goes on" },
};

int main(void)
{
	int failures = 0;
	size_t i;

	printf("TAP version 13\n1..%zu\n", sizeof(tests) / sizeof(tests[0]));
	for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		checks_failed = 0;
		tests[i].run();
		failures += !!checks_failed;
		printf("%sok %zu - spin: %s\n", checks_failed ? "not " : "", i + 1, tests[i].what);
	}
	return !!failures;
}
