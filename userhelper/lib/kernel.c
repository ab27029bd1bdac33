// SPDX-License-Identifier: GPL-2.0-only
#include "kernel.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "sock.h"

#define DUMP_TRIES	5

struct kernel {
	struct nl_sock *sock;
	struct nl_cb *cb;
	uint16_t family;
};

struct kernel_events {
	struct nl_sock *sock;
	struct nl_cb *cb;
	uint16_t family;
	kernel_event_fn fn;
	void *arg;
};

/* One request on its way, as the callbacks see it. */
struct talk {
	struct kernel_err *err;
	int (*valid)(struct nlattr *attrs, int len, void *arg);
	void *arg;
	uint16_t family;
	uint32_t seq;
	bool done;
	int result;
};

static int __attribute__((format(printf, 3, 4)))
fail(struct kernel_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
	}
	return -code;
}

static int fail_nl(struct kernel_err *err, const char *what, int nlerr)
{
	switch (-nlerr) {
	case NLE_NOMEM:
		return fail(err, ENOMEM, "%s: out of memory", what);
	case NLE_PERM:
		return fail(err, EPERM, "%s: not permitted", what);
	case NLE_AGAIN:
		return fail(err, ETIMEDOUT, "%s: the kernel does not answer", what);
	case NLE_MSG_TRUNC:
		return fail(err, EMSGSIZE, "%s: message cut short", what);
	default:
		return fail(err, EIO, "%s: %s", what, nl_geterror(nlerr));
	}
}

static int not_loaded(struct kernel_err *err)
{
	return fail(err, ENOENT,
		    "the kernel module spicebd is not loaded: try 'modprobe spicebd'");
}

/* Attributes: fetched by type and with the length checked, never assumed. */

static void get_u32(struct nlattr *const *tb, int type, uint32_t *v)
{
	if (tb[type] && nla_len(tb[type]) == sizeof(*v))
		memcpy(v, nla_data(tb[type]), sizeof(*v));
}

static void get_u64(struct nlattr *const *tb, int type, uint64_t *v)
{
	if (tb[type] && nla_len(tb[type]) == sizeof(*v))
		memcpy(v, nla_data(tb[type]), sizeof(*v));
}

static void parse_medium(struct nlattr *nest, struct kernel_medium *m)
{
	struct nlattr *tb[SPICEBD_A_MEDIUM_MAX + 1];

	if (!nest || nla_parse_nested(tb, SPICEBD_A_MEDIUM_MAX, nest, NULL) < 0)
		return;
	if (tb[SPICEBD_A_MEDIUM_ID] && nla_len(tb[SPICEBD_A_MEDIUM_ID]) <= sizeof(m->id)) {
		m->id_len = nla_len(tb[SPICEBD_A_MEDIUM_ID]);
		memcpy(m->id, nla_data(tb[SPICEBD_A_MEDIUM_ID]), m->id_len);
	}
	get_u64(tb, SPICEBD_A_MEDIUM_SIZE, &m->size);
	get_u32(tb, SPICEBD_A_MEDIUM_FLAGS, &m->flags);
	get_u32(tb, SPICEBD_A_MEDIUM_BLOCK_SIZE, &m->block_size);
	get_u32(tb, SPICEBD_A_MEDIUM_IO_OPT, &m->io_opt);
	get_u32(tb, SPICEBD_A_MEDIUM_DISCARD_ALIGN, &m->discard_align);
	get_u32(tb, SPICEBD_A_MEDIUM_MAX_DISCARD, &m->max_discard);
	get_u32(tb, SPICEBD_A_MEDIUM_READ_AHEAD, &m->read_ahead);
}

static void parse_stats(struct nlattr *nest, struct kernel_stats *s)
{
	struct nlattr *tb[SPICEBD_A_STATS_MAX + 1];

	if (!nest || nla_parse_nested(tb, SPICEBD_A_STATS_MAX, nest, NULL) < 0)
		return;
	get_u64(tb, SPICEBD_A_STATS_READS, &s->reads);
	get_u64(tb, SPICEBD_A_STATS_WRITES, &s->writes);
	get_u64(tb, SPICEBD_A_STATS_FLUSHES, &s->flushes);
	get_u64(tb, SPICEBD_A_STATS_DISCARDS, &s->discards);
	get_u64(tb, SPICEBD_A_STATS_WRITE_ZEROES, &s->write_zeroes);
	get_u64(tb, SPICEBD_A_STATS_READ_BYTES, &s->read_bytes);
	get_u64(tb, SPICEBD_A_STATS_WRITE_BYTES, &s->write_bytes);
	get_u64(tb, SPICEBD_A_STATS_ERRORS, &s->errors);
	get_u64(tb, SPICEBD_A_STATS_REFUSED, &s->refused);
	get_u64(tb, SPICEBD_A_STATS_RESENT, &s->resent);
	get_u64(tb, SPICEBD_A_STATS_MEDIUM_CHANGES, &s->medium_changes);
}

