/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside of the share's core. Who calls whom: port.c (the Spice channel) calls
 * session.c (frames), that calls stream.c (one NBD byte stream), that calls
 * serve.c (the NBD server of a stream) and offer.c; upwards only by what this
 * header names "upcall".
 */
#ifndef SPICEBD_SHARE_CORE_H
#define SPICEBD_SHARE_CORE_H

#include "share.h"

#include "frame.h"
#include "spicetap.h"

#define SHARE_PORT_PREFIX	"org.spice-space.spicebd."
#define SHARE_DRIVES_MAX	SPICEBD_SHARE_DRIVES	/* port numbers below this are served */
#define SHARE_SITES		2	/* hosts at one time: while a medium moves */
/*
 * Inside, a drive's number is that of its port and, above it, of its site, so
 * that drives of the same number at two hosts are two.
 */
#define SHARE_KEYS		(SHARE_SITES * SHARE_DRIVES_MAX)
#define SHARE_WINDOW		(8u << 20)	/* link-to-share bytes of a stream, at most */
#define SHARE_WINDOW_MIN	(256u << 10)
#define SHARE_WINDOWS		(64u << 20)	/* of all streams of all ports */
#define SHARE_BUFFERS		16		/* data frames of a port handed to Spice at once */
#define SHARE_CONTROL_MAX	512		/* other frames, likewise */

struct offer;
struct port;
struct stream;
struct server;
struct folder;

struct move;

/* struct site - a session with one host; @session NULL: none */
struct site {
	struct spicebd_share *share;
	SpiceSession *session;
	gulong on_new, on_destroy;
	char *uri;		/* if a move led here */
	guint leaving;
};

struct spicebd_share {
	struct site sites[SHARE_SITES];
	struct move *move;	/* the one under way */
	GList *moved;		/* those that are over, the last one first */
	spicebd_share_fn fn;
	void *user;
	GPtrArray *offers;
	GList *withdrawn;	/* offers that streams or servers still use */
	guint sweep;
	GList *asks;
	GList *ports;
	GList *servers;		/* ended ones stay until they are reaped */
	char *nbdkit;		/* program, absolute */
	char *dir;		/* sockets of folder servers, 0700; or NULL */
	uint8_t instance[FRAME_UUID_LEN];
	uint8_t boot_id[FRAME_UUID_LEN];
	bool checked;		/* frames of the last session were: the links are a guest's */
	uint64_t read_bytes, write_bytes;
	long long silent_at;	/* when a port was last given up, ... */
	unsigned int silences;	/* ... and how often, up to a bound */
	size_t windows;		/* given to streams, of SHARE_WINDOWS */
	uint32_t last_offer;	/* number given out */
	unsigned int folders;	/* not yet reaped */
	unsigned int hold;	/* references by what outlives spicebd_share_free() */
	bool stopping, stopped, freed;
};

static inline unsigned int site_of(unsigned int drive)
{
	return drive / SHARE_DRIVES_MAX;
}

/* as people know it */
static inline unsigned int drive_no(unsigned int drive)
{
	return drive % SHARE_DRIVES_MAX;
}

void share_event(struct spicebd_share *share, enum spicebd_share_event_type type,
		 int drive, struct offer *o, const char *text);
void share_unhold(struct spicebd_share *share);
/* upcall: a server was reaped or a buffer came back; what waited may go on */
void share_progress(struct spicebd_share *share);

/* ---- offer.c */

enum offer_source { OFFER_FILE, OFFER_ISO, OFFER_FAT, OFFER_URL };

struct offer {
	struct spicebd_share *share;
	struct spicebd_share_info info;	/* owns name and path */
	enum offer_source source;
	int fd;			/* the inode itself: a path may come to name another */
	bool regular;
	bool locked;		/* against other shares and their servers */
	bool read_only;
	bool durable;
	bool ask_kind;		/* found out by what is in it */
	uint16_t kind;
	int64_t mtime_s, mtime_ns;
	uint8_t medium_id[FRAME_UUID_LEN];
	uint8_t incarnation[FRAME_UUID_LEN];
	int writer;		/* drive that has it open for writing, or -1 */
	int owner;		/* site that alone may open it, or -1: any */
	uint32_t owner_epoch;	/* how often it came to belong to another host */
	uint8_t moved_by[FRAME_UUID_LEN];	/* the move that made it so last, or zeros */
	uint8_t inserted[SHARE_KEYS / 8];	/* drives that have the medium */
	uint8_t users[SHARE_KEYS / 8];		/* ... where somebody uses it */
	GHashTable *who;	/* drive, to a text: of these, where the link says it */
	struct folder *folder;
	int record;		/* of its identity, if it is written to; or -1 */
	long long stamped;
};

struct offer *offer_new(struct spicebd_share *share, const struct spicebd_share_medium *m,
			char **error);
