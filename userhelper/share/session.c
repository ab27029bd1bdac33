// SPDX-License-Identifier: GPL-2.0-only
/*
 * The share's end of the frame layer. The link speaks first: its HELLO carries
 * the epoch. The answer waits until every server of an older epoch of this port
 * has been reaped; that is the fence of the whole project.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core.h"
#include "log.h"
#include "sock.h"

#define HELLO_WAIT_MS	2000	/* for the link to begin by itself */
#define HELLO_SOON_MS	300	/* likewise, a guest's, which may not know that it should */
#define HELLO_RETRY_MS	1000
#define HELLO_SLOW_MS	10000	/* after ... */
#define HELLO_SLOW	10	/* ... so many */
#define HELLO_TRIES	60	/* then only the link can begin */
#define HELLO_TELL	4	/* tries after which the user hears of it */
#define PING_INTERVAL	2000
/*
 * Without a sign of life; twice as long after each time that it was over, so that an
 * end that is only slow is not left again and again, until all was well for long.
 */
#define PING_TIMEOUT	10000
#define PING_LINKING	30000
#define PING_DOUBLED_MAX 3
#define PING_CALM_MS	600000
#define FAULTS_MAX	5	/* in FAULTS_MS; then the port is left alone */
#define FAULTS_MS	60000
#define STREAM_STUBS	32	/* refused streams whose CLOSE is awaited */

static void expect_hello(struct port *p);

/* ---- sending */

bool session_send_code(struct port *p, uint16_t type, uint32_t stream, uint32_t code,
		       const char *text)
{
	uint8_t b[FRAME_SMALL_MAX];

	return port_send_small(p, b, frame_pack_code(&p->tx, b, type, stream, code, text));
}

bool session_send_u32(struct port *p, uint16_t type, uint32_t stream, uint32_t v)
{
	uint8_t b[FRAME_SMALL_MAX];

	return port_send_small(p, b, frame_pack_u32s(&p->tx, b, type, stream, &v, 1));
}

static bool send_empty(struct port *p, uint16_t type)
{
	uint8_t b[FRAME_SMALL_MAX];

	return port_send_small(p, b, frame_pack_empty(&p->tx, b, type));
}

static bool send_u64(struct port *p, uint16_t type, uint64_t v)
{
	uint8_t b[FRAME_SMALL_MAX];

	return port_send_small(p, b, frame_pack_u64(&p->tx, b, type, v));
}

void session_offer(struct port *p, struct offer *o)
{
	uint8_t b[FRAME_SMALL_MAX];
	struct frame_offer f;

	if (p->state != PORT_UP)
		return;
	offer_to_frame(o, p->drive, &f);
	port_send_small(p, b, frame_pack_offer(&p->tx, b, &f));
}

void session_offer_all_ports(struct offer *o, int but_drive)
{
	if (!o->info.ready)
		return;
	for (GList *l = o->share->ports; l; l = l->next) {
		struct port *p = l->data;

		if (p->drive != but_drive)
			session_offer(p, o);
	}
}

void session_withdraw_all_ports(struct offer *o)
{
	asks_offer_over(o);
	move_offer_over(o);
	for (GList *l = o->info.ready ? o->share->ports : NULL; l; l = l->next) {
		struct port *p = l->data;

		if (p->state == PORT_UP)
			session_send_u32(p, FRAME_WITHDRAW, 0, o->info.id);
	}
}

void session_move_state(struct port *p, const struct frame_move_state *m)
{
	uint8_t b[FRAME_SMALL_MAX];

	if (p->state == PORT_UP && p->peer.capabilities & FRAME_CAP_MOVE)
		port_send_small(p, b, frame_pack_move_state(&p->tx, b, m));
}

bool session_eject_request(struct port *p, struct offer *o, bool force,
			   const struct offer *by)
{
	uint32_t flags = (force ? FRAME_EJECT_FORCE : 0) | (by ? FRAME_EJECT_REPLACE : 0);
	uint8_t b[FRAME_SMALL_MAX];

	if (by && !(p->peer.capabilities & FRAME_CAP_ANSWERS))
		return false;
	port_send_small(p, b, frame_pack_eject(&p->tx, b, o->info.id, flags,
					       by ? by->info.id : 0));
	return true;
}

/* ---- beginning and end */

static void stop_timer(guint *t)
{
	if (*t)
		g_source_remove(*t);
	*t = 0;
}