static void parse_holder(struct nlattr *nest, struct kernel_drive *d)
{
	struct nlattr *tb[SPICEBD_A_HOLDER_MAX + 1];
	struct kernel_holder *h = &d->holders[d->nr_holders];

	if (d->nr_holders >= SPICEBD_MAX_HOLDERS ||
	    nla_parse_nested(tb, SPICEBD_A_HOLDER_MAX, nest, NULL) < 0)
		return;
	if (tb[SPICEBD_A_HOLDER_NAME])
		nla_strlcpy(h->name, tb[SPICEBD_A_HOLDER_NAME], sizeof(h->name));
	get_u64(tb, SPICEBD_A_HOLDER_SINCE, &h->since_ms);
	h->limited = tb[SPICEBD_A_HOLDER_LEFT];
	get_u32(tb, SPICEBD_A_HOLDER_LEFT, &h->left_ms);
	d->nr_holders++;
}

int kernel_parse_drive(const void *attrs, size_t len, struct kernel_drive *d)
{
	struct nlattr *tb[SPICEBD_A_DRIVE_MAX + 1];
	uint32_t reconnect = SPICEBD_DEFAULT_RECONNECT;
	struct nlattr *a;
	int rem;

	memset(d, 0, sizeof(*d));
	if (nla_parse(tb, SPICEBD_A_DRIVE_MAX, (struct nlattr *)attrs, len, NULL) < 0)
		return -EBADMSG;
	if (!tb[SPICEBD_A_DRIVE_INDEX])
		return -EBADMSG;
	d->index = SPICEBD_MAX_DRIVES;
	get_u32(tb, SPICEBD_A_DRIVE_INDEX, &d->index);
	if (d->index >= SPICEBD_MAX_DRIVES)
		return -EBADMSG;
	if (tb[SPICEBD_A_DRIVE_NAME])
		nla_strlcpy(d->name, tb[SPICEBD_A_DRIVE_NAME], sizeof(d->name));
	get_u32(tb, SPICEBD_A_DRIVE_MAJOR, &d->major);
	get_u32(tb, SPICEBD_A_DRIVE_MINOR, &d->minor);
	get_u32(tb, SPICEBD_A_DRIVE_PERSONALITY, &d->personality);
	get_u32(tb, SPICEBD_A_DRIVE_NR_QUEUES, &d->nr_queues);
	get_u32(tb, SPICEBD_A_DRIVE_QUEUE_DEPTH, &d->queue_depth);
	get_u32(tb, SPICEBD_A_DRIVE_MAX_IO, &d->max_io);
	get_u32(tb, SPICEBD_A_DRIVE_RECONNECT_TIMEOUT, &reconnect);
	d->reconnect_timeout = (int32_t)reconnect;
	get_u32(tb, SPICEBD_A_DRIVE_STALL_TIMEOUT, &d->stall_timeout);
	get_u32(tb, SPICEBD_A_DRIVE_OPEN_WAIT, &d->open_wait);
	get_u32(tb, SPICEBD_A_DRIVE_TRAY, &d->tray);
	get_u32(tb, SPICEBD_A_DRIVE_STATE, &d->state);
	get_u32(tb, SPICEBD_A_DRIVE_HELPER, &d->helper);
	get_u32(tb, SPICEBD_A_DRIVE_HELPER_PID, &d->helper_pid);
	get_u32(tb, SPICEBD_A_DRIVE_LINK, &d->link);
	get_u32(tb, SPICEBD_A_DRIVE_NR_SOCKETS, &d->nr_sockets);
	get_u32(tb, SPICEBD_A_DRIVE_OPENERS, &d->openers);
	get_u32(tb, SPICEBD_A_DRIVE_USERS, &d->users);
	get_u32(tb, SPICEBD_A_DRIVE_IN_FLIGHT, &d->in_flight);
	get_u32(tb, SPICEBD_A_DRIVE_HELD, &d->held);
	d->hold_limited = tb[SPICEBD_A_DRIVE_HOLD_LEFT];
	get_u32(tb, SPICEBD_A_DRIVE_HOLD_LEFT, &d->hold_left_ms);
	get_u64(tb, SPICEBD_A_DRIVE_GENERATION, &d->generation);
	get_u32(tb, SPICEBD_A_DRIVE_CONDITION, &d->condition);
	get_u32(tb, SPICEBD_A_DRIVE_VERDICT, &d->verdict);
	get_u64(tb, SPICEBD_A_DRIVE_VERDICT_SINCE, &d->verdict_since_ms);
	get_u32(tb, SPICEBD_A_DRIVE_EVENT, &d->event);
	get_u32(tb, SPICEBD_A_DRIVE_FREEZE, &d->freeze);
	get_u32(tb, SPICEBD_A_DRIVE_FREEZE_ERROR, &d->freeze_error);
	nla_for_each_attr(a, (struct nlattr *)attrs, len, rem)
		if (nla_type(a) == SPICEBD_A_DRIVE_HOLDERS)
			parse_holder(a, d);
	parse_medium(tb[SPICEBD_A_DRIVE_MEDIUM], &d->medium);
	parse_stats(tb[SPICEBD_A_DRIVE_STATS], &d->stats);
	return 0;
}