void offer_free(struct offer *o);
struct offer *offer_find(struct spicebd_share *share, uint32_t id);
void offer_to_frame(const struct offer *o, unsigned int drive, struct frame_offer *f);
/* new number and identity: what is there now is not what was offered */
void offer_renew(struct offer *o);
void offer_set_kind(struct offer *o, bool cdrom);
void offer_set_inserted(struct offer *o, unsigned int drive, bool inserted);
/* @text: who uses it, or "" */
void offer_set_locked(struct offer *o, unsigned int drive, bool locked, const char *text);
/* in this drive, or in any (-1) */
bool offer_inserted(const struct offer *o, int drive);
/* the same store behind another server */
void offer_new_incarnation(struct offer *o);
/* whether the file is what was offered but for our own writes */
bool offer_unchanged(struct offer *o);
/* frees withdrawn offers that nothing uses any more; soon, or now */
void offers_sweep_later(struct spicebd_share *share);
void offers_sweep(struct spicebd_share *share);
unsigned int offer_streams(struct offer *o, int drive);
/* whether any stream names it, also one that only awaits its CLOSE */
bool offer_has_streams(const struct offer *o);

/* ---- ask.c: requests to drives that wait for their answers */

/* upcalls: what a notice, the end of a session, or of an offer means for them */
void asks_notice(struct port *p, const struct offer *o, uint32_t what, const char *text);
void asks_session_over(struct port *p);
void asks_offer_over(const struct offer *o);
void asks_free(struct spicebd_share *share);

/* ---- identity.c: what makes a file the same medium for a share started anew */

/* takes over the identity that an earlier share gave it, if it is the same still */
void identity_recall(struct offer *o);
/* remembers it, as it is now; false: it should have been, and could not */
bool identity_keep(struct offer *o);
/* data of it passes: a share is there, and may write */
void identity_stamp(struct offer *o);

/* ---- move.c: a medium comes to belong to another host */

/* false: it makes no sense */
bool move_heard(struct port *p, const struct frame_move *m);
/* why a stream of it must not be opened there, or NULL */
const char *move_refusal(const struct port *p, const struct offer *o);
/* upcalls: servers have ended; a port's session is over; an offer is */
void move_progress(struct spicebd_share *share);
void move_session_over(struct port *p);
void move_offer_over(const struct offer *o);
/* ... a drive has given a medium back */
void move_ejected(struct port *p);
void move_free(struct spicebd_share *share);

/* ---- name.c */

char *name_make(struct spicebd_share *share, const char *path);
bool name_taken(struct spicebd_share *share, const char *name);
void name_label(const char *name, char *label, size_t size);

/* ---- proc.c: a child process */

struct proc;
typedef void (*proc_fn)(void *data, int status);

/**
 * proc_start() - start a program in a session of its own
 * @argv: argv[0] is its absolute path
 * @io: becomes descriptors 0 and 1; -1: /dev/null
 * @fd3: becomes descriptor 3, or -1
 * @listening: @fd3 is a listening socket, announced by LISTEN_FDS
 * @label: before its lines in the log
 * @fn: called once when it was reaped, also after proc_kill()
 *
 * The child dies with this process, whatever happens to it.
 */
struct proc *proc_start(char *const argv[], int io, int fd3, bool listening,
			const char *label, proc_fn fn, void *data);
void proc_kill(struct proc *p);
pid_t proc_pid(const struct proc *p);
const char *proc_last_line(const struct proc *p);

/* ---- serve.c: the NBD server's end of one stream */

struct server *server_start(struct offer *o, struct stream *s, unsigned int drive,
			    int *fd, char **error);
/**
 * server_end() - the stream needs it no more
 * @kill: at once; else it has a moment to end by itself
 *
 * stream_server_ended() follows, possibly from within, unless server_detach().
 */
void server_end(struct server *srv, bool kill);
void server_detach(struct server *srv);
/* servers that are not proven gone: of a drive, of all (-1); of an offer or any */
unsigned int server_count(struct spicebd_share *share, int drive, const struct offer *o);
/* whether one of an offer was told to end and is not proven gone */
bool server_ending(const struct offer *o);
/* upcall */
void stream_server_ended(struct stream *s, int status);

/* ---- folder.c: one nbdkit for the whole life of a folder's offer */

struct folder *folder_start(struct offer *o, char **error);
int folder_connect(struct folder *f);
/* bytes of its image so far */
uint64_t folder_made(const struct folder *f);
void folder_stop(struct folder *f);
/* upcalls */
void share_offer_ready(struct offer *o);
void share_offer_failed(struct offer *o, const char *text);
void share_offer_died(struct offer *o);

/* ---- port.c: a Spice port channel */

enum port_state {
	PORT_DOWN,		/* not opened */
	PORT_WAIT_HELLO,
	PORT_FENCING,		/* hello is here, servers of older epochs still end */
	PORT_UP,
	PORT_CLOSED,		/* said or heard BYE; only a hello gets it out */
	PORT_SHUT,		/* broke the rules too often; only a new port gets it out */
};

struct txbuf {
	struct port *port;
	struct txbuf *next;
	bool pooled;
	struct tap_buf b;	/* last: its data follows */
};

