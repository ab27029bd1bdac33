// SPDX-License-Identifier: GPL-2.0-only
/*
 * One port of the relay. Either direction is taken apart into frames by the rules
 * that the receiver at its other end has, and what passes is whole: half a frame
 * of a client or guest that died reaches nobody. Where the step is lost, the
 * guest's link is asked to begin anew, as the share would.
 *
 * To the guest everything is taken at once, and kept as long as it does not read;
 * relay_credit.c bounds that. To the client nothing is kept but the frame that is
 * being read: what the client does not take stays in QEMU's socket.
 */
#include "relay.h"

#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "loop.h"
#include "port.h"
#include "relay_guest.h"
#include "relay_impl.h"
#include "sock.h"

#define RESYNC_TIME	1000	/* ms until the guest's link is asked again */
#define RESYNC_AGAIN	30000	/* ... if it has not said anything since */
#define HALF_TIME	10000	/* ms for the rest of a frame, once it has begun */
#define EPOCHS_MAX	16	/* new sessions in ... */
#define EPOCHS_WINDOW	10000	/* ... ms, before it is an attack or a loop */
#define ROUNDS_MAX	4	/* buffers without a frame before others get their turn */
#define NO_EPOCH	0xffffffffu	/* a hello that nobody has sent */

struct relay {
	uint32_t number;
	struct port *port;
	struct guest *guest;
	bool client;			/* one has linked the port */
	bool connected;			/* to the guest */
	bool spoken;			/* the client has a share, which is alive */
	bool answered;			/* ... and said hello in this epoch */
	bool failed;			/* the client broke the protocol */
	long long last_heard;

	struct frame_rx from_guest, from_share;
	uint32_t epoch;			/* of the guest's last hello; 0: none */
	uint8_t secret[FRAME_SECRET_LEN];
	uint32_t caps;			/* of that hello */
	bool lost;			/* the step of a session with this secret */
	long long resync_sent;		/* and nothing came of it yet; 0: none */
	struct credits credits;
	long long epochs_since;
	unsigned int n_epochs;

	uint8_t in[FRAME_MAX];		/* from the guest */
	const uint8_t *in_at;
	size_t in_len;
	const uint8_t *held;		/* a whole frame of it that did not fit */
	size_t held_len;

	struct loop_timer *timer;
	long long due;			/* of the timer; 0: it does not run */
	long long resync_due, half_due;	/* 0: not */
};

/* ---- time ---- */

static void wake_at(struct relay *r, long long at)
{
	long long now = now_ms();

	if (r->due && r->due <= at)
		return;
	r->due = at;
	loop_timer_start(r->timer, at > now ? at - now : 1);
}

/* A frame's length as it came: its check is passed on, too. */
static size_t whole(const struct frame_rx *rx, const struct frame_header *h)
{
	bool check = rx->checked && h->type != FRAME_HELLO && h->type != FRAME_RESYNC;

	return FRAME_HEADER_LEN + h->length + (check ? FRAME_CHECK_LEN : 0);
}

/* ---- to the guest ---- */

static void client_fails(struct relay *r, const char *why)
{
	if (r->failed)
		return;
	r->failed = true;
	log_warn("port %u: %s: the client is disconnected", r->number, why);
	port_fail(r->port, why);
}

static void to_guest(struct relay *r, const uint8_t *frame, size_t len)
{
	if (!guest_send(r->guest, frame, len))
		client_fails(r, "more frames than the guest reads");
}

/*
 * One that the guest has not answered says as much as two, and each would be a new
 * session when a guest that stood still reads them all. Half a frame may be what it
 * has of an earlier connection; zeros end that.
 */
static void resync_guest(struct relay *r)
{
	static const uint8_t zeros[FRAME_MAX];
	struct frame_tx none = { 0 };
	uint8_t frame[FRAME_HEADER_LEN];
	long long now = now_ms();

	if (!r->connected || (r->resync_sent && now - r->resync_sent < RESYNC_AGAIN))
		return;
	if (!r->epoch || r->resync_sent)
		to_guest(r, zeros, sizeof(zeros));
	r->resync_sent = now;
	to_guest(r, frame, frame_pack_empty(&none, frame, FRAME_RESYNC));
}