/* The kernel's own words, if the error message carries them. */
static const char *extack_msg(const struct nlmsghdr *h, char *buf, size_t size)
{
	const struct nlmsgerr *e = NLMSG_DATA(h);
	size_t off = sizeof(*e);
	struct nlattr *tb[NLMSGERR_ATTR_MAX + 1];

	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return NULL;
	if (!(h->nlmsg_flags & NLM_F_CAPPED)) {
		if (e->msg.nlmsg_len < sizeof(e->msg))
			return NULL;
		off += e->msg.nlmsg_len - sizeof(e->msg);
	}
	off = NLMSG_ALIGN(off);
	if (NLMSG_HDRLEN + off > h->nlmsg_len)
		return NULL;
	if (nla_parse(tb, NLMSGERR_ATTR_MAX, (void *)((char *)e + off),
		      h->nlmsg_len - NLMSG_HDRLEN - off, NULL) < 0)
		return NULL;
	if (!tb[NLMSGERR_ATTR_MSG])
		return NULL;
	nla_strlcpy(buf, tb[NLMSGERR_ATTR_MSG], size);
	return *buf ? buf : NULL;
}

static int on_error(struct sockaddr_nl *who, struct nlmsgerr *e, void *arg)
{
	const struct nlmsghdr *h = (void *)((char *)e - NLMSG_HDRLEN);
	struct talk *t = arg;
	char words[200];
	const char *m = extack_msg(h, words, sizeof(words));
	int code = e->error < 0 ? -e->error : EIO;

	if (h->nlmsg_seq != t->seq)
		return NL_SKIP;
	t->done = true;
	t->result = fail(t->err, code, "%s", m ? m : strerror(code));
	return NL_STOP;
}

static int on_ack(struct nl_msg *msg, void *arg)
{
	struct talk *t = arg;

	if (nlmsg_hdr(msg)->nlmsg_seq != t->seq)
		return NL_SKIP;
	t->done = true;
	return NL_STOP;
}

static int on_finish(struct nl_msg *msg, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	struct talk *t = arg;
	int error = 0;

	if (h->nlmsg_seq != t->seq)
		return NL_SKIP;
	t->done = true;
	if (nlmsg_datalen(h) >= sizeof(error))
		memcpy(&error, nlmsg_data(h), sizeof(error));
	if (error < 0)
		t->result = fail(t->err, -error, "%s", strerror(-error));
	return NL_STOP;
}

static int on_valid(struct nl_msg *msg, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	struct talk *t = arg;
	struct genlmsghdr *g;
	int r;

	if (h->nlmsg_seq != t->seq || h->nlmsg_type != t->family || !genlmsg_valid_hdr(h, 0))
		return NL_SKIP;
	g = nlmsg_data(h);
	if (!t->valid)
		return NL_OK;
	r = t->valid(genlmsg_attrdata(g, 0), genlmsg_attrlen(g, 0), t->arg);
	if (r < 0 && !t->result)
		t->result = fail(t->err, -r, "the kernel's answer makes no sense");
	return NL_OK;
}

static int wait_readable(int fd, long long deadline)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	long long left;
	int r;

	do {
		left = deadline - now_ms();
		r = poll(&p, 1, left > 0 ? (int)left : 0);
	} while (r < 0 && errno == EINTR);
	return r > 0 ? 0 : -ETIMEDOUT;
}

