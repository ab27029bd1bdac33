// SPDX-License-Identifier: GPL-2.0-only
#include "nbdconn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disc.h"
#include "nbdtls.h"

#define PROBE_BLOCK	4096
#define PROBE_BLOCKS	16
#define PROBE_MAX	(1u << 20)
#define MEASURE_TIMES	3
#define MEASURE_ONCE_US	500
#define DEFAULT_PAYLOAD	(32u << 20)	/* what NBD lets a client assume */

/* libnbd's words begin with the name of its function, which tells a user nothing. */
static const char *nbd_words(void)
{
	const char *s = nbd_get_error(), *colon;

	if (!s)
		return "unknown error";
	while (!strncmp(s, "nbd_", 4) && (colon = strstr(s, ": ")))
		s = colon + 2;
	return s;
}

static int fail_nbd(struct derr *e, const char *what)
{
	const char *w = nbd_words();
	int code = nbd_get_errno();

	if (strcasestr(w, "requires tls"))
		return derr_set(e, code ? code : EPROTO,
				"%s: %s: the server wants TLS: use nbds://", what, w);
	if (strcasestr(w, "certificate verification"))
		return derr_set(e, EACCES,
				"%s: %s: its certificate is not of the authority in ca-cert.pem, of the name that was asked for, or of this time",
				what, w);
	return derr_set(e, code ? code : EPROTO, "%s: %s", what, w);
}

/* One turn of the handle's state machine, or the end of patience. */
static int turn(struct nbd_handle *h, struct task *t, const char *what, struct derr *e)
{
	unsigned int dir = nbd_aio_get_direction(h);
	short events = 0;
	int r;

	if (dir & LIBNBD_AIO_DIRECTION_READ)
		events |= POLLIN;
	if (dir & LIBNBD_AIO_DIRECTION_WRITE)
		events |= POLLOUT;
	r = task_poll(t, nbd_aio_get_fd(h), events, what, e);
	if (r < 0)
		return r;
	if ((dir & LIBNBD_AIO_DIRECTION_READ) && (r & (POLLIN | POLLHUP | POLLERR)))
		r = nbd_aio_notify_read(h);
	else if ((dir & LIBNBD_AIO_DIRECTION_WRITE) && (r & (POLLOUT | POLLHUP | POLLERR)))
		r = nbd_aio_notify_write(h);
	else
		return derr_set(e, EPROTO, "%s: the connection broke", what);
	return r < 0 ? fail_nbd(e, what) : 0;
}

static struct nbd_handle *new_handle(struct derr *e)
{
	struct nbd_handle *h = nbd_create();

	if (!h) {
		fail_nbd(e, "libnbd");
		return NULL;
	}
	/* The description is a part of a plain server's identity. */
	nbd_set_full_info(h, true);
	nbd_set_pread_initialize(h, false);
	nbd_set_uri_allow_local_file(h, true);
	return h;
}

static struct nbd_handle *handshake(struct nbd_handle *h, struct task *t, struct derr *e)
{
	while (nbd_aio_is_connecting(h))
		if (turn(h, t, "NBD server", e) < 0)
			goto bad;
	if (nbd_aio_is_ready(h))
		return h;
	derr_set(e, EPROTO, "NBD server: it ended the connection during the handshake");
bad:
	nbd_close(h);
	return NULL;
}

struct nbd_handle *nbdconn_socket(int fd, struct task *t, struct derr *e)
{
	struct nbd_handle *h = new_handle(e);

	if (!h || nbd_aio_connect_socket(h, fd) < 0) {
		if (h)
			fail_nbd(e, "NBD server");
		nbd_close(h);
		return NULL;
	}
	return handshake(h, t, e);
}

struct nbd_handle *nbdconn_uri(const char *uri, struct task *t, struct derr *e)
{
	struct nbd_handle *h = new_handle(e);

	if (h && nbdtls_prepare(h, uri, e) < 0) {
		nbd_close(h);
		return NULL;
	}
	if (!h || nbd_aio_connect_uri(h, uri) < 0) {
		if (h)
			fail_nbd(e, "cannot connect to the NBD server");
		nbd_close(h);
		return NULL;
	}
	return handshake(h, t, e);
}

/* Reads that are under way together. */
struct read_wait {
	unsigned int left;
	int error;
	uint64_t off;			/* of the one that failed */
};

struct read_one {
	struct read_wait *w;
	uint64_t off;
};

static int on_read(void *arg, int *error)
{
	struct read_one *o = arg;

	o->w->left--;
	if (*error && !o->w->error) {
		o->w->error = *error;
		o->w->off = o->off;
	}
	return 1;
}

static int start_read(struct nbd_handle *h, void *buf, size_t len, struct read_one *o,
		      struct derr *e)
{
	nbd_completion_callback cb = { .callback = on_read, .user_data = o };

	if (nbd_aio_pread(h, buf, len, o->off, cb, 0) < 0)
		return fail_nbd(e, "cannot read the medium");
	o->w->left++;
	return 0;
}

static int end_reads(struct nbd_handle *h, struct read_wait *w, struct task *t, struct derr *e)
{
	while (w->left) {
		int r = turn(h, t, "cannot read the medium", e);

		/*
		 * The buffers are still known to the handle: after an error all
		 * that may be done with it is nbd_close(), which forgets them.
		 */
		if (r < 0 && w->left)
			return r;
	}
	if (w->error)
		return derr_set(e, w->error, "cannot read the medium at byte %llu: %s",
				(unsigned long long)w->off, strerror(w->error));
	return 0;
}

static int read_at(struct nbd_handle *h, void *buf, size_t len, uint64_t off,
		   struct task *t, struct derr *e)
{
	struct read_wait w = { 0 };
	struct read_one o = { .w = &w, .off = off };
	int r = start_read(h, buf, len, &o, e);