/* Ends what the session had. Its servers are killed, and counted until reaped. */
static void reset(struct port *p, enum port_state next, const char *why)
{
	bool was_up = p->state == PORT_UP;

	stop_timer(&p->hello_timer);
	stop_timer(&p->ping_timer);
	p->state = next;
	while (p->streams)
		stream_abort(p->streams->data);
	if (!was_up)
		return;
	move_session_over(p);
	share_event(p->share, SPICEBD_SHARE_PORT_DOWN, p->drive, NULL, why);
	asks_session_over(p);
}

void session_bye(struct port *p, uint32_t code, const char *text)
{
	bool up = p->state == PORT_UP;

	reset(p, PORT_CLOSED, text);
	if (up)
		session_send_code(p, FRAME_BYE, 0, code, text);
}

void session_fault(struct port *p, uint32_t code, const char *fmt, ...)
{
	long long now = now_ms();
	char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (now - p->fault_since > FAULTS_MS) {
		p->fault_since = now;
		p->faults = 0;
	}
	log_warn("drive %u: %s: %s; the session is closed", drive_no(p->drive),
		 frame_code_str(code), text);
	session_bye(p, code, text);
	if (++p->faults < FAULTS_MAX) {
		p->hello_tries = 0;
		expect_hello(p);
		return;
	}
	log_warn("drive %u: too many errors; its port is left alone from now on",
		 drive_no(p->drive));
	p->state = PORT_SHUT;
}

/*
 * Where bytes were lost the link may be waiting for the rest of a frame, and would
 * take the RESYNC for it. So the largest rest that there can be goes first, where
 * frames are checked: the check will be wrong, or, between two frames, it is no
 * frame. A link that does not answer may be in that state since an earlier share.
 */
static void ask_for_hello(struct port *p)
{
	static const uint8_t rest[FRAME_MAX];

	if (p->tx.checked || p->share->checked || p->hello_tries > 1)
		port_send_small(p, rest, sizeof(rest));
	send_empty(p, FRAME_RESYNC);
}

static gboolean on_hello_timer(gpointer data)
{
	struct port *p = data;

	p->hello_timer = 0;
	ask_for_hello(p);
	if (p->hello_tries == HELLO_TELL)
		share_event(p->share, SPICEBD_SHARE_PORT_SILENT, p->drive, NULL,
			    "nobody answers there; is spicebd running at the other end?");
	if (p->hello_tries < HELLO_TRIES)
		expect_hello(p);
	return G_SOURCE_REMOVE;
}

static void expect_hello(struct port *p)
{
	unsigned int wait = HELLO_RETRY_MS;

	if (!p->hello_tries && !p->lost)
		wait = p->share->checked ? HELLO_SOON_MS : HELLO_WAIT_MS;
	else if (p->hello_tries > HELLO_SLOW)
		wait = HELLO_SLOW_MS;
	stop_timer(&p->hello_timer);
	p->hello_timer = g_timeout_add(wait, on_hello_timer, p);
	p->hello_tries++;
}

void session_opened(struct port *p, bool again)
{
	if (p->state == PORT_SHUT && now_ms() - p->fault_since < FAULTS_MS)
		return;
	reset(p, PORT_WAIT_HELLO, "the port was opened anew");
	frame_rx_init(&p->rx, 0);
	p->lost = false;
	p->hello_tries = 0;
	if (p->share->stopping)
		return;
	/* In a migration, of which the link may know nothing. */
	if (again)
		ask_for_hello(p);
	p->hello_tries = again;
	expect_hello(p);
}

void session_closed(struct port *p, const char *why)
{
	if (p->state != PORT_SHUT)
		reset(p, PORT_DOWN, why);
}

/* ---- liveness */

static unsigned int ping_timeout(struct spicebd_share *share)
{
	if (now_ms() - share->silent_at > PING_CALM_MS)
		share->silences = 0;
	return PING_TIMEOUT << share->silences;
}

static bool linking(const struct port *p)
{
	for (GList *l = p->share->ports; l; l = l->next) {
		const struct port *other = l->data;

		if (other->site == p->site && !other->opened && !other->gone)
			return true;
	}
	return false;
}

/*
 * A link that still links other channels of the session may be busy with that for long:
 * for each of them libspice-server makes a key.
 */
static unsigned int silence_borne(struct port *p)
{
	unsigned int limit = ping_timeout(p->share);

	return linking(p) ? MAX(limit, PING_LINKING) : limit;
}