/* Sends @msg, which it frees, and waits for the acknowledgement or the dump's end. */
static int talk(struct kernel *k, struct nl_msg *msg,
		int (*valid)(struct nlattr *, int, void *), void *arg, struct kernel_err *err)
{
	struct talk t = { .err = err, .valid = valid, .arg = arg, .family = k->family };
	long long deadline = now_ms() + KERNEL_TIMEOUT_MS;
	int r;

	nl_cb_err(k->cb, NL_CB_CUSTOM, on_error, &t);
	nl_cb_set(k->cb, NL_CB_VALID, NL_CB_CUSTOM, on_valid, &t);
	nl_cb_set(k->cb, NL_CB_ACK, NL_CB_CUSTOM, on_ack, &t);
	nl_cb_set(k->cb, NL_CB_FINISH, NL_CB_CUSTOM, on_finish, &t);
	nl_complete_msg(k->sock, msg);
	/* An answer that a timed-out request left behind is known by its number. */
	t.seq = nlmsg_hdr(msg)->nlmsg_seq;
	r = nl_send(k->sock, msg);
	nlmsg_free(msg);
	if (r < 0)
		return fail_nl(err, "cannot send to the kernel", r);
	while (!t.done) {
		if (wait_readable(nl_socket_get_fd(k->sock), deadline) < 0)
			return fail_nl(err, "netlink", -NLE_AGAIN);
		r = nl_recvmsgs(k->sock, k->cb);
		if (r == -NLE_DUMP_INTR)
			return fail(err, EAGAIN, "the drives changed while they were read");
		if (r < 0 && !t.done && r != -NLE_AGAIN)
			return fail_nl(err, "netlink", r);
	}
	/* The module was removed: its number stands for nothing now. */
	if (t.result == -ENOENT && err && !strcmp(err->text, strerror(ENOENT)))
		fail(err, ENOENT, "no such drive, or the kernel module spicebd was removed");
	return t.result;
}

static struct nl_msg *request(struct kernel *k, uint8_t cmd, int flags)
{
	struct nl_msg *msg = nlmsg_alloc();

	if (msg && !genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, k->family, 0,
				NLM_F_REQUEST | flags, cmd, SPICEBD_FAMILY_VERSION)) {
		nlmsg_free(msg);
		msg = NULL;
	}
	return msg;
}

static int no_memory(struct nl_msg *msg, struct kernel_err *err)
{
	if (msg)
		nlmsg_free(msg);
	return fail(err, ENOMEM, "out of memory");
}

/* Commands that take a drive and perhaps force, and answer nothing. */
static int simple(struct kernel *k, uint8_t cmd, uint32_t index, bool force,
		  struct kernel_err *err)
{
	struct nl_msg *msg = request(k, cmd, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0 ||
	    (force && nla_put_flag(msg, SPICEBD_A_DRIVE_FORCE) < 0))
		return no_memory(msg, err);
	return talk(k, msg, NULL, NULL, err);
}

static int harden_socket(struct nl_sock *sock)
{
	int fd = nl_socket_get_fd(sock), one = 1;

	/* Old kernels may lack either; the answers are then only less rich. */
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	return nl_socket_set_nonblocking(sock);
}

/* libnl resolves with a blocking read: a receive timeout bounds that. */
static void bound_receive(struct nl_sock *sock)
{
	struct timeval tv = { .tv_sec = KERNEL_TIMEOUT_MS / 1000 };

	(void)setsockopt(nl_socket_get_fd(sock), SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
}

static int resolve(struct nl_sock *sock, struct kernel_err *err)
{
	int r;

	bound_receive(sock);
	r = genl_ctrl_resolve(sock, SPICEBD_FAMILY_NAME);
	if (r == -NLE_OBJ_NOTFOUND)
		return not_loaded(err);
	if (r < 0)
		return fail_nl(err, "generic netlink", r);
	return r;
}

struct kernel *kernel_open(struct kernel_err *err)
{
	struct kernel *k = calloc(1, sizeof(*k));
	int r;

	if (!k || !(k->sock = nl_socket_alloc()) || !(k->cb = nl_cb_alloc(NL_CB_DEFAULT))) {
		fail(err, ENOMEM, "out of memory");
		goto bad;
	}
	r = genl_connect(k->sock);
	if (r < 0) {
		fail_nl(err, "cannot open a netlink socket", r);
		goto bad;
	}
	r = resolve(k->sock, err);
	if (r < 0)
		goto bad;
	k->family = r;
	nl_socket_disable_auto_ack(k->sock);
	nl_socket_set_msg_buf_size(k->sock, 64 * 1024);
	r = harden_socket(k->sock);
	if (r < 0) {
		fail_nl(err, "netlink socket", r);
		goto bad;
	}
	return k;
bad:
	kernel_close(k);
	return NULL;
}

void kernel_close(struct kernel *k)
{
	if (!k)
		return;
	if (k->cb)
		nl_cb_put(k->cb);
	if (k->sock)
		nl_socket_free(k->sock);
	free(k);
}

uint16_t kernel_family(const struct kernel *k)
{
	return k->family;
}

int kernel_manage(struct kernel *k, struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_MANAGE, NLM_F_ACK);

	if (!msg)
		return no_memory(msg, err);
	return talk(k, msg, NULL, NULL, err);
}