struct port {
	struct spicebd_share *share;
	SpicePortChannel *channel;
	gulong handlers[3];
	unsigned int site;
	unsigned int drive;	/* with the site's number, see SHARE_KEYS */
	unsigned int refs;
	bool known;		/* the name is ours */
	bool opened;
	bool gone;		/* the channel is; only buffers still refer to this */

	enum port_state state;
	struct frame_rx rx;
	struct frame_tx tx;
	struct frame_hello peer;
	GList *streams;
	struct stream *direct;	/* of the frame that session_begin() took last; or NULL */
	struct txbuf *pool;
	unsigned int pool_made, data_out, control_out;
	struct tap_source *tap;	/* NULL: data goes through the Spice library */
	unsigned int batch;	/* nested handlers at whose end what they sent goes out */
	bool returned;		/* buffers came back meanwhile */
	guint hello_timer, ping_timer;
	unsigned int hello_tries, faults;
	bool lost;		/* the step was lost in a session with this secret: */
	uint8_t secret[FRAME_SECRET_LEN];
	uint32_t last_stream;
	long long fault_since, last_rx;
};

void port_attach(struct spicebd_share *share, unsigned int site, SpiceChannel *channel);
void port_detach(struct port *p);
void port_unref(struct port *p);
struct txbuf *port_get_buffer(struct port *p);
void port_put_buffer(struct txbuf *b);
/* hands over the buffer; it comes back by itself */
void port_send_buffer(struct port *p, struct txbuf *b, size_t len);
bool port_send_small(struct port *p, const uint8_t *frame, size_t len);
/* what is sent between the two leaves together; the port outlives it */
void port_batch_begin(struct port *p);
void port_batch_end(struct port *p);
/* upcall: the buffer may be used again */
void port_written(struct txbuf *b);
/* upcalls, in session.c */
/* @again: it was open already, so that the link may take the old session for alive */
void session_opened(struct port *p, bool again);
void session_closed(struct port *p, const char *why);
void session_input(struct port *p, const uint8_t *data, size_t len);
/* ... a frame of @len bytes by pieces, as struct tap_direct; false: by session_input() */
bool session_begin(struct port *p, const uint8_t *head, size_t len);
int session_sink(const struct port *p);
void session_moved(struct port *p, size_t n);
void session_part(struct port *p, const uint8_t *data, size_t len);
bool session_hold(const struct port *p);
void session_progress(struct port *p);

/* ---- tap.c: past the Spice library (spicetap.h) */

/* takes over the channel's connection, where that can be done */
void tap_attach(struct port *p);
void tap_detach(struct port *p);
/* false: the library must send it */
bool tap_takes(const struct port *p);
void tap_send_buffer(struct port *p, struct txbuf *b, size_t len);
void tap_send_now(struct port *p);
/* a stream's server has taken all, or there is no stream any more */
void tap_flows(struct port *p);
/* upcall, in port.c */
void port_data(struct port *p, const uint8_t *data, size_t len);

/* ---- session.c: the frame layer of a port */

void session_offer(struct port *p, struct offer *o);
void session_offer_all_ports(struct offer *o, int but_drive);
void session_withdraw_all_ports(struct offer *o);
/* @by: to be inserted instead, or NULL; false: the link does not know such requests */
bool session_eject_request(struct port *p, struct offer *o, bool force,
			   const struct offer *by);
void session_bye(struct port *p, uint32_t code, const char *text);
void session_fault(struct port *p, uint32_t code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
bool session_send_code(struct port *p, uint16_t type, uint32_t stream, uint32_t code,
		       const char *text);
void session_move_state(struct port *p, const struct frame_move_state *m);
bool session_send_u32(struct port *p, uint16_t type, uint32_t stream, uint32_t v);

/* ---- stream.c */

void stream_open(struct port *p, uint32_t id, struct offer *o, uint32_t credit);
/* the link's credit, or data, beyond what it may: false */
struct stream *stream_find(struct port *p, uint32_t id);
bool stream_data(struct stream *s, const uint8_t *data, size_t len);
/* ... of one frame by pieces: whether it can be, its length, what comes of it */
bool stream_takes_pieces(const struct stream *s, size_t len);
void stream_begin(struct stream *s, size_t len);
int stream_sink(const struct stream *s);	/* or -1: not now */
void stream_moved(struct stream *s, size_t n);
void stream_part(struct stream *s, const uint8_t *data, size_t len);
bool stream_is_full(const struct stream *s);	/* its server does not keep up */
bool stream_credit(struct stream *s, uint32_t bytes);
bool stream_closed_by_peer(struct stream *s);
/* ends it and tells the peer */
void stream_fail(struct stream *s, uint32_t code, const char *text);
/* forgets it: the session is over */
void stream_abort(struct stream *s);
/* servers were reaped: streams that waited for that begin */
void stream_unfence(struct port *p);
/* a buffer is free: the one that has waited longest gets it */
void stream_next_starved(struct port *p);
/* ends all streams of an offer, on all ports */
void stream_fail_offer(struct offer *o, uint32_t code, const char *text);

#endif /* SPICEBD_SHARE_CORE_H */
