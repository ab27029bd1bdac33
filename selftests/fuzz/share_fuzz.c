// SPDX-License-Identifier: GPL-2.0-only
/*
 * A spicebd-share's sessions, streams, offers and requests before a hostile link.
 * In place of Spice channels there are ports that hand on what the script says
 * and complete writes when it says so, some frames by pieces, as a tap does; in
 * place of nbdkits, socket pairs whose
 * other ends are the script's, and which are reaped when it says so.
 *
 * What must hold: a hello is answered only when every server of the port's older
 * epochs is gone (the fence), frames leave whole and numbered without a gap, no
 * more data than there is credit for, never two drives with one medium open for
 * writing, and nothing is lost or grows.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core.h"
#include "fuzz.h"
#include "log.h"

#define PORTS		2
#define IDS		256
#define SERVERS_MAX	(PORTS * FRAME_STREAMS_MAX * 40)

struct server {
	struct spicebd_share *share;
	struct stream *stream;
	const struct offer *offer;
	unsigned int drive, epoch;
	bool ending, killed;
	int fd;			/* the server's end; -1: it has closed it */
};

struct side {			/* the link's end of a port */
	struct port *port;
	uint32_t epoch, seq, in_epoch, in_seq;
	struct frame_tx checks;	/* only what it says of them */
	bool tracked, refused;
	bool held, flowed;	/* the session was full; tap_flows() came since */
	int64_t credit[IDS];
	unsigned int session;	/* hellos sent */
	GQueue sent;		/* txbufs not completed yet */
};

static struct spicebd_share share;
static struct side sides[PORTS];
static GPtrArray *timers;
static char *paths[2];
static unsigned int n_servers;

/* ---- time */

struct timer {
	guint id;
	long long due;
	guint interval;
	GSourceFunc fn;
	gpointer data;
};

guint __wrap_g_timeout_add(guint ms, GSourceFunc fn, gpointer data);
gboolean __wrap_g_source_remove(guint id);
gboolean __real_g_source_remove(guint id);
void __wrap_g_usleep(gulong us);
int LLVMFuzzerInitialize(int *argc, char ***argv);

void __wrap_g_usleep(gulong us)
{
	fuzz_now += us / 1000 + 1;
}

guint __wrap_g_timeout_add(guint ms, GSourceFunc fn, gpointer data)
{
	static guint last = 1u << 30;
	struct timer *t = g_new0(struct timer, 1);

	*t = (struct timer) { ++last, fuzz_now + ms, ms, fn, data };
	g_ptr_array_add(timers, t);
	return t->id;
}

gboolean __wrap_g_source_remove(guint id)
{
	for (guint i = 0; i < timers->len; i++) {
		struct timer *t = g_ptr_array_index(timers, i);

		if (t->id == id)
			return g_ptr_array_remove_index(timers, i) != NULL;
	}
	must(id <= 1u << 30);
	return __real_g_source_remove(id);
}

static void run_timers(void)
{
	for (guint i = 0; i < timers->len; i++) {
		struct timer *t = g_ptr_array_index(timers, i), copy = *t;

		if (t->due > fuzz_now)
			continue;
		t->due = fuzz_now + t->interval;
		if (!copy.fn(copy.data)) {
			for (guint k = 0; k < timers->len; k++) {
				t = g_ptr_array_index(timers, k);
				if (t->id == copy.id)
					g_ptr_array_remove_index(timers, k);
			}
		}
		i = -1;		/* the list has changed */
	}
}

static void settle(void)
{
	for (int i = 0; i < 200 && g_main_context_iteration(NULL, FALSE); i++)
		;
	run_timers();
}

/* ---- in place of serve.c, folder.c and identity.c */

static void server_gone(struct server *srv, int status)
{
	struct stream *s = srv->stream;

	share.servers = g_list_remove(share.servers, srv);
	if (srv->fd >= 0)
		close(srv->fd);
	g_free(srv);
	if (s)
		stream_server_ended(s, status);
	share_progress(&share);
	share_unhold(&share);
}

static struct side *side_of(unsigned int drive)
{
	return &sides[drive % PORTS];
}