static int take_drive(struct nlattr *attrs, int len, void *arg)
{
	return kernel_parse_drive(attrs, len, arg);
}

int kernel_get(struct kernel *k, uint32_t index, struct kernel_drive *d,
	       struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_DRIVE_GET, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0)
		return no_memory(msg, err);
	memset(d, 0, sizeof(*d));
	return talk(k, msg, take_drive, d, err);
}

struct list_arg {
	struct kernel_drive *d;
	unsigned int n;
};

static int take_list(struct nlattr *attrs, int len, void *arg)
{
	struct list_arg *l = arg;
	int r;

	if (l->n >= SPICEBD_MAX_DRIVES)
		return -E2BIG;
	r = kernel_parse_drive(attrs, len, &l->d[l->n]);
	if (!r)
		l->n++;
	return r;
}

static int by_index(const void *a, const void *b)
{
	const struct kernel_drive *x = a, *y = b;

	return x->index < y->index ? -1 : x->index > y->index;
}

int kernel_list(struct kernel *k, struct kernel_drive *d, unsigned int *n,
		struct kernel_err *err)
{
	struct list_arg l = { .d = d };
	int r = -EAGAIN;

	for (int i = 0; i < DUMP_TRIES && r == -EAGAIN; i++) {
		struct nl_msg *msg = request(k, SPICEBD_CMD_DRIVE_GET, NLM_F_DUMP);

		if (!msg)
			return no_memory(msg, err);
		l.n = 0;
		r = talk(k, msg, take_list, &l, err);
	}
	if (r < 0)
		return r;
	qsort(d, l.n, sizeof(*d), by_index);
	*n = l.n;
	return 0;
}

int kernel_add(struct kernel *k, const struct kernel_drive_new *a, struct kernel_drive *d,
	       struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_DRIVE_ADD, NLM_F_ACK);
	int r;

	if (!msg)
		return no_memory(msg, err);
	r = nla_put_u32(msg, SPICEBD_A_DRIVE_PERSONALITY, a->personality);
	if (!r && a->set_index)
		r = nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, a->index);
	if (!r && a->set_queues)
		r = nla_put_u32(msg, SPICEBD_A_DRIVE_NR_QUEUES, a->nr_queues);
	if (!r && a->set_depth)
		r = nla_put_u32(msg, SPICEBD_A_DRIVE_QUEUE_DEPTH, a->queue_depth);
	if (!r && a->set_max_io)
		r = nla_put_u32(msg, SPICEBD_A_DRIVE_MAX_IO, a->max_io);
	if (!r && a->set_reconnect)
		r = nla_put_s32(msg, SPICEBD_A_DRIVE_RECONNECT_TIMEOUT, a->reconnect_timeout);
	if (!r && a->set_stall)
		r = nla_put_u32(msg, SPICEBD_A_DRIVE_STALL_TIMEOUT, a->stall_timeout);
	if (!r && a->held)
		r = nla_put_flag(msg, SPICEBD_A_DRIVE_HELD_START);
	if (!r && a->set_open_wait)
		r = nla_put_u32(msg, SPICEBD_A_DRIVE_OPEN_WAIT, a->open_wait);
	if (r < 0)
		return no_memory(msg, err);
	memset(d, 0, sizeof(*d));
	return talk(k, msg, take_drive, d, err);
}

int kernel_set(struct kernel *k, uint32_t index, const int32_t *reconnect,
	       const uint32_t *stall, struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_DRIVE_SET, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0 ||
	    (reconnect &&
	     nla_put_s32(msg, SPICEBD_A_DRIVE_RECONNECT_TIMEOUT, *reconnect) < 0) ||
	    (stall && nla_put_u32(msg, SPICEBD_A_DRIVE_STALL_TIMEOUT, *stall) < 0))
		return no_memory(msg, err);
	return talk(k, msg, NULL, NULL, err);
}

int kernel_del(struct kernel *k, uint32_t index, bool force, struct kernel_err *err)
{
	return simple(k, SPICEBD_CMD_DRIVE_DEL, index, force, err);
}

static int take_keys(struct nlattr *attrs, int len, void *arg)
{
	struct kernel_keys *keys = arg;
	struct nlattr *a;
	int rem;

	nla_for_each_attr(a, attrs, len, rem) {
		if (nla_type(a) != SPICEBD_A_HELPER_KEY)
			continue;
		if (nla_len(a) != SPICEBD_KEY_LEN || keys->n >= SPICEBD_MAX_KEYS)
			return -EBADMSG;
		memcpy(keys->key[keys->n++], nla_data(a), SPICEBD_KEY_LEN);
	}
	return 0;
}