/* Only a hello of the guest's link brings both into step again. */
static void step_lost(struct relay *r, const char *whose)
{
	if (!r->resync_due)
		log_info("port %u: what the %s sends is not in step: asking for a new session",
			 r->number, whose);
	r->resync_due = now_ms() + RESYNC_TIME;
	wake_at(r, r->resync_due);
	resync_guest(r);
}

/* ---- from the guest ---- */

static void guest_fails(struct relay *r, const char *why)
{
	log_warn("port %u: the guest: %s", r->number, why);
	guest_drop(r->guest, "it broke the protocol");
	/* That takes a moment; nothing more is heard of it. */
	r->in_len = 0;
	frame_rx_init(&r->from_guest, 0);
}

static bool epochs_in_bounds(struct relay *r)
{
	long long now = now_ms();

	if (now - r->epochs_since > EPOCHS_WINDOW) {
		r->epochs_since = now;
		r->n_epochs = 0;
	}
	return ++r->n_epochs <= EPOCHS_MAX;
}

/*
 * What a drive's users wrote may look like a hello, and may stand where one is
 * looked for; the secret is what they cannot know.
 */
static bool is_forged(struct relay *r, const struct frame_hello *h)
{
	if (!r->lost || !memcmp(h->secret, r->secret, sizeof(r->secret)))
		return false;
	r->from_guest.epoch = r->epoch;
	r->from_guest.hunting = true;
	return true;
}

static bool guest_hello(struct relay *r, const uint8_t *payload, size_t len)
{
	struct frame_hello h;

	if (!frame_parse_hello(payload, len, &h) || h.role != FRAME_ROLE_LINK) {
		guest_fails(r, "a hello that is none");
		return false;
	}
	if (is_forged(r, &h))
		return false;
	if (!epochs_in_bounds(r)) {
		guest_fails(r, "too many new sessions in a short time");
		return false;
	}
	guest_is_good(r->guest);
	r->epoch = h.epoch;
	r->caps = h.capabilities;
	memcpy(r->secret, h.secret, sizeof(r->secret));
	r->lost = false;
	r->answered = false;
	r->resync_due = 0;
	credits_reset(&r->credits);
	frame_rx_init(&r->from_share, h.epoch);
	return true;
}

/* Returns whether it is passed on. */
static bool hear_guest(struct relay *r, const struct frame_header *h, const uint8_t *payload)
{
	const char *why = NULL;
	uint32_t v[2];

	switch (h->type) {
	case FRAME_HELLO:
		return guest_hello(r, payload, h->length);
	case FRAME_RESYNC:
		return false;
	case FRAME_OPEN:
		why = frame_parse_u32s(payload, h->length, v, 2) ?
			      credits_open(&r->credits, h->stream, v[1]) : "a malformed OPEN";
		break;
	case FRAME_CREDIT:
		why = frame_parse_u32s(payload, h->length, v, 1) ?
			      credits_add(&r->credits, h->stream, v[0]) : "a malformed CREDIT";
		break;
	}
	if (why)
		guest_fails(r, why);
	return !why;
}

static bool refill(struct relay *r)
{
	r->in_at = r->in;
	r->in_len = guest_recv(r->guest, r->in, sizeof(r->in));
	if (r->in_len) {
		r->half_due = 0;
		r->resync_sent = 0;
	} else if (r->from_guest.have) {
		r->half_due = now_ms() + HALF_TIME;
		wake_at(r, r->half_due);
	}
	return r->in_len;
}

