// SPDX-License-Identifier: GPL-2.0-only
/*
 * A ublk server that speaks NBD: what the measurements compare spicebd with.
 *
 *   ublk_nbd SOCKET        prints the block device's name, serves until SIGTERM
 *
 * One queue, one connection, one thread and one io_uring for both sides: requests
 * that came in one turn leave in one sendmsg, answers that lie in one receive are
 * committed in one submit, and payload is received at its place. Nothing is left
 * out that would make it faster and nothing is done that a careful server would
 * not do; but it is for measuring: a lost server ends it.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <liburing.h>
#include <linux/ublk_cmd.h>

/* The commands as ioctl numbers, which headers of Linux 6.1 do not have. */
#ifndef UBLK_U_CMD_ADD_DEV
#define UBLK_U_CMD_ADD_DEV	_IOWR('u', UBLK_CMD_ADD_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_DEL_DEV	_IOWR('u', UBLK_CMD_DEL_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_START_DEV	_IOWR('u', UBLK_CMD_START_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_STOP_DEV	_IOWR('u', UBLK_CMD_STOP_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_SET_PARAMS	_IOWR('u', UBLK_CMD_SET_PARAMS, struct ublksrv_ctrl_cmd)
#define UBLK_U_IO_FETCH_REQ	_IOWR('u', UBLK_IO_FETCH_REQ, struct ublksrv_io_cmd)
#define UBLK_U_IO_COMMIT_AND_FETCH_REQ \
	_IOWR('u', UBLK_IO_COMMIT_AND_FETCH_REQ, struct ublksrv_io_cmd)
#endif
#ifndef UBLK_F_CMD_IOCTL_ENCODE
#define UBLK_F_CMD_IOCTL_ENCODE	(1UL << 6)
#endif
#ifndef UBLK_ATTR_FUA
#define UBLK_ATTR_VOLATILE_CACHE	(1 << 2)
#define UBLK_ATTR_FUA			(1 << 3)
#endif

#define DEPTH		64
#define MAX_IO		(1u << 20)
#define RX_SIZE		(128 * 1024)
#define IOV_NR		(2 * DEPTH)

/* Fixed files. */
#define FILE_UBLK	0
#define FILE_NBD	1

/* What a completion is of; below it are tags. */
#define OF_SEND		1000
#define OF_RECEIVE	1001

#define NBD_REQUEST_MAGIC	0x25609513u
#define NBD_REPLY_MAGIC		0x67446698u
#define NBD_OPTION_MAGIC	0x49484156454F5054ull
#define NBD_OPTION_REPLY_MAGIC	0x3e889045565a9ull
#define NBD_OPT_GO		7
#define NBD_REP_ACK		1
#define NBD_REP_INFO		3
#define NBD_FLAG_READ_ONLY	(1 << 1)
#define NBD_FLAG_FLUSH		(1 << 2)
#define NBD_FLAG_FUA		(1 << 3)
#define NBD_CMD_READ		0
#define NBD_CMD_WRITE		1
#define NBD_CMD_FLUSH		3
#define NBD_CMD_FUA		1

struct nbd_request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t handle, offset;
	uint32_t length;
} __attribute__((packed));

struct nbd_reply {
	uint32_t magic, error;
	uint64_t handle;
} __attribute__((packed));

struct io {
	struct nbd_request request;
	uint32_t len;
	bool busy;
	uint8_t *buf;
	struct io *next;	/* to be sent */
};

static struct {
	int nbd, control, queue;
	uint64_t size;
	uint16_t flags;
	uint32_t id;
	struct ublksrv_io_desc *desc;
	struct io_uring ring;
	struct io io[DEPTH];
	unsigned int fetching;

	struct io *first, *last;	/* to be sent */
	struct msghdr out;		/* what is being sent */
	struct iovec out_iov[IOV_NR];
	bool sending;