static int get_keys(struct kernel *k, uint8_t cmd, uint32_t index, uint32_t nr_keys,
		    struct kernel_keys *keys, struct kernel_err *err)
{
	struct nl_msg *msg = request(k, cmd, NLM_F_ACK);
	int r;

	if (!msg || nla_put_u32(msg, SPICEBD_A_HELPER_INDEX, index) < 0 ||
	    nla_put_u32(msg, SPICEBD_A_HELPER_NR_KEYS, nr_keys) < 0)
		return no_memory(msg, err);
	keys->n = 0;
	r = talk(k, msg, take_keys, keys, err);
	if (!r && keys->n != nr_keys)
		r = fail(err, EBADMSG, "the kernel gave %u keys for %u", keys->n, nr_keys);
	return r;
}

int kernel_attach(struct kernel *k, uint32_t index, uint32_t nr_keys,
		  struct kernel_keys *keys, struct kernel_err *err)
{
	return get_keys(k, SPICEBD_CMD_ATTACH, index, nr_keys, keys, err);
}

int kernel_key_new(struct kernel *k, uint32_t index, uint32_t nr_keys,
		   struct kernel_keys *keys, struct kernel_err *err)
{
	return get_keys(k, SPICEBD_CMD_KEY_NEW, index, nr_keys, keys, err);
}

int kernel_detach(struct kernel *k, uint32_t index, struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_DETACH, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_HELPER_INDEX, index) < 0)
		return no_memory(msg, err);
	return talk(k, msg, NULL, NULL, err);
}

int kernel_link_report(struct kernel *k, uint32_t index, enum spicebd_link link,
		       struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_LINK_REPORT, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_HELPER_INDEX, index) < 0 ||
	    nla_put_u32(msg, SPICEBD_A_HELPER_LINK, link) < 0)
		return no_memory(msg, err);
	return talk(k, msg, NULL, NULL, err);
}

static int put_medium(struct nl_msg *msg, const struct kernel_medium *m)
{
	struct nlattr *nest = nla_nest_start(msg, SPICEBD_A_DRIVE_MEDIUM | NLA_F_NESTED);
	int r;

	if (!nest)
		return -NLE_NOMEM;
	r = nla_put_u64(msg, SPICEBD_A_MEDIUM_SIZE, m->size);
	if (!r && m->id_len)
		r = nla_put(msg, SPICEBD_A_MEDIUM_ID, m->id_len, m->id);
	if (!r)
		r = nla_put_u32(msg, SPICEBD_A_MEDIUM_FLAGS, m->flags);
	if (!r && m->block_size)
		r = nla_put_u32(msg, SPICEBD_A_MEDIUM_BLOCK_SIZE, m->block_size);
	if (!r && m->io_opt)
		r = nla_put_u32(msg, SPICEBD_A_MEDIUM_IO_OPT, m->io_opt);
	if (!r && m->discard_align)
		r = nla_put_u32(msg, SPICEBD_A_MEDIUM_DISCARD_ALIGN, m->discard_align);
	if (!r && m->max_discard)
		r = nla_put_u32(msg, SPICEBD_A_MEDIUM_MAX_DISCARD, m->max_discard);
	if (!r && m->read_ahead)
		r = nla_put_u32(msg, SPICEBD_A_MEDIUM_READ_AHEAD, m->read_ahead);
	if (!r)
		nla_nest_end(msg, nest);
	return r;
}

struct generation_arg {
	bool have;
	uint64_t gen;
};

static int take_generation(struct nlattr *attrs, int len, void *arg)
{
	struct nlattr *n = nla_find(attrs, len, SPICEBD_A_DRIVE_GENERATION);
	struct generation_arg *g = arg;

	if (n && nla_len(n) == sizeof(g->gen)) {
		memcpy(&g->gen, nla_data(n), sizeof(g->gen));
		g->have = true;
	}
	return 0;
}

int kernel_medium_insert(struct kernel *k, uint32_t index, const struct kernel_medium *m,
			 uint64_t *generation, struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_MEDIUM_INSERT, NLM_F_ACK);
	struct generation_arg g = { 0 };
	int r;

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0 ||
	    put_medium(msg, m) < 0)
		return no_memory(msg, err);
	r = talk(k, msg, take_generation, &g, err);
	if (r < 0)
		return r;
	if (!g.have)
		return fail(err, EBADMSG, "the kernel did not number the medium");
	*generation = g.gen;
	return 0;
}

