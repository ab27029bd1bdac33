// SPDX-License-Identifier: GPL-2.0-only
/* A session behind a port of the Spice server. */
#include "end.h"
#include "port.h"
#include "session.h"

static const struct session_ops *ops_of(void)
{
	static struct session_ops ops = {
		.wakeup = port_wakeup,
		.fail = port_fail,
		.dead = port_dead,
		.up = port_up,
	};

	ops.emit = port_the_hooks()->emit;
	return &ops;
}

static void *make(uint32_t number, struct port *port)
{
	return session_new(number, port_session_params(), ops_of(), port);
}

static void end_free(void *end)
{
	session_free(end);
}

static void start(void *end, const uint8_t *secret)
{
	session_start(end, secret);
}

static void stop(void *end, const char *why)
{
	session_stop(end, why);
}

static void input(void *end, const uint8_t *data, size_t len)
{
	session_input(end, data, len);
}

static bool begin(void *end, const uint8_t *head, size_t len)
{
	return session_begin(end, head, len);
}

static int sink(void *end)
{
	return session_sink(end);
}

static void moved(void *end, size_t n)
{
	session_moved(end, n);
}

static void part(void *end, const uint8_t *data, size_t len)
{
	session_part(end, data, len);
}

static bool hold(void *end)
{
	return session_hold(end);
}

static const struct port_end_direct direct = {
	.begin = begin,
	.sink = sink,
	.moved = moved,
	.part = part,
	.hold = hold,
};

static size_t output(void *end, uint8_t *buf, size_t size)
{
	return session_output(end, buf, size);
}

static bool is_up(const void *end)
{
	return session_is_up(end);
}

static long long last_heard(const void *end)
{
	return session_last_heard(end);
}

static bool is_open(const void *end)
{
	return true;
}

const struct port_end session_end = {
	.make = make,
	.free = end_free,
	.start = start,
	.stop = stop,
	.input = input,
	.output = output,
	.is_up = is_up,
	.last_heard = last_heard,
	.is_open = is_open,
	.direct = &direct,
};