/* Finds the next frame for the client. Its header stands before its payload. */
static bool next_frame(struct relay *r)
{
	const uint8_t *payload;
	struct frame_header h;
	unsigned int rounds = 0;

	while (r->connected) {
		switch (frame_rx_feed(&r->from_guest, &r->in_at, &r->in_len, &h, &payload)) {
		case FRAME_RX_NEED_MORE:
			if (++rounds > ROUNDS_MAX) {
				port_wakeup(r->port);
				return false;
			}
			if (!refill(r))
				return false;
			break;
		case FRAME_RX_SKIPPED:
			break;
		case FRAME_RX_LOST:
			r->lost = true;
			step_lost(r, "guest");
			break;
		case FRAME_RX_FRAME:
			if (!hear_guest(r, &h, payload))
				break;
			r->held = payload - FRAME_HEADER_LEN;
			r->held_len = whole(&r->from_guest, &h);
			return true;
		}
	}
	return false;
}

static size_t output(void *end, uint8_t *buf, size_t size)
{
	struct relay *r = end;
	size_t n = 0;

	while (r->connected && (r->held || next_frame(r)) && r->held_len <= size - n) {
		memcpy(buf + n, r->held, r->held_len);
		n += r->held_len;
		r->held = NULL;
	}
	return n;
}

/* ---- from the client ---- */

/* From here on, both ways. */
static void agree_on_checks(struct relay *r, uint32_t caps)
{
	if (!(caps & r->caps & FRAME_CAP_CHECKS))
		return;
	r->from_share.seed = r->from_guest.seed = frame_seed(r->secret);
	r->from_share.checked = r->from_guest.checked = true;
}

/* The share has the secret of the guest's link now; it is the client's next ticket. */
static void share_hello(struct relay *r, const struct frame_hello *h)
{
	r->answered = true;
	r->spoken = true;
	agree_on_checks(r, h->capabilities);
	wake_at(r, r->last_heard + port_session_params()->ping_timeout);
	port_the_hooks()->learn(r->secret);
	port_up(r->port);
}

/* Returns whether it is passed on. */
static bool hear_share(struct relay *r, const struct frame_header *h, const uint8_t *payload)
{
	struct frame_hello hello;

	r->last_heard = now_ms();
	switch (h->type) {
	case FRAME_RESYNC:
		r->spoken = true;
		resync_guest(r);
		return false;
	case FRAME_HELLO:
		if (!r->epoch)
			return false;
		if (!r->answered && frame_parse_hello(payload, h->length, &hello) &&
		    hello.role == FRAME_ROLE_SHARE)
			share_hello(r, &hello);
		return true;
	case FRAME_DATA:
		if (credits_take(&r->credits, h->stream, h->length))
			return true;
		client_fails(r, "more data than the guest gave credit for");
		return false;
	case FRAME_CLOSE:
		credits_close(&r->credits, h->stream);
		return true;
	}
	return true;
}

static void input(void *end, const uint8_t *data, size_t len)
{
	struct relay *r = end;
	const uint8_t *payload;
	struct frame_header h;

	while (r->client && !r->failed) {
		switch (frame_rx_feed(&r->from_share, &data, &len, &h, &payload)) {
		case FRAME_RX_NEED_MORE:
			return;
		case FRAME_RX_SKIPPED:
			break;
		case FRAME_RX_LOST:
			step_lost(r, "client");
			break;
		case FRAME_RX_FRAME:
			if (hear_share(r, &h, payload) && r->connected)
				to_guest(r, payload - FRAME_HEADER_LEN,
					 whole(&r->from_share, &h));
			break;
		}
	}
}

/* ---- time, once more ---- */

static void check_half(struct relay *r, long long now)
{
	if (!r->half_due || now < r->half_due)
		return;
	/* Its sender died, and what comes next would be taken for its rest. */
	r->half_due = 0;
	frame_rx_init(&r->from_guest, 0);
	r->lost = r->epoch;
	step_lost(r, "guest");
}

static void check_resync(struct relay *r, long long now)
{
	if (!r->resync_due || now < r->resync_due)
		return;
	r->resync_due = now + RESYNC_TIME;
	resync_guest(r);
}