int kernel_read_ahead(struct kernel *k, uint32_t index, uint32_t bytes, struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_MEDIUM_SET, NLM_F_ACK);
	struct nlattr *nest;

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0)
		return no_memory(msg, err);
	nest = nla_nest_start(msg, SPICEBD_A_DRIVE_MEDIUM | NLA_F_NESTED);
	if (!nest || nla_put_u32(msg, SPICEBD_A_MEDIUM_READ_AHEAD, bytes) < 0)
		return no_memory(msg, err);
	nla_nest_end(msg, nest);
	return talk(k, msg, NULL, NULL, err);
}

int kernel_medium_remove(struct kernel *k, uint32_t index, bool force, struct kernel_err *err)
{
	return simple(k, SPICEBD_CMD_MEDIUM_REMOVE, index, force, err);
}

int kernel_tray_open(struct kernel *k, uint32_t index, bool force, struct kernel_err *err)
{
	return simple(k, SPICEBD_CMD_TRAY_OPEN, index, force, err);
}

int kernel_tray_close(struct kernel *k, uint32_t index, struct kernel_err *err)
{
	return simple(k, SPICEBD_CMD_TRAY_CLOSE, index, false, err);
}

int kernel_eject(struct kernel *k, uint32_t index, bool force, struct kernel_err *err)
{
	return simple(k, SPICEBD_CMD_EJECT, index, force, err);
}

int kernel_eject_because(struct kernel *k, uint32_t index, uint32_t verdict,
			 struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_EJECT, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0 ||
	    nla_put_flag(msg, SPICEBD_A_DRIVE_FORCE) < 0 ||
	    nla_put_u32(msg, SPICEBD_A_DRIVE_VERDICT, verdict) < 0)
		return no_memory(msg, err);
	return talk(k, msg, NULL, NULL, err);
}

int kernel_lock(struct kernel *k, uint32_t index, struct kernel_err *err)
{
	return simple(k, SPICEBD_CMD_LOCK, index, false, err);
}

int kernel_unlock(struct kernel *k, uint32_t index, bool force, struct kernel_err *err)
{
	return simple(k, SPICEBD_CMD_UNLOCK, index, force, err);
}

int kernel_freeze(struct kernel *k, uint32_t index, const char *holder, uint32_t limit,
		  struct kernel_drive *d, struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_FREEZE, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0 ||
	    nla_put_string(msg, SPICEBD_A_DRIVE_HOLDER, holder) < 0 ||
	    nla_put_u32(msg, SPICEBD_A_DRIVE_HOLD_LIMIT, limit) < 0)
		return no_memory(msg, err);
	memset(d, 0, sizeof(*d));
	return talk(k, msg, take_drive, d, err);
}

int kernel_thaw(struct kernel *k, uint32_t index, const char *holder, struct kernel_drive *d,
		struct kernel_err *err)
{
	struct nl_msg *msg = request(k, SPICEBD_CMD_THAW, NLM_F_ACK);

	if (!msg || nla_put_u32(msg, SPICEBD_A_DRIVE_INDEX, index) < 0 ||
	    nla_put_string(msg, SPICEBD_A_DRIVE_HOLDER, holder) < 0)
		return no_memory(msg, err);
	memset(d, 0, sizeof(*d));
	return talk(k, msg, take_drive, d, err);
}

/* Events. */

static void family_event(struct kernel_events *ev, struct genlmsghdr *g)
{
	struct nlattr *name = nla_find(genlmsg_attrdata(g, 0), genlmsg_attrlen(g, 0),
				       CTRL_ATTR_FAMILY_NAME);

	if (!name || nla_strcmp(name, SPICEBD_FAMILY_NAME))
		return;
	if (g->cmd == CTRL_CMD_NEWFAMILY)
		ev->fn(KERNEL_EVENT_FAMILY_NEW, NULL, ev->arg);
	else if (g->cmd == CTRL_CMD_DELFAMILY)
		ev->fn(KERNEL_EVENT_FAMILY_GONE, NULL, ev->arg);
}

static int on_event(struct nl_msg *msg, void *arg)
{
	struct kernel_events *ev = arg;
	struct nlmsghdr *h = nlmsg_hdr(msg);
	struct sockaddr_nl *from = nlmsg_get_src(msg);
	struct kernel_drive d;
	struct genlmsghdr *g;

	/* Anybody may unicast to a netlink socket: only the kernel is 0. */
	if (from->nl_pid || !genlmsg_valid_hdr(h, 0))
		return NL_SKIP;
	g = nlmsg_data(h);
	if (h->nlmsg_type == GENL_ID_CTRL) {
		family_event(ev, g);
		return NL_OK;
	}
	if (h->nlmsg_type != ev->family || g->cmd != SPICEBD_CMD_DRIVE_NTF)
		return NL_SKIP;
	if (!kernel_parse_drive(genlmsg_attrdata(g, 0), genlmsg_attrlen(g, 0), &d))
		ev->fn(KERNEL_EVENT_DRIVE, &d, ev->arg);
	return NL_OK;
}