static gboolean on_ping_timer(gpointer data)
{
	struct port *p = data;
	unsigned int limit = silence_borne(p);
	char text[64];

	if (now_ms() - p->last_rx < limit) {
		if (p->control_out < SHARE_CONTROL_MAX / 2)
			send_u64(p, FRAME_PING, now_ms());
		return G_SOURCE_CONTINUE;
	}
	p->ping_timer = 0;
	p->share->silent_at = now_ms();
	p->share->silences = MIN(p->share->silences + 1, PING_DOUBLED_MAX);
	reset(p, PORT_WAIT_HELLO, "nothing was heard of the other end");
	p->hello_tries = 0;
	expect_hello(p);
	snprintf(text, sizeof(text), "nothing was heard of the other end for %u s",
		 limit / 1000);
	share_event(p->share, SPICEBD_SHARE_PORT_LOST, p->drive, NULL, text);
	return G_SOURCE_REMOVE;
}

/* ---- hello */

static bool send_hello(struct port *p)
{
	struct frame_hello h = {
		.version = FRAME_VERSION,
		.role = FRAME_ROLE_SHARE,
		.capabilities = FRAME_CAP_ANSWERS | FRAME_CAP_MOVE | FRAME_CAP_CHECKS,
		.epoch = p->peer.epoch,
		.frame_max = FRAME_MAX,
		.ping_interval = PING_INTERVAL,
		.ping_timeout = ping_timeout(p->share),
	};
	uint8_t b[FRAME_SMALL_MAX];

	memcpy(h.boot_id, p->share->boot_id, sizeof(h.boot_id));
	memcpy(h.instance, p->share->instance, sizeof(h.instance));
	return port_send_small(p, b, frame_pack_hello(&p->tx, b, &h));
}

/* Our hello says which version we speak; a later one may know what to do. */
static void refuse_version(struct port *p)
{
	log_err("drive %u: the other end speaks version %u of the protocol, this program %u; "
		"install matching versions of spicebd", drive_no(p->drive), p->peer.version,
		FRAME_VERSION);
	p->state = PORT_CLOSED;
	send_hello(p);
	session_send_code(p, FRAME_BYE, 0, FRAME_ERR_VERSION, "only version 1 is spoken here");
}

/* It begins anew faster than it takes answers: without a hello there is no session. */
static void hello_refused(struct port *p)
{
	p->state = PORT_WAIT_HELLO;
	p->hello_tries = 0;
	expect_hello(p);
}

static void go_up(struct port *p)
{
	struct spicebd_share *share = p->share;
	struct spicebd_share_event ev = {
		.type = SPICEBD_SHARE_PORT_UP,
		.drive = drive_no(p->drive),
		.secret = p->peer.secret,
		.session = share->sites[p->site].session,
	};

	p->state = PORT_UP;
	p->last_rx = now_ms();
	/*
	 * Our hello says that we have the secret, and the password is spent by it:
	 * nothing leaves before the event's receiver has put the secret away.
	 */
	port_batch_begin(p);
	if (!send_hello(p)) {
		hello_refused(p);
		port_batch_end(p);
		return;
	}
	p->ping_timer = g_timeout_add(PING_INTERVAL, on_ping_timer, p);
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (o->info.ready)
			session_offer(p, o);
	}
	send_empty(p, FRAME_OFFERS_END);
	share->fn(share->user, &ev);
	for (guint i = 0; i < share->offers->len && p->state == PORT_UP; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (o->info.ready)
			share_event(share, SPICEBD_SHARE_OFFERED, p->drive, o, NULL);
	}
	port_batch_end(p);
}

void session_progress(struct port *p)
{
	if (p->state == PORT_FENCING && server_count(p->share, p->drive, NULL))
		return;
	if (p->state == PORT_FENCING && p->peer.version != FRAME_VERSION)
		refuse_version(p);
	else if (p->state == PORT_FENCING)
		go_up(p);
	else if (p->state == PORT_UP && (p->pool || p->pool_made < SHARE_BUFFERS))
		stream_next_starved(p);
}

/*
 * What a drive's users wrote may look like a hello, and when bytes were lost it
 * may stand where one is looked for. The secret is what they cannot know.
 */
static bool is_forged(struct port *p, const struct frame_hello *hello, uint32_t lost_epoch)
{
	if (!p->lost || !memcmp(hello->secret, p->secret, sizeof(p->secret)))
		return false;
	p->rx.epoch = lost_epoch;
	p->rx.hunting = true;
	log_debug("drive %u: a hello with another secret is passed over",
		  drive_no(p->drive));
	return true;
}