static void check_silence(struct relay *r, long long now)
{
	if (!r->answered || now - r->last_heard < port_session_params()->ping_timeout)
		return;
	log_notice("port %u: nothing heard of the client for %lld s", r->number,
		   (now - r->last_heard) / 1000);
	r->answered = false;
	r->spoken = false;
	port_dead(r->port);
}

static void on_timer(void *opaque)
{
	struct relay *r = opaque;
	long long now = now_ms();

	r->due = 0;
	if (!r->connected)
		return;
	check_half(r, now);
	check_resync(r, now);
	check_silence(r, now);
	if (r->half_due)
		wake_at(r, r->half_due);
	if (r->resync_due)
		wake_at(r, r->resync_due);
	if (r->answered)
		wake_at(r, r->last_heard + port_session_params()->ping_timeout);
}

/* ---- beginning and end of either side ---- */

/* Nobody's session: the guest's link begins the next. */
static void forget(struct relay *r)
{
	r->epoch = 0;
	r->answered = false;
	r->lost = false;
	r->resync_sent = 0;
	r->resync_due = 0;
	r->half_due = 0;
	r->in_at = r->in;
	r->in_len = 0;
	r->held = NULL;
	credits_reset(&r->credits);
	frame_rx_init(&r->from_guest, 0);
	frame_rx_init(&r->from_share, NO_EPOCH);
}

static void guest_came(void *opaque)
{
	struct relay *r = opaque;

	forget(r);
	r->connected = true;
	port_opened(r->port, true);
	port_wakeup(r->port);
}

static void guest_went(void *opaque)
{
	struct relay *r = opaque;

	forget(r);
	r->connected = false;
	/* Without a client the port is made anew, closed. */
	if (r->client)
		port_opened(r->port, false);
}

static void guest_readable(void *opaque)
{
	struct relay *r = opaque;

	port_wakeup(r->port);
}

static const struct guest_ops guest_ops = {
	.came = guest_came,
	.went = guest_went,
	.readable = guest_readable,
};

static void start(void *end, const uint8_t *secret)
{
	struct relay *r = end;

	r->client = true;
	r->spoken = false;
	r->failed = false;
	r->n_epochs = 0;
	guest_want(r->guest, true);
}

static void stop(void *end, const char *why)
{
	struct relay *r = end;

	r->client = false;
	r->spoken = false;
	guest_want(r->guest, false);
	forget(r);
}

static bool is_up(const void *end)
{
	const struct relay *r = end;

	return r->spoken;
}

static long long last_heard(const void *end)
{
	const struct relay *r = end;

	return r->last_heard;
}

static bool is_open(const void *end)
{
	const struct relay *r = end;

	return r->connected;
}

/* ---- life ---- */

static void end_free(void *end)
{
	struct relay *r = end;

	guest_free(r->guest);
	loop_timer_remove(r->timer);
	free(r);
}

static void *make(uint32_t number, struct port *port)
{
	struct relay *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->number = number;
	r->port = port;
	forget(r);
	r->timer = loop_timer_add(on_timer, r);
	r->guest = guest_new(number, &guest_ops, r);
	if (r->timer && r->guest)
		return r;
	end_free(r);
	return NULL;
}

const struct port_end relay_end = {
	.make = make,
	.free = end_free,
	.start = start,
	.stop = stop,
	.input = input,
	.output = output,
	.is_up = is_up,
	.last_heard = last_heard,
	.is_open = is_open,
};

bool relay_start(const struct linkconf *c, bool sandbox)
{
	const char *prefix;

	credits_budget(port_session_params()->credit_budget);
	guests_limit(port_session_params()->credit_budget / 4 * 5);
	if (!linkconf_relay_listens(c, &prefix) && !guests_connect(prefix, sandbox))
		return false;
	for (uint32_t i = 0; i <= PORT_NUMBER_MAX; i++)
		if (linkconf_relays_port(c, i) && !port_add(i))
			return false;
	return true;
}