	return r < 0 ? r : end_reads(h, &w, t, e);
}

static uint32_t block_size(struct nbd_handle *h, int which, uint32_t fallback)
{
	int64_t v = nbd_get_block_size(h, which);

	return v > 0 && v <= UINT32_MAX ? v : fallback;
}

static uint64_t now_us(void)
{
	return g_get_monotonic_time();
}

/*
 * Small reads, each of which finds the connection idle. The first may have to
 * wait for a disk; where that makes no difference there is no second.
 */
static int measure(struct nbd_handle *h, struct nbd_props *p, struct task *t, struct derr *e)
{
	uint32_t len = MAX(PROBE_BLOCK, p->min_block);
	uint8_t *buf;
	int r = 0;

	if (len > PROBE_MAX || p->size < len)
		return 0;
	buf = g_malloc(len);
	for (int i = 0; i < MEASURE_TIMES && !r; i++) {
		uint64_t began = now_us();
		uint32_t us;

		r = read_at(h, buf, len, 0, t, e);
		us = CLAMP(now_us() - began, 1, UINT32_MAX);
		p->rtt_us = p->rtt_us ? MIN(p->rtt_us, us) : us;
		if (us < MEASURE_ONCE_US)
			break;
	}
	g_free(buf);
	/*
	 * A medium whose beginning cannot be read is one all the same; a read that
	 * was not answered in time would be, later, into what is freed here.
	 */
	return r < 0 && nbd_aio_is_ready(h) && !nbd_aio_in_flight(h) ? 0 : r;
}

/*
 * Some blocks, spread over the medium: enough to tell two builds of an ISO
 * apart. All at once: a far server is asked many times in one round trip.
 */
static int fingerprint(struct nbd_handle *h, uint64_t size, uint32_t align, GChecksum *sum,
		       struct task *t, struct derr *e)
{
	uint32_t len = MAX(PROBE_BLOCK, align);
	struct read_wait w = { 0 };
	struct read_one o[PROBE_BLOCKS];
	uint8_t *buf;
	int r = 0;

	if (len > PROBE_MAX || size < len)
		return 0;
	buf = g_malloc((size_t)len * PROBE_BLOCKS);
	for (int i = 0; i < PROBE_BLOCKS && !r; i++) {
		/* size - len may exceed 2^60: divide first */
		uint64_t off = (size - len) / (PROBE_BLOCKS - 1) * i;

		o[i] = (struct read_one) { .w = &w, .off = off - off % len };
		r = start_read(h, buf + (size_t)len * i, len, &o[i], e);
	}
	if (!r)
		r = end_reads(h, &w, t, e);
	if (!r)
		g_checksum_update(sum, buf, (gssize)len * PROBE_BLOCKS);
	g_free(buf);
	return r;
}

static int digest(struct nbd_handle *h, struct nbd_props *p, struct task *t, struct derr *e)
{
	GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
	char *name = nbd_get_export_name(h), *desc = nbd_get_export_description(h);
	uint8_t flags[] = {
		p->read_only, p->flush, p->fua, p->trim, p->zero, p->multi, p->rotational,
	};
	gsize len = sizeof(p->digest);
	int r = 0;

	/* With the final NUL, so that the strings cannot run into each other. */
	g_checksum_update(sum, (const guchar *)(name ?: ""), strlen(name ?: "") + 1);
	g_checksum_update(sum, (const guchar *)(desc ?: ""), strlen(desc ?: "") + 1);
	g_checksum_update(sum, (const guchar *)&p->size, sizeof(p->size));
	g_checksum_update(sum, flags, sizeof(flags));
	if (p->read_only)
		r = fingerprint(h, p->size, p->min_block, sum, t, e);
	g_checksum_get_digest(sum, p->digest, &len);
	g_checksum_free(sum);
	free(name);
	free(desc);
	return r;
}

int nbdconn_props(struct nbd_handle *h, struct nbd_props *p, struct task *t, struct derr *e)
{
	int64_t size = nbd_get_size(h);
	int r;

	memset(p, 0, sizeof(*p));
	if (size < 0)
		return derr_set(e, EFBIG, "NBD server: it does not tell the size, or one of more "
				"than 8 EiB");
	p->size = size;
	p->read_only = nbd_is_read_only(h) != 0;
	p->flush = nbd_can_flush(h) == 1;
	p->fua = nbd_can_fua(h) == 1;
	p->trim = nbd_can_trim(h) == 1;
	p->zero = nbd_can_zero(h) == 1;
	p->multi = nbd_can_multi_conn(h) == 1;
	p->rotational = nbd_is_rotational(h) == 1;
	p->min_block = block_size(h, LIBNBD_SIZE_MINIMUM, 1);
	p->pref_block = block_size(h, LIBNBD_SIZE_PREFERRED, 4096);
	p->max_payload = MIN(block_size(h, LIBNBD_SIZE_MAXIMUM, DEFAULT_PAYLOAD),
			     DEFAULT_PAYLOAD);
	r = measure(h, p, t, e);
	return r < 0 ? r : digest(h, p, t, e);
}

int nbdconn_kind(struct nbd_handle *h, uint64_t size, enum medium_kind *kind,
		 struct task *t, struct derr *e)
{
	uint8_t *buf;
	size_t len;
	int r;

	*kind = KIND_DISK;
	if (size < DISC_START + DISC_SECTOR)
		return 0;
	len = MIN(DISC_LEN, size - DISC_START);
	len -= len % DISC_SECTOR;
	buf = g_malloc(len);
	r = read_at(h, buf, len, DISC_START, t, e);
	if (!r && disc_in_memory(buf, len))
		*kind = KIND_CDROM;
	g_free(buf);
	return r;
}