static void on_hello(struct port *p, const struct frame_header *h, const uint8_t *payload)
{
	struct frame_hello hello;

	if (!frame_parse_hello(payload, h->length, &hello) || hello.epoch != h->epoch ||
	    hello.role != FRAME_ROLE_LINK) {
		session_fault(p, FRAME_ERR_PROTOCOL, "a hello that is none");
		return;
	}
	if (p->share->stopping || is_forged(p, &hello, p->peer.epoch))
		return;
	if (p->state == PORT_UP && hello.epoch == p->tx.epoch) {
		session_fault(p, FRAME_ERR_PROTOCOL, "a second hello of one epoch");
		return;
	}
	reset(p, PORT_FENCING, "the other end began anew");
	p->peer = hello;
	p->lost = false;
	p->last_stream = 0;
	memcpy(p->secret, hello.secret, sizeof(p->secret));
	p->tx = (struct frame_tx){ .epoch = hello.epoch };
	p->tx.checked = p->rx.checked = hello.capabilities & FRAME_CAP_CHECKS;
	p->tx.seed = p->rx.seed = frame_seed(hello.secret);
	p->share->checked = p->tx.checked;
	session_progress(p);
}

/* ---- frames of an established session */

static void on_open(struct port *p, const struct frame_header *h, const uint8_t *payload)
{
	uint32_t v[2];

	if (!frame_parse_u32s(payload, h->length, v, 2) || v[1] > FRAME_CREDIT_MAX ||
	    h->stream <= p->last_stream || g_list_length(p->streams) >= STREAM_STUBS)
		session_fault(p, FRAME_ERR_PROTOCOL, "an OPEN that is not allowed");
	else
		stream_open(p, p->last_stream = h->stream, offer_find(p->share, v[0]), v[1]);
}

static bool on_stream_frame(struct port *p, struct stream *s, const struct frame_header *h,
			    const uint8_t *payload)
{
	char text[FRAME_TEXT_MAX + 1];
	uint32_t v;

	switch (h->type) {
	case FRAME_DATA:
		return stream_data(s, payload, h->length);
	case FRAME_CREDIT:
		return frame_parse_u32s(payload, h->length, &v, 1) && stream_credit(s, v);
	case FRAME_CLOSE:
		return frame_parse_code(payload, h->length, &v, text) &&
		       stream_closed_by_peer(s);
	}
	return false;
}

static void notice(struct port *p, struct offer *o, uint32_t what, const char *text)
{
	static const enum spicebd_share_event_type types[] = {
		[FRAME_NOTICE_INSERTED] = SPICEBD_SHARE_INSERTED,
		[FRAME_NOTICE_EJECTED] = SPICEBD_SHARE_EJECTED,
		[FRAME_NOTICE_LOCKED] = SPICEBD_SHARE_LOCKED,
		[FRAME_NOTICE_UNLOCKED] = SPICEBD_SHARE_UNLOCKED,
		[FRAME_NOTICE_BUSY] = SPICEBD_SHARE_BUSY,
	};

	if (what == FRAME_NOTICE_INSERTED || what == FRAME_NOTICE_EJECTED)
		offer_set_inserted(o, p->drive, what == FRAME_NOTICE_INSERTED);
	if (what == FRAME_NOTICE_LOCKED || what == FRAME_NOTICE_UNLOCKED)
		offer_set_locked(o, p->drive, what == FRAME_NOTICE_LOCKED, text);
	share_event(p->share, types[what], p->drive, o, *text ? text : NULL);
	asks_notice(p, o, what, text);
	if (what == FRAME_NOTICE_EJECTED)
		move_ejected(p);
}

static bool on_session_frame(struct port *p, const struct frame_header *h,
			     const uint8_t *payload)
{
	char text[FRAME_TEXT_MAX + 1];
	struct frame_move move;
	struct offer *o;
	uint32_t v[2];
	uint64_t token;

	switch (h->type) {
	case FRAME_PING:
		return frame_parse_u64(payload, h->length, &token) &&
		       send_u64(p, FRAME_PONG, token);
	case FRAME_PONG:
		return frame_parse_u64(payload, h->length, &token);
	case FRAME_NOTICE:
		if (!frame_parse_notice(payload, h->length, &v[0], &v[1], text))
			return false;
		o = offer_find(p->share, v[1]);
		if (o && v[0] >= FRAME_NOTICE_INSERTED && v[0] <= FRAME_NOTICE_BUSY)
			notice(p, o, v[0], text);
		return true;
	case FRAME_BYE:
		if (!frame_parse_code(payload, h->length, v, text))
			return false;
		reset(p, PORT_CLOSED, *text ? text : frame_code_str(v[0]));
		return true;
	case FRAME_MOVE:
		return frame_parse_move(payload, h->length, &move) && move_heard(p, &move);
	}
	return false;
}