	struct msghdr in;
	struct iovec in_iov[2];
	size_t asked_direct;
	struct io *coming;	/* whose payload comes, from at on, left bytes */
	size_t at, left;
	uint8_t rx[RX_SIZE];
	size_t rx_end;
} u;

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("ublk_nbd: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

/* The handshake: blocking, before anything else. */

static void get(void *buf, size_t len)
{
	/* a receive of nothing would wait for something */
	if (len && recv(u.nbd, buf, len, MSG_WAITALL) != (ssize_t)len)
		die("the NBD server hung up");
}

static void put(const void *buf, size_t len)
{
	if (send(u.nbd, buf, len, MSG_NOSIGNAL) != (ssize_t)len)
		die("cannot write to the NBD server: %s", strerror(errno));
}

static void ask_for_export(void)
{
	struct {
		uint64_t magic;
		uint32_t option, len, name_len;
		uint16_t infos;
	} __attribute__((packed)) go = {
		htobe64(NBD_OPTION_MAGIC), htobe32(NBD_OPT_GO), htobe32(6), 0, 0,
	};
	struct {
		uint64_t magic;
		uint16_t flags;
	} __attribute__((packed)) greeting;
	uint64_t magic;
	uint32_t client;

	get(&magic, sizeof(magic));
	get(&greeting, sizeof(greeting));
	if (be64toh(greeting.magic) != NBD_OPTION_MAGIC)
		die("not a newstyle NBD server");
	client = htobe32(be16toh(greeting.flags) & 3);
	put(&client, sizeof(client));
	put(&go, sizeof(go));
}

static void take_info(const uint8_t *info, uint32_t len)
{
	uint16_t type;

	memcpy(&type, info, sizeof(type));
	if (be16toh(type) != 0 || len < 12)
		return;
	memcpy(&u.size, info + 2, 8);
	memcpy(&u.flags, info + 10, 2);
	u.size = be64toh(u.size);
	u.flags = be16toh(u.flags);
}

static void handshake(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct {
		uint64_t magic;
		uint32_t option, type, len;
	} __attribute__((packed)) r;
	uint8_t data[4096];

	if (strlen(path) >= sizeof(a.sun_path))
		die("%s: too long", path);
	strcpy(a.sun_path, path);
	u.nbd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (u.nbd < 0 || connect(u.nbd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die("%s: %s", path, strerror(errno));
	ask_for_export();
	do {
		get(&r, sizeof(r));
		if (be64toh(r.magic) != NBD_OPTION_REPLY_MAGIC || be32toh(r.len) > sizeof(data))
			die("the NBD server broke the protocol");
		get(data, be32toh(r.len));
		if (be32toh(r.type) == NBD_REP_INFO && be32toh(r.len) >= 2)
			take_info(data, be32toh(r.len));
		else if (be32toh(r.type) != NBD_REP_ACK)
			die("the NBD server refuses the export");
	} while (be32toh(r.type) != NBD_REP_ACK);
}

/* Control commands: one at a time, on a ring of the main thread. */

static int control(uint32_t op, void *buf, uint16_t len, uint64_t data)
{
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct ublksrv_ctrl_cmd *c;
	int r = io_uring_queue_init(2, &ring, IORING_SETUP_SQE128);

	if (r < 0)
		die("io_uring: %s", strerror(-r));
	sqe = io_uring_get_sqe(&ring);
	if (!sqe)
		die("the ring is full");
	/* SQE128: the command's data goes on behind */
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = u.control;
	sqe->cmd_op = op;
	c = (struct ublksrv_ctrl_cmd *)sqe->cmd;
	c->dev_id = u.id;
	c->queue_id = -1;
	c->addr = (uintptr_t)buf;
	c->len = len;
	c->data[0] = data;
	io_uring_submit(&ring);
	do {
		r = io_uring_wait_cqe(&ring, &cqe);
	} while (r == -EINTR);
	r = r < 0 ? r : cqe->res;
	io_uring_queue_exit(&ring);
	return r;
}

static void add_device(void)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1, .queue_depth = DEPTH, .max_io_buf_bytes = MAX_IO,
		.dev_id = -1, .flags = UBLK_F_CMD_IOCTL_ENCODE,
	};
	struct ublk_params p = {
		.len = sizeof(p), .types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.logical_bs_shift = 9, .physical_bs_shift = 12, .io_min_shift = 9,
			.io_opt_shift = 12, .max_sectors = MAX_IO >> 9,
			.dev_sectors = u.size >> 9,
			.attrs = (u.flags & NBD_FLAG_READ_ONLY ? UBLK_ATTR_READ_ONLY : 0) |
				 (u.flags & NBD_FLAG_FLUSH ? UBLK_ATTR_VOLATILE_CACHE : 0) |
				 (u.flags & NBD_FLAG_FUA ? UBLK_ATTR_FUA : 0),
		},
	};
	int r;

	u.control = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (u.control < 0)
		die("/dev/ublk-control: %s (is ublk_drv loaded?)", strerror(errno));
	u.id = -1;
	r = control(UBLK_U_CMD_ADD_DEV, &info, sizeof(info), 0);
	if (r < 0)
		die("no ublk device can be made: %s", strerror(-r));
	u.id = info.dev_id;
	r = control(UBLK_U_CMD_SET_PARAMS, &p, sizeof(p), 0);
	if (r < 0)
		die("the kernel refuses the parameters: %s", strerror(-r));
}

/* The queue. */