struct server *server_start(struct offer *o, struct stream *s, unsigned int drive,
			    int *fd, char **error)
{
	struct server *srv;
	int sv[2];

	if (n_servers++ % 7 == 6 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0) {
		*fd = -1;
		*error = g_strdup("cannot start the NBD server: nothing left");
		return NULL;
	}
	for (GList *l = share.servers; l; l = l->next) {
		struct server *old = l->data;

		must(old->offer != o || o->read_only || old->drive == drive);
		must(old->offer != o || o->read_only || !old->ending);
	}
	srv = g_new0(struct server, 1);
	*srv = (struct server) {
		.share = &share, .stream = s, .offer = o, .drive = drive,
		.epoch = side_of(drive)->session, .fd = sv[1],
	};
	*fd = sv[0];
	share.servers = g_list_prepend(share.servers, srv);
	share.hold++;
	return srv;
}

void server_end(struct server *srv, bool kill)
{
	srv->ending = true;
	srv->killed |= kill;
}

void server_detach(struct server *srv)
{
	srv->stream = NULL;
}

unsigned int server_count(struct spicebd_share *s, int drive, const struct offer *o)
{
	unsigned int n = 0;

	for (GList *l = s->servers; l; l = l->next) {
		const struct server *srv = l->data;

		n += (drive < 0 || srv->drive == drive) && (!o || srv->offer == o);
	}
	return n;
}

bool server_ending(const struct offer *o)
{
	for (GList *l = share.servers; l; l = l->next) {
		const struct server *srv = l->data;

		if (srv->offer == o && srv->ending)
			return true;
	}
	return false;
}

struct folder *folder_start(struct offer *o, char **error)
{
	*error = g_strdup("no folders here");
	return NULL;
}

void folder_stop(struct folder *f)
{
}

uint64_t folder_made(const struct folder *f)
{
	return 0;
}

/* What is remembered beyond a process is none of an input's. */
void identity_recall(struct offer *o)
{
}

bool identity_keep(struct offer *o)
{
	return true;
}

void identity_stamp(struct offer *o)
{
}

static struct server *nth_server(unsigned int n)
{
	return g_list_nth_data(share.servers, n % (g_list_length(share.servers) ?: 1));
}

/* ---- in place of port.c and tap.c */

