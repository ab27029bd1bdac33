// SPDX-License-Identifier: GPL-2.0-only
/*
 * The record is mapped, so that the sandbox need not allow any call for it. It
 * outlives this process and may be what a predecessor that was taken over wrote:
 * nothing is believed but a whole record of this very password.
 */
#include "ticket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linkproto.h"
#include "hex.h"
#include "log.h"
#include "loop.h"
#include "password.h"
#include "sock.h"

#define TICKET_BYTES	16	/* of the secret; hex digits of them are the ticket */
#define INVITED_MS	60000
#define RECORD_MAGIC	"sbdtkt1"

struct record {
	char magic[8];
	uint32_t spent;			/* last written, first read */
	uint8_t secret[FRAME_SECRET_LEN];
	char password[PASSWORD_MAX + 1];
};

static SpiceServer *server;
static struct record *record;		/* NULL: there is no password */
static uint8_t secret[FRAME_SECRET_LEN];
static bool by_secret;
static char invitation[LINK_TICKET_MAX + 1];	/* or "" */
static struct loop_timer *expiry;

static void use_password(void)
{
	by_secret = false;
	if (spice_server_set_ticket(server, record->password, 0, 0, 0) < 0)
		log_err("libspice-server does not take the password");
}

static void use_secret(void)
{
	char text[2 * TICKET_BYTES + 1];

	hex_encode(secret, TICKET_BYTES, text);
	by_secret = true;
	if (spice_server_set_ticket(server, text, 0, 0, 0) < 0)
		log_err("libspice-server does not take the session's secret");
	explicit_bzero(text, sizeof(text));
}

static void use_invitation(void)
{
	by_secret = false;
	if (spice_server_set_ticket(server, invitation, 0, 0, 0) < 0)
		log_err("libspice-server does not take the ticket of a share that is to come");
}

/* What was good before somebody was invited. */
static void uninvite(void *opaque)
{
	if (!invitation[0])
		return;
	explicit_bzero(invitation, sizeof(invitation));
	loop_timer_stop(expiry);
	if (!record->spent) {
		use_password();
		return;
	}
	memcpy(secret, record->secret, sizeof(secret));
	use_secret();
}

void ticket_invite(const char *text)
{
	if (!record)
		return;
	if (!expiry)
		expiry = loop_timer_add(uninvite, NULL);
	uninvite(NULL);
	if (!*text || !expiry)
		return;
	snprintf(invitation, sizeof(invitation), "%s", text);
	use_invitation();
	loop_timer_start(expiry, INVITED_MS);
}

static int open_record(const char *name)
{
	char path[108];
	struct stat st;
	int fd, r;

	if (!run_path(path, sizeof(path), "link/%s.ticket", name))
		return -ENAMETOOLONG;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 077)
		r = -EPERM;
	else	/* a page that is not there would kill us at its first use */
		r = -posix_fallocate(fd, 0, sizeof(struct record));
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

static int map_record(const char *name)
{
	int fd = open_record(name), r = 0;

	if (fd < 0)
		return fd;
	record = mmap(NULL, sizeof(*record), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (record == MAP_FAILED) {
		record = NULL;
		r = -errno;
	}
	close(fd);
	return r;
}

static bool record_holds(const char *password)
{
	return !memcmp(record->magic, RECORD_MAGIC, sizeof(record->magic)) &&
	       record->spent == 1 &&
	       !strncmp(record->password, password, sizeof(record->password));
}

bool ticket_init(SpiceServer *srv, const char *name, const char *password)
{
	int r;

	server = srv;
	random_bytes(secret, sizeof(secret));
	if (!*password)
		return true;
	r = map_record(name);
	if (r < 0) {
		log_err("cannot use %s/link/%s.ticket, where it is remembered that the password was used: %s: remove it",
			run_dir(), name, strerror(-r));
		return false;
	}
	if (record_holds(password)) {
		memcpy(secret, record->secret, sizeof(secret));
		use_secret();
		return true;
	}
	memset(record, 0, sizeof(*record));
	snprintf(record->password, sizeof(record->password), "%s", password);
	memcpy(record->magic, RECORD_MAGIC, sizeof(record->magic));
	use_password();
	return true;
}

void ticket_client_came(void)
{
	if (invitation[0]) {
		random_bytes(secret, sizeof(secret));
		use_invitation();
		return;
	}
	if (!record || !record->spent)
		random_bytes(secret, sizeof(secret));
	/* It came by the password, perhaps over one whose secret was asked for. */
	if (record && !record->spent)
		use_password();
}

void ticket_all_linked(void)
{
	if (record && !by_secret)
		use_secret();
}

void ticket_learn(const uint8_t *learnt)
{
	if (!memcmp(secret, learnt, sizeof(secret)))
		return;
	memcpy(secret, learnt, sizeof(secret));
	if (by_secret)
		use_secret();
	/* Whoever reads the record meanwhile finds the password good, not half a secret. */
	if (record)
		__atomic_store_n(&record->spent, 0, __ATOMIC_RELEASE);
}

void ticket_spoken(void)
{
	if (!record || (record->spent && !invitation[0]))
		return;
	/* Its secret is what counts from now on, also if a link was asked for before. */
	if (invitation[0]) {
		explicit_bzero(invitation, sizeof(invitation));
		loop_timer_stop(expiry);
		__atomic_store_n(&record->spent, 0, __ATOMIC_RELEASE);
	}
	memcpy(record->secret, secret, sizeof(record->secret));
	__atomic_store_n(&record->spent, 1, __ATOMIC_RELEASE);
}

void ticket_released(void)
{
	if (!record)
		return;
	/* A share may go when it has spoken and other channels of it are not linked yet. */
	if (invitation[0])
		use_invitation();
	else if (record->spent && !by_secret)
		use_secret();
	else if (!record->spent && by_secret)
		use_password();
}

bool ticket_is_secret(void)
{
	return by_secret;
}

const uint8_t *ticket_secret(void)
{
	return secret;
}