static void open_queue(void)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/ublkc%u", u.id);
	/* udev makes or permits the node a moment after the device is there */
	for (int i = 0; i < 500; i++) {
		u.queue = open(path, O_RDWR | O_CLOEXEC);
		if (u.queue >= 0)
			break;
		poll(NULL, 0, 10);
	}
	if (u.queue < 0)
		die("%s: %s", path, strerror(errno));
	u.desc = mmap(NULL, DEPTH * sizeof(*u.desc), PROT_READ, MAP_SHARED | MAP_POPULATE,
		      u.queue, UBLKSRV_CMD_BUF_OFFSET);
	if (u.desc == MAP_FAILED)
		die("%s: %s", path, strerror(errno));
	for (int i = 0; i < DEPTH; i++)
		if (posix_memalign((void **)&u.io[i].buf, 4096, MAX_IO))
			die("out of memory");
}

static struct io_uring_sqe *new_sqe(uint64_t what)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u.ring);

	/* the ring has room for all that can be under way */
	if (!sqe)
		die("the ring is full");
	memset(sqe, 0, sizeof(*sqe));
	sqe->user_data = what;
	sqe->flags = IOSQE_FIXED_FILE;
	return sqe;
}

static void fetch(unsigned int tag, uint32_t op, int result)
{
	struct io_uring_sqe *sqe = new_sqe(tag);
	struct ublksrv_io_cmd *c = (struct ublksrv_io_cmd *)sqe->cmd;

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = FILE_UBLK;
	sqe->cmd_op = op;
	c->q_id = 0;
	c->tag = tag;
	c->result = result;
	c->addr = (uintptr_t)u.io[tag].buf;
	u.fetching++;
}

static void commit(struct io *io, int result)
{
	io->busy = false;
	fetch(io - u.io, UBLK_U_IO_COMMIT_AND_FETCH_REQ, result);
}

static void add_to_send(unsigned int tag)
{
	const struct ublksrv_io_desc *d = &u.desc[tag];
	struct io *io = &u.io[tag];
	uint16_t type, flags = 0;

	switch (ublksrv_get_op(d)) {
	case UBLK_IO_OP_READ:
		type = NBD_CMD_READ;
		break;
	case UBLK_IO_OP_WRITE:
		type = NBD_CMD_WRITE;
		if (d->op_flags & UBLK_IO_F_FUA)
			flags = NBD_CMD_FUA;
		break;
	case UBLK_IO_OP_FLUSH:
		type = NBD_CMD_FLUSH;
		break;
	default:
		commit(io, -EOPNOTSUPP);
		return;
	}
	io->busy = true;
	io->len = type == NBD_CMD_FLUSH ? 0 : d->nr_sectors << 9;
	io->request = (struct nbd_request){
		.magic = htobe32(NBD_REQUEST_MAGIC), .flags = htobe16(flags),
		.type = htobe16(type), .handle = htobe64(tag),
		.offset = htobe64(type == NBD_CMD_FLUSH ? 0 : d->start_sector << 9),
		.length = htobe32(io->len),
	};
	io->next = NULL;
	if (u.last)
		u.last->next = io;
	else
		u.first = io;
	u.last = io;
}

static bool carries(const struct io *io)
{
	return io->request.type == htobe16(NBD_CMD_WRITE);
}

static void send_rest(void)
{
	struct io_uring_sqe *sqe = new_sqe(OF_SEND);

	sqe->opcode = IORING_OP_SENDMSG;
	sqe->fd = FILE_NBD;
	sqe->addr = (uintptr_t)&u.out;
	sqe->len = 1;
	sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
}

/*
 * What is sent leaves the list at once: a request may be answered, and its tag be
 * in use again, before the completion of the send is seen. Then its bytes have left.
 */
static void start_send(void)
{
	unsigned int n = 0;

	if (u.sending || !u.first)
		return;
	for (; u.first && n + 2 <= IOV_NR; u.first = u.first->next) {
		struct io *io = u.first;

		u.out_iov[n++] = (struct iovec){ &io->request, sizeof(io->request) };
		if (carries(io))
			u.out_iov[n++] = (struct iovec){ io->buf, io->len };
	}
	if (!u.first)
		u.last = NULL;
	u.out = (struct msghdr){ .msg_iov = u.out_iov, .msg_iovlen = n };
	u.sending = true;
	send_rest();
}

static void on_sent(int r)
{
	if (r <= 0)
		die("the NBD server does not take requests: %s", strerror(-r));
	while (u.out.msg_iovlen && r >= u.out.msg_iov->iov_len) {
		r -= u.out.msg_iov->iov_len;
		u.out.msg_iov++;
		u.out.msg_iovlen--;
	}
	u.sending = u.out.msg_iovlen;
	if (!u.sending)
		return;
	u.out.msg_iov->iov_base = (uint8_t *)u.out.msg_iov->iov_base + r;
	u.out.msg_iov->iov_len -= r;
	send_rest();
}