/* Events belong to no request. */
static int any_seq(struct nl_msg *msg, void *arg)
{
	return NL_OK;
}

static int join_groups(struct kernel_events *ev, struct kernel_err *err)
{
	int grp, r;

	r = resolve(ev->sock, err);
	if (r < 0)
		return r;
	ev->family = r;
	grp = genl_ctrl_resolve_grp(ev->sock, SPICEBD_FAMILY_NAME, SPICEBD_MCGRP_EVENTS);
	if (grp < 0)
		return fail_nl(err, "the event group", grp);
	r = nl_socket_add_membership(ev->sock, grp);
	if (r < 0)
		return fail_nl(err, "the event group", r);
	/* nlctrl tells of families; its group has the family's own number. */
	r = nl_socket_add_membership(ev->sock, GENL_ID_CTRL);
	if (r < 0)
		return fail_nl(err, "the group of families", r);
	return 0;
}

struct kernel_events *kernel_events_open(struct kernel_err *err)
{
	struct kernel_events *ev = calloc(1, sizeof(*ev));
	int r;

	if (!ev || !(ev->sock = nl_socket_alloc()) ||
	    !(ev->cb = nl_cb_alloc(NL_CB_DEFAULT))) {
		fail(err, ENOMEM, "out of memory");
		goto bad;
	}
	r = genl_connect(ev->sock);
	if (r < 0) {
		fail_nl(err, "cannot open a netlink socket", r);
		goto bad;
	}
	if (join_groups(ev, err) < 0)
		goto bad;
	nl_socket_disable_seq_check(ev->sock);
	nl_cb_set(ev->cb, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, any_seq, NULL);
	nl_cb_set(ev->cb, NL_CB_VALID, NL_CB_CUSTOM, on_event, ev);
	nl_socket_set_msg_buf_size(ev->sock, 64 * 1024);
	/* Room for a burst; an overrun is noticed and only costs a re-read. */
	(void)nl_socket_set_buffer_size(ev->sock, 1 << 20, 0);
	r = nl_socket_set_nonblocking(ev->sock);
	if (r < 0) {
		fail_nl(err, "netlink socket", r);
		goto bad;
	}
	return ev;
bad:
	kernel_events_close(ev);
	return NULL;
}

void kernel_events_close(struct kernel_events *ev)
{
	if (!ev)
		return;
	if (ev->cb)
		nl_cb_put(ev->cb);
	if (ev->sock)
		nl_socket_free(ev->sock);
	free(ev);
}

int kernel_events_fd(const struct kernel_events *ev)
{
	return nl_socket_get_fd(ev->sock);
}

int kernel_events_read(struct kernel_events *ev, kernel_event_fn fn, void *arg)
{
	int r;

	ev->fn = fn;
	ev->arg = arg;
	for (int i = 0; i < 256; i++) {
		r = nl_recvmsgs(ev->sock, ev->cb);
		if (r == -NLE_AGAIN)
			return 0;
		/* libnl's word for ENOBUFS, and for a malloc that failed: the cure is one */
		if (r == -NLE_NOMEM)
			return -ENOBUFS;
		if (r == -NLE_BAD_SOCK)
			return -EBADF;
		/* A message that makes no sense is skipped, as is one cut short. */
	}
	return 0;
}

const char *kernel_event_str(uint32_t event)
{
	static const char *const names[] = {
		[SPICEBD_EVENT_DRIVE_ADDED] = "drive-added",
		[SPICEBD_EVENT_DRIVE_REMOVED] = "drive-removed",
		[SPICEBD_EVENT_TRAY_MOVED] = "tray-moved",
		[SPICEBD_EVENT_MEDIUM_CHANGED] = "medium-changed",
		[SPICEBD_EVENT_EJECT_REQUEST] = "eject-request",
		[SPICEBD_EVENT_LOCK_CHANGED] = "lock-changed",
		[SPICEBD_EVENT_HELPER_ATTACHED] = "helper-attached",
		[SPICEBD_EVENT_HELPER_LOST] = "helper-lost",
		[SPICEBD_EVENT_LINK_LOST] = "link-lost",
		[SPICEBD_EVENT_LINK_BACK] = "link-back",
		[SPICEBD_EVENT_UNUSED] = "unused",
		[SPICEBD_EVENT_FREEZE] = "freeze",
		[SPICEBD_EVENT_FREEZE_EXPIRED] = "freeze-expired",
	};

	return event < sizeof(names) / sizeof(names[0]) ? names[event] : "unknown";
}
