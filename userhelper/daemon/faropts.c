// SPDX-License-Identifier: GPL-2.0-only
#include "faropts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/spicebd.h>

#include "cache.h"
#include "far.h"
#include "log.h"
#include "path.h"

#define READ_AHEAD_LEAST	4096

static bool take_size(const char *s, int64_t *out)
{
	unsigned long long v;
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno || v > 1ull << 40)
		return false;
	if (*end == 'K' || *end == 'k')
		v <<= 10;
	else if (*end == 'M' || *end == 'm')
		v <<= 20;
	else if (*end == 'G' || *end == 'g')
		v <<= 30;
	else if (*end)
		return false;
	if (*end && end[1])
		return false;
	*out = (int64_t)v;
	return true;
}

static int take(const char *name, const char *text, int64_t min, int64_t max, int64_t *out,
		struct derr *e)
{
	*out = FAR_UNSET;
	if (!text)
		return 0;
	if (!strcmp(text, "auto"))
		*out = FAR_AUTO;
	else if (!strcmp(text, "off"))
		*out = FAR_OFF;
	else if (!take_size(text, out) || *out < min || *out > max)
		return derr_set(e, EINVAL, "Parameter '%s' is 'auto', 'off' or a size of %lldK "
				"to %lldM", name, (long long)min >> 10, (long long)max >> 20);
	return 0;
}

int faropts_cache(const char *text, int64_t *out, struct derr *e)
{
	return take("cache", text, CACHE_MIN, CACHE_MAX, out, e);
}

int faropts_read_ahead(const char *text, int64_t *out, struct derr *e)
{
	return take("read-ahead", text, READ_AHEAD_LEAST, SPICEBD_MAX_READ_AHEAD, out, e);
}

typedef int (*parse_fn)(const char *text, int64_t *out, struct derr *e);

static int64_t resolve(int64_t v, const char *variable, parse_fn parse)
{
	struct derr e;

	if (v == FAR_UNSET && parse(getenv(variable), &v, &e) < 0) {
		log_warn("%s in the environment: %s", variable, e.text);
		v = FAR_AUTO;
	}
	return v == FAR_UNSET ? FAR_AUTO : v;
}

struct faropts faropts_resolve(const struct faropts *o)
{
	return (struct faropts) {
		.cache = resolve(o->cache, "SPICEBD_MEDIUM_CACHE", faropts_cache),
		.read_ahead = resolve(o->read_ahead, "SPICEBD_READ_AHEAD", faropts_read_ahead),
	};
}

uint32_t faropts_cache_bytes(const struct faropts *o, bool read_only, bool store_read_only,
			     uint32_t rtt)
{
	if (!read_only || o->cache == FAR_OFF)
		return 0;
	if (o->cache > 0)
		return o->cache;
	return store_read_only && rtt >= FAR_RTT_US ? FAR_CACHE_DEFAULT : 0;
}

uint32_t faropts_first_read_ahead(const struct faropts *o, uint32_t rtt)
{
	struct path p;

	if (o->read_ahead > 0)
		return o->read_ahead;
	if (!faropts_measure(o, rtt))
		return 0;
	path_init(&p, rtt);
	return path_read_ahead(&p);
}

bool faropts_measure(const struct faropts *o, uint32_t rtt)
{
	return o->read_ahead == FAR_AUTO && rtt >= FAR_MEASURE_US;
}