static bool is_stream_type(uint16_t type)
{
	return type == FRAME_DATA || type == FRAME_CREDIT || type == FRAME_CLOSE;
}

static void on_frame(struct port *p, const struct frame_header *h, const uint8_t *payload)
{
	struct stream *s;
	bool ok;

	p->last_rx = now_ms();
	if (h->type == FRAME_HELLO) {
		on_hello(p, h, payload);
		return;
	}
	if (p->state == PORT_FENCING && (h->type == FRAME_PING || h->type == FRAME_BYE)) {
		if (h->type == FRAME_BYE)
			reset(p, PORT_CLOSED, NULL);
		return;
	}
	if (p->state == PORT_CLOSED || p->state == PORT_WAIT_HELLO)
		return;		/* sent before it saw our BYE */
	if (p->state != PORT_UP) {
		session_fault(p, FRAME_ERR_PROTOCOL, "%s before our hello",
			      frame_type_str(h->type));
		return;
	}
	if (h->type & FRAME_TYPE_OPTIONAL)
		return;
	if (h->type == FRAME_OPEN && h->stream) {
		on_open(p, h, payload);
		return;
	}
	s = is_stream_type(h->type) && h->stream ? stream_find(p, h->stream) : NULL;
	ok = s ? on_stream_frame(p, s, h, payload) :
		 !is_stream_type(h->type) && !h->stream && on_session_frame(p, h, payload);
	if (!ok && p->state == PORT_UP)
		session_fault(p, FRAME_ERR_PROTOCOL, "a %s frame that is not allowed",
			      frame_type_str(h->type));
}

static void lost_step(struct port *p)
{
	log_warn("drive %u: bytes are missing; asking for a new session", drive_no(p->drive));
	reset(p, PORT_WAIT_HELLO, "bytes were lost on the way");
	p->lost = true;
	p->hello_tries = 0;
	if (p->share->stopping)
		return;
	ask_for_hello(p);
	expect_hello(p);
}

/*
 * A stream that ends meanwhile takes the rest of its frame with it: the Spice
 * message says where the frame ends.
 */
bool session_begin(struct port *p, const uint8_t *head, size_t len)
{
	struct frame_header h;
	struct stream *s;

	p->direct = NULL;
	if (p->gone || !p->known || !p->opened || p->state != PORT_UP ||
	    !frame_rx_ahead(&p->rx, head, len, &h))
		return false;
	s = stream_find(p, h.stream);
	if (!s || !stream_takes_pieces(s, h.length))
		return false;
	frame_rx_passed(&p->rx);
	p->last_rx = now_ms();
	stream_begin(s, h.length);
	p->direct = s;
	return true;
}

int session_sink(const struct port *p)
{
	return p->direct ? stream_sink(p->direct) : -1;
}

void session_moved(struct port *p, size_t n)
{
	p->last_rx = now_ms();
	if (p->direct)
		stream_moved(p->direct, n);
}

void session_part(struct port *p, const uint8_t *data, size_t len)
{
	p->last_rx = now_ms();
	if (p->direct)
		stream_part(p->direct, data, len);
}

bool session_hold(const struct port *p)
{
	return p->streams && !p->streams->next && stream_is_full(p->streams->data);
}

void session_input(struct port *p, const uint8_t *data, size_t len)
{
	struct frame_header h;
	const uint8_t *payload;
	enum frame_rx_result r;

	p->refs++;	/* a handler may end the connection */
	while (!p->gone && p->opened && p->state != PORT_SHUT) {
		r = frame_rx_feed(&p->rx, &data, &len, &h, &payload);
		if (r == FRAME_RX_NEED_MORE)
			break;
		if (r == FRAME_RX_FRAME) {
			on_frame(p, &h, payload);
		} else if (r == FRAME_RX_LOST) {
			lost_step(p);
		}
	}
	port_unref(p);
}
