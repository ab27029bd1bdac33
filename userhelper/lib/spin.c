// SPDX-License-Identifier: GPL-2.0-only
#include "spin.h"

#include <sched.h>
#include <time.h>

static bool one_processor(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) < 2;
}

void spin_init(struct spin *s, bool off)
{
	*s = (struct spin){ .off = off || one_processor(), .need = SPIN_ROW_MIN };
}

uint64_t spin_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

bool spin_wanted(const struct spin *s)
{
	return !s->off && s->row >= s->need;
}

void spin_looked(struct spin *s, bool came, bool alone)
{
	if (!came) {
		s->row = 0;
		s->hits = 0;
		if (s->need < SPIN_ROW_MAX)
			s->need *= 2;
		return;
	}
	if (!alone)
		s->row = 0;
	if (++s->hits < SPIN_FORGIVE)
		return;
	s->hits = 0;
	if (s->need > SPIN_ROW_MIN)
		s->need /= 2;
}

void spin_slept(struct spin *s, uint64_t ns, bool alone)
{
	if (s->off)
		return;
	if (ns > SPIN_SLEEP_NS || !alone)
		s->row = 0;
	else if (s->row < SPIN_ROW_MAX)
		s->row++;
}