static uint32_t get32(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The fence: the answer to a hello says that nothing older is left. */
static void check_fence(struct side *d)
{
	for (GList *l = share.servers; l; l = l->next) {
		const struct server *srv = l->data;

		must(srv->drive != d->port->drive);
	}
}

static void check_frame(struct side *d, const uint8_t *b, size_t len)
{
	uint16_t type = b[4] | b[5] << 8;
	uint32_t stream = get32(b + 8), epoch = get32(b + 16), seq = get32(b + 20);

	/* The rest of a frame that the link may be waiting for. */
	if (len == FRAME_MAX && !get32(b))
		return;
	must(len >= FRAME_HEADER_LEN && len == FRAME_HEADER_LEN + get32(b + 12));
	must(len <= FRAME_MAX && get32(b) == FRAME_MAGIC);
	if (type == FRAME_RESYNC) {
		must(!epoch && !seq && len == FRAME_HEADER_LEN);
		return;
	}
	if (type == FRAME_HELLO) {
		check_fence(d);
		d->in_epoch = epoch;
		d->in_seq = 0;
	}
	/* Where a link lets 512 frames lie, what is refused leaves a gap for it to see. */
	must(d->refused || (epoch == d->in_epoch && seq == d->in_seq));
	d->in_epoch = epoch;
	d->in_seq = seq + 1;
	d->refused = false;
	if (type != FRAME_DATA || stream >= IDS)
		return;
	d->credit[stream] -= len - FRAME_HEADER_LEN -
			     (b[6] & FRAME_FLAG_CHECKED ? FRAME_CHECK_LEN : 0);
	must(!d->tracked || d->credit[stream] >= 0);
}

struct txbuf *port_get_buffer(struct port *p)
{
	struct txbuf *b = p->pool;

	if (b) {
		p->pool = b->next;
		return b;
	}
	if (p->pool_made >= SHARE_BUFFERS)
		return NULL;
	b = g_malloc(sizeof(*b) + FRAME_MAX);
	b->pooled = true;
	b->port = p;
	p->pool_made++;
	return b;
}

void port_put_buffer(struct txbuf *b)
{
	b->next = b->port->pool;
	b->port->pool = b;
}

void port_unref(struct port *p)
{
	if (--p->refs)
		return;
	while (p->pool) {
		struct txbuf *b = p->pool;

		p->pool = b->next;
		g_free(b);
	}
	g_free(p);
}

void port_written(struct txbuf *b)
{
	struct port *p = b->port;

	if (b->pooled) {
		p->data_out--;
		port_put_buffer(b);
	} else {
		p->control_out--;
		g_free(b);
	}
	if (!p->gone)
		session_progress(p);
	port_unref(p);
}

void port_batch_begin(struct port *p)
{
	p->refs++;
}

void port_batch_end(struct port *p)
{
	port_unref(p);
}

void port_send_buffer(struct port *p, struct txbuf *b, size_t len)
{
	struct side *d = side_of(p->drive);

	p->refs++;
	if (b->pooled)
		must(++p->data_out <= SHARE_BUFFERS);
	else
		p->control_out++;
	check_frame(d, b->b.data, len);
	g_queue_push_tail(&d->sent, b);
}

bool port_send_small(struct port *p, const uint8_t *frame, size_t len)
{
	struct txbuf *b;

	if (!p->opened || p->gone || p->control_out >= SHARE_CONTROL_MAX) {
		side_of(p->drive)->refused = true;
		return false;
	}
	b = g_malloc(sizeof(*b) + len);
	b->pooled = false;
	b->port = p;
	memcpy(b->b.data, frame, len);
	port_send_buffer(p, b, len);
	return true;
}

void tap_flows(struct port *p)
{
	side_of(p->drive)->flowed = true;
}

/* What holds up a port is told when that is over, or it would be for longer. */
static void check_hold(struct side *d)
{
	bool held = session_hold(d->port);

	must(!d->held || held || d->flowed || (d->port->streams && d->port->streams->next));
	if (held && !d->held)
		d->flowed = false;
	d->held = held;
}

void port_attach(struct spicebd_share *s, unsigned int site, SpiceChannel *channel)
{
}

void port_detach(struct port *p)
{
	p->share->ports = g_list_remove(p->share->ports, p);
	if (p->opened)
		session_closed(p, "the connection was closed");
	p->opened = false;
	p->gone = true;
	port_unref(p);
}

/* ---- the user */

static void on_event(void *user, const struct spicebd_share_event *ev)
{
	must(ev->drive >= -1 && ev->drive < PORTS);
	if (ev->medium)
		must(ev->medium->name && ev->medium->path);
	if (ev->text)
		must(strlen(ev->text) < 1024);
}

static void on_answer(void *user, enum spicebd_share_answer answer, const char *text)
{
	must(answer == SPICEBD_SHARE_DONE || text);
}

static void offer(unsigned int how)
{
	struct spicebd_share_medium m = {
		.path = paths[how % 2], .as = SPICEBD_SHARE_DISK, .read_write = how & 2,
	};
	char *error = NULL;

	if (share.offers->len >= 4 || !spicebd_share_offer(&share, &m, NULL, &error))
		g_free(error);
}

static void user(struct script *s)
{
	uint8_t what = take8(s), id = take8(s);

	switch (what % 8) {
	case 0:
		offer(id);
		break;
	case 1:
		spicebd_share_withdraw(&share, id);
		break;
	case 2:
	case 3:
		spicebd_share_eject(&share, id, what & 8, on_answer, NULL);
		break;
	case 4:
		spicebd_share_change(&share, id, take8(s), on_answer, NULL);
		break;
	case 5:
		must(truncate(paths[id % 2], 4096 + 512 * (id & 2)) == 0);
		break;
	case 6:
		spicebd_share_request_eject(&share);
		break;
	case 7:
		share_progress(&share);
	}
}

/* ---- the link */

static void say(struct side *d, const uint8_t *b, size_t len)
{
	uint8_t *copy = g_memdup2(b, len);

	/* As large as it is, so that a byte beyond it is seen. */
	if (d->port->opened && len)
		session_input(d->port, copy, len);
	g_free(copy);
}

static void serve(struct script *s);
static void reap(unsigned int n);

/* What a tap does with a frame that it says is @len bytes long. */
static void say_by_pieces(struct script *s, struct side *d, uint8_t *b, size_t len)
{
	unsigned int how = take8(s);
	size_t said = how % 8 ? len : len + (how >> 3) - 16, n;
	ssize_t r;
	int fd;

	if (!d->port->opened || !session_begin(d->port, b, said)) {
		say(d, b, len);
		return;
	}
	must((b[4] | b[5] << 8) == FRAME_DATA && said == len && said > FRAME_HEADER_LEN);
	must(!d->port->rx.have && !d->port->rx.checked && d->port->state == PORT_UP);
	for (size_t at = FRAME_HEADER_LEN; at < len; at += n) {
		how = take8(s);
		n = s->left ? 1 + (how >> 2) * 512 : len;
		n = MIN(n, len - at);
		if (how % 4 == 3 && s->left) {
			if (how & 64)
				serve(s);
			else
				user(s);
			if (how & 128)
				reap(1000);
			settle();
		}
		fd = session_sink(d->port);
		r = how % 4 && fd >= 0 ? send(fd, b + at, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
		if (r > 0)
			session_moved(d->port, r);
		r = MAX(r, 0);
		if ((size_t)r < n)
			session_part(d->port, b + at + r, n - r);
		check_hold(d);
	}
}

static void say_frame(struct script *s, struct side *d, bool bend, bool by_pieces)
{
	static uint8_t b[FRAME_MAX];
	struct frame_tx tx = d->checks;
	uint16_t type = take8(s);
	uint32_t stream = take8(s);
	size_t want = take8(s), n, len;
	const uint8_t *payload;

	tx.epoch = d->epoch;
	tx.seq = d->seq;
	if (type >= 0xf0)
		type = 0x8000 | type;
	n = want = want < 200 ? want : (want - 199) * 1000;
	if (by_pieces && want > 200)
		n = 0;		/* the script says how they come */
	payload = take_bytes(s, &n);
	memset(b + FRAME_HEADER_LEN, 'x', want);
	memcpy(b + FRAME_HEADER_LEN, payload, n);
	len = frame_seal(&tx, b, type, stream, want);
	if (type == FRAME_OPEN && want == 8 && stream < IDS)
		d->credit[stream] += get32(b + FRAME_HEADER_LEN + 4);
	if (type == FRAME_CREDIT && want == 4 && stream < IDS)
		d->credit[stream] += get32(b + FRAME_HEADER_LEN);
	if (bend) {
		b[take8(s) % len] ^= take8(s);
		d->tracked = false;
	}
	d->seq = tx.seq;
	if (by_pieces)
		say_by_pieces(s, d, b, len);
	else
		say(d, b, len);
}

static void say_hello(struct script *s, struct side *d)
{
	struct frame_hello h = {
		.version = FRAME_VERSION, .role = FRAME_ROLE_LINK, .frame_max = FRAME_MAX,
		.ping_interval = 5000, .ping_timeout = 15000,
	};
	uint8_t b[FRAME_SMALL_MAX], how = take8(s);
	struct frame_tx tx = { 0 };

	if (!(how & 1))
		d->epoch++;
	memset(h.secret, how & 8 ? how : 1, sizeof(h.secret));
	h.capabilities = (how & 2) | (how >> 5 & 1);
	if (how & 4)
		h.frame_max = 4096;
	if (how >= 0xf0)
		h.version = how;
	h.epoch = d->epoch;
	tx.epoch = d->epoch;
	tx.seq = 0;
	d->session++;
	memset(d->credit, 0, sizeof(d->credit));
	d->tracked = !(how & 1);
	frame_pack_hello(&tx, b, &h);
	d->seq = tx.seq;
	d->checks.checked = h.capabilities & FRAME_CAP_CHECKS;
	d->checks.seed = frame_seed(h.secret);
	say(d, b, FRAME_HEADER_LEN + FRAME_HELLO_LEN);
}

static void say_raw(struct script *s, struct side *d)
{
	size_t n = take8(s);
	const uint8_t *b = take_bytes(s, &n);

	d->tracked = false;
	say(d, b, n);
}

static void complete(struct side *d, unsigned int n)
{
	while (n-- && !g_queue_is_empty(&d->sent))
		port_written(g_queue_pop_head(&d->sent));
}

/* ---- the NBD servers */

static void serve(struct script *s)
{
	static char b[1 << 16];
	uint8_t what = take8(s);
	struct server *srv = nth_server(take8(s));
	size_t n = take16(s);

	if (!srv)
		return;
	switch (what % 4) {
	case 0:
		if (srv->fd >= 0)
			(void)send(srv->fd, b, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 1:
		if (srv->fd >= 0)
			(void)recv(srv->fd, b, n, MSG_DONTWAIT);
		break;
	case 2:
		if (srv->fd >= 0)
			close(srv->fd);
		srv->fd = -1;
		break;
	case 3:
		server_gone(srv, what & 4 ? 0 : what & 8 ? 0x100 : 9);
	}
}

static void reap(unsigned int n)
{
	for (GList *l = share.servers; l && n;) {
		struct server *srv = l->data;

		l = l->next;
		if (!srv->ending)
			continue;
		server_gone(srv, 0);
		l = share.servers;
		n--;
	}
}

static void port_opens(struct side *d, bool open)
{
	struct port *p = d->port;

	if (p->opened)
		session_closed(p, open ? "the port was opened anew" : "the other end closed the port");
	p->opened = open;
	d->tracked = false;
	if (open)
		session_opened(p, false);
}

/* ---- an input */

static void step(struct script *s)
{
	uint8_t op = take8(s);
	struct side *d = &sides[op >> 7];

	switch (op % 16) {
	case 0:
		say_hello(s, d);
		break;
	case 1:
	case 2:
	case 3:
		say_frame(s, d, false, false);
		break;
	case 4:
		say_frame(s, d, true, false);
		break;
	case 5:
		say_raw(s, d);
		break;
	case 6:
		complete(d, take8(s));
		break;
	case 7:
	case 8:
		serve(s);
		break;
	case 9:
		reap(take8(s));
		break;
	case 10:
		user(s);
		break;
	case 11:
		fuzz_now += take16(s);
		break;
	case 12:
		port_opens(d, take8(s) & 1);
		break;
	case 14:
		say_frame(s, d, op & 32, true);
		break;
	default:
		complete(d, 1000);
		reap(1000);
	}
	if (!(op & 64))
		settle();
	for (unsigned int i = 0; i < PORTS; i++)
		check_hold(&sides[i]);
	for (unsigned int i = 0; i < PORTS; i++)
		must(sides[i].port->control_out <= SHARE_CONTROL_MAX);
	must(share.windows <= SHARE_WINDOWS + PORTS * 64 * SHARE_WINDOW_MIN);
}

static void begin(void)
{
	memset(&share, 0, sizeof(share));
	share.hold = 1u << 20;	/* it is never freed: it is ours */
	share.fn = on_event;
	share.nbdkit = (char *)"nbdkit";
	share.offers = g_ptr_array_new_with_free_func((GDestroyNotify)offer_free);
	for (unsigned int i = 0; i < PORTS; i++) {
		struct port *p = g_new0(struct port, 1);

		sides[i] = (struct side) { .port = p, .epoch = 100 * (i + 1), .tracked = true };
		g_queue_init(&sides[i].sent);
		p->share = &share;
		p->refs = 1;
		p->drive = i;
		p->known = p->opened = true;
		share.ports = g_list_append(share.ports, p);
		session_opened(p, false);
	}
	must(truncate(paths[0], 4096) == 0 && truncate(paths[1], 4096) == 0);
	n_servers = 0;
	offer(0);
	offer(3);
}

static void end(void)
{
	share.stopping = true;
	for (GList *l = share.ports; l; l = l->next)
		session_bye(l->data, FRAME_ERR_SHUTDOWN, "the share ends");
	settle();
	while (share.servers) {
		unsigned int before = g_list_length(share.servers);

		reap(1000);
		settle();
		/* Nothing runs on that nobody told to end. */
		must(g_list_length(share.servers) < before);
	}
	share.freed = true;
	asks_free(&share);
	for (unsigned int i = 0; i < PORTS; i++) {
		sides[i].port->refs++;
		port_detach(sides[i].port);
		complete(&sides[i], 100000);
		must(!sides[i].port->streams && sides[i].port->refs == 1);
		port_unref(sides[i].port);
	}
	settle();
	must(!share.windows);
	if (share.sweep)
		g_source_remove(share.sweep);
	g_ptr_array_free(share.offers, TRUE);
	g_list_free_full(g_steal_pointer(&share.withdrawn), (GDestroyNotify)offer_free);
	must(!timers->len);
}

static void remove_files(void)
{
	unlink(paths[0]);
	unlink(paths[1]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	timers = g_ptr_array_new_with_free_func(g_free);
	for (int i = 0; i < 2; i++) {
		int fd = g_file_open_tmp("share_fuzz.XXXXXX", &paths[i], NULL);

		must(fd >= 0);
		close(fd);
	}
	atexit(remove_files);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int fds;

	settle();
	fds = open_fds();
	fuzz_clock_reset();
	begin();
	while (s.left)
		step(&s);
	end();
	must(open_fds() == fds);
	return 0;
}
