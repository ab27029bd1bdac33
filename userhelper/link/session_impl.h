/* SPDX-License-Identifier: GPL-2.0-only */
/* What session.c, stream.c and hear.c share, and nobody else includes. */
#ifndef SPICEBD_LINK_SESSION_IMPL_H
#define SPICEBD_LINK_SESSION_IMPL_H

#include "loop.h"
#include "session.h"

#define CTL_MAX		32768	/* control frames waiting to be sent */
#define STREAM_WINDOW	(8u << 20)
#define STREAM_WINDOW_MIN (256u << 10)
#define OPEN_TIMEOUT	30000	/* ms until a share has a stream ready */

enum stream_state {
	STREAM_OPENING,		/* OPEN sent */
	STREAM_OPEN,
	STREAM_CLOSING,		/* CLOSE sent, the share's awaited; what comes is dropped */
	STREAM_DRAINING,	/* both sent; bytes for the daemon are left */
};

/* Bytes from the share that the daemon's socket did not take yet. */
struct chunk {
	struct chunk *next;
	uint32_t start, end;
	uint8_t data[];
};

struct stream {
	struct stream *next;
	struct session *session;
	uint32_t id, offer, tag;
	enum stream_state state;
	int fd;				/* our end; the daemon has the other */
	struct loop_watch *watch;
	unsigned int wanted;		/* LOOP_READ, LOOP_WRITE */
	bool readable;			/* recv() has not said EAGAIN */
	bool window_returned;
	long long deadline;		/* STREAM_OPENING */
	uint32_t tx_credit;		/* bytes we may send */
	uint32_t window;		/* granted at OPEN; taken from the budget */
	uint32_t rx_credit;		/* bytes the share may send */
	uint32_t drained;		/* taken by the daemon, not yet granted again */
	struct chunk *queue, **queue_tail;
};

struct session {
	uint32_t port;
	const struct session_params *params;
	const struct session_ops *ops;
	void *opaque;

	bool started;			/* the transport stands */
	bool up;			/* the share said hello in this epoch */
	bool failed;			/* protocol error: nothing more is heard */
	bool said_quiet;		/* logged once per transport */
	bool offers_end;
	uint8_t secret[FRAME_SECRET_LEN];
	uint32_t epoch;
	struct frame_tx tx;
	struct frame_rx *rx;
	uint32_t peer_frame_max, peer_caps;
	uint8_t peer_boot_id[FRAME_UUID_LEN], peer_instance[FRAME_UUID_LEN];

	uint8_t ctl[CTL_MAX];
	size_t ctl_len;
	struct stream *streams, *turn;
	struct loop_timer *hold_timer;	/* runs while what comes is held up */
	bool held, hold_over;		/* the latter: for too long, until the queue is empty */
	struct stream *direct;		/* of the frame that session_begin() took last; or NULL */
	unsigned int n_streams;
	uint32_t next_stream;
	struct frame_offer *offers[FRAME_OFFERS_MAX];

	struct loop_timer *timer;
	long long hello_due, ping_due, last_heard, ping_sent;
	uint64_t ping_token;
	long long epochs_since;		/* start of the window that n_epochs counts */
	unsigned int n_epochs;

	uint64_t rx_bytes, tx_bytes, rx_frames, tx_frames;
	uint32_t rtt_us;
};

/* session.c */
uint8_t *session_room(struct session *s);	/* FRAME_SMALL_MAX bytes, or NULL: failed */
void session_queued(struct session *s, size_t len);
void session_fail(struct session *s, enum frame_code code, const char *why);
void session_epoch(struct session *s, const char *why);
void session_emit(struct session *s, struct link_msg *m, int fd);
void session_flows(struct session *s);	/* a stream's queue is empty, or gone */
/* @ended: the share itself says so */
void session_down(struct session *s, const char *why, bool ended);

/* hear.c */
void session_emit_up(struct session *s);
void session_emit_offer(struct session *s, const struct frame_offer *o);
void session_hear(struct session *s, const struct frame_header *h, const uint8_t *payload);

/* move.c; false: it makes no sense */
bool session_hear_move_state(struct session *s, const uint8_t *payload, size_t len);

/* stream.c */
struct stream *stream_find(struct session *s, uint32_t id);
bool stream_open(struct session *s, uint32_t offer, uint32_t tag, const char **why, int *err);
void stream_opened(struct stream *st, uint32_t credit);
void stream_data(struct stream *st, const uint8_t *data, size_t len);
/* Of one frame, by pieces: whether it can be, its length, what comes of it. */
bool stream_takes_pieces(const struct stream *st, size_t len);
void stream_begin(struct stream *st, size_t len);
int stream_sink(const struct stream *st);	/* or -1: not now */
bool stream_is_full(const struct stream *st);	/* the daemon does not keep up */
void stream_moved(struct stream *st, size_t n);
void stream_part(struct stream *st, const uint8_t *data, size_t len);
void stream_credit(struct stream *st, uint32_t bytes);
void stream_closed(struct stream *st, uint32_t code, const char *text);
/* Return: when the next one is due, or LLONG_MAX. */
long long stream_check_deadlines(struct session *s, long long now);
void streams_abort(struct session *s, bool tell_share, int err, const char *why);
size_t streams_output(struct session *s, uint8_t *buf, size_t size);

#endif /* SPICEBD_LINK_SESSION_IMPL_H */