static void start_receive(void)
{
	struct io_uring_sqe *sqe = new_sqe(OF_RECEIVE);
	unsigned int n = 0;

	u.asked_direct = u.coming ? u.left : 0;
	if (u.asked_direct)
		u.in_iov[n++] = (struct iovec){ u.coming->buf + u.at, u.left };
	u.in_iov[n++] = (struct iovec){ u.rx + u.rx_end, RX_SIZE - u.rx_end };
	u.in = (struct msghdr){ .msg_iov = u.in_iov, .msg_iovlen = n };
	sqe->opcode = IORING_OP_RECVMSG;
	sqe->fd = FILE_NBD;
	sqe->addr = (uintptr_t)&u.in;
	sqe->len = 1;
	/* mostly nothing is there yet: a first attempt would be for nothing */
	sqe->ioprio = IORING_RECVSEND_POLL_FIRST;
}

static void came(size_t n)
{
	u.at += n;
	u.left -= n;
	if (!u.left) {
		commit(u.coming, u.coming->len);
		u.coming = NULL;
	}
}

static void on_reply(const struct nbd_reply *r)
{
	uint64_t tag = be64toh(r->handle);
	struct io *io = tag < DEPTH ? &u.io[tag] : NULL;

	if (be32toh(r->magic) != NBD_REPLY_MAGIC || !io || !io->busy)
		die("the NBD server broke the protocol");
	if (r->error) {
		commit(io, -EIO);
	} else if (io->request.type == htobe16(NBD_CMD_READ)) {
		u.coming = io;
		u.at = 0;
		u.left = io->len;
	} else {
		commit(io, io->len);
	}
}

static void on_received(int n)
{
	size_t pos = 0, have, take;
	struct nbd_reply r;

	if (n <= 0)
		die("the NBD server hung up");
	if (u.asked_direct) {
		take = n < u.asked_direct ? n : u.asked_direct;
		came(take);
		n -= take;
	}
	u.rx_end += n;
	for (;;) {
		have = u.rx_end - pos;
		if (u.coming) {
			take = have < u.left ? have : u.left;
			memcpy(u.coming->buf + u.at, u.rx + pos, take);
			pos += take;
			came(take);
			if (u.coming)
				break;
		} else {
			if (have < sizeof(r))
				break;
			memcpy(&r, u.rx + pos, sizeof(r));
			pos += sizeof(r);
			on_reply(&r);
		}
	}
	memmove(u.rx, u.rx + pos, u.rx_end - pos);
	u.rx_end -= pos;
	start_receive();
}

static void on_completion(const struct io_uring_cqe *cqe)
{
	if (cqe->user_data == OF_SEND) {
		on_sent(cqe->res);
	} else if (cqe->user_data == OF_RECEIVE) {
		on_received(cqe->res);
	} else {
		u.fetching--;
		/* anything else: the device is being stopped */
		if (cqe->res == UBLK_IO_RES_OK)
			add_to_send(cqe->user_data);
	}
}

static void turn(void)
{
	struct io_uring_cqe *cqe;
	unsigned int head, n = 0;
	int r = io_uring_submit_and_wait(&u.ring, 1);

	if (r < 0 && r != -EINTR)
		die("io_uring: %s", strerror(-r));
	io_uring_for_each_cqe(&u.ring, head, cqe) {
		on_completion(cqe);
		n++;
	}
	io_uring_cq_advance(&u.ring, n);
	start_send();
}

static void *queue_thread(void *arg)
{
	int files[] = { [FILE_UBLK] = u.queue, [FILE_NBD] = u.nbd };
	/* the ring belongs to the thread that fetches */
	int r = io_uring_queue_init(2 * DEPTH, &u.ring, IORING_SETUP_SINGLE_ISSUER |
				    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN);

	if (r < 0)
		die("io_uring: %s", strerror(-r));
	r = io_uring_register_files(&u.ring, files, 2);
	if (r < 0)
		die("io_uring: %s", strerror(-r));
	io_uring_register_ring_fd(&u.ring);
	for (unsigned int tag = 0; tag < DEPTH; tag++)
		fetch(tag, UBLK_U_IO_FETCH_REQ, 0);
	start_receive();
	while (u.fetching || u.first || u.sending)
		turn();
	io_uring_queue_exit(&u.ring);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	sigset_t set;
	int sig, r;

	if (argc != 2)
		die("usage: ublk_nbd SOCKET");
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	handshake(argv[1]);
	add_device();
	open_queue();
	if (pthread_create(&thread, NULL, queue_thread, NULL))
		die("no thread");
	r = control(UBLK_U_CMD_START_DEV, NULL, 0, getpid());
	if (r < 0)
		die("the device does not start: %s", strerror(-r));
	printf("/dev/ublkb%u\n", u.id);
	fflush(stdout);
	sigwait(&set, &sig);
	control(UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	pthread_join(thread, NULL);
	/* the device goes when nobody has it any more */
	munmap(u.desc, DEPTH * sizeof(*u.desc));
	close(u.queue);
	control(UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	return 0;
}
