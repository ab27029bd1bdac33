// SPDX-License-Identifier: GPL-2.0-only
#include "server.h"

#include <dlfcn.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gate.h"
#include "log.h"
#include "loop.h"

/* ---- the loop, as libspice-server wants it ---- */

static SpiceTimer *timer_add(SpiceTimerFunc func, void *opaque)
{
	return (SpiceTimer *)loop_timer_add(func, opaque);
}

static void timer_start(SpiceTimer *timer, uint32_t ms)
{
	loop_timer_start((struct loop_timer *)timer, ms);
}

static void timer_cancel(SpiceTimer *timer)
{
	loop_timer_stop((struct loop_timer *)timer);
}

static void timer_remove(SpiceTimer *timer)
{
	loop_timer_remove((struct loop_timer *)timer);
}

/*
 * With TLS configured libspice-server insists on listening itself. Those
 * sockets are shut at birth; starting is true only inside spice_server_init().
 */
static bool starting;

/* Not its only socket: by another one its threads tell of clients that went away. */
static bool listens(int fd)
{
	int yes = 0;
	socklen_t len = sizeof(yes);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) == 0 && yes;
}

static SpiceWatch *watch_add(int fd, int events, SpiceWatchFunc func, void *opaque)
{
	if (starting && listens(fd)) {
		shutdown(fd, SHUT_RDWR);
		events = 0;
	}
	return (SpiceWatch *)loop_watch_add(fd, events, func, opaque);
}

static void watch_update_mask(SpiceWatch *watch, int events)
{
	loop_watch_set((struct loop_watch *)watch, events);
}

static void watch_remove(SpiceWatch *watch)
{
	loop_watch_remove((struct loop_watch *)watch);
}

static SpiceCoreInterface core = {
	.base.type = SPICE_INTERFACE_CORE,
	.base.description = "spicebd-link",
	.base.major_version = SPICE_INTERFACE_CORE_MAJOR,
	.base.minor_version = SPICE_INTERFACE_CORE_MINOR,
	.timer_add = timer_add,
	.timer_start = timer_start,
	.timer_cancel = timer_cancel,
	.timer_remove = timer_remove,
	.watch_add = watch_add,
	.watch_update_mask = watch_update_mask,
	.watch_remove = watch_remove,
	.channel_event = gate_channel_event,
};

/*
 * TLS for connections that we accept: the context is made only along with a
 * listener, so it gets one that nobody can reach, in a directory that is gone
 * before anything else runs.
 */
static int init_with_tls(SpiceServer *s, const struct linkconf *c)
{
	char dir[] = "/tmp/spicebd-link.XXXXXX", path[sizeof(dir) + 8];
	int r;

	if (!mkdtemp(dir)) {
		log_err("cannot make a directory in /tmp: %s", strerror(errno));
		return -1;
	}
	snprintf(path, sizeof(path), "%s/none", dir);
	spice_server_set_addr(s, path, SPICE_ADDR_FLAG_UNIX_ONLY);
	r = spice_server_set_tls(s, 1, c->tls_ca, c->tls_cert, c->tls_key, NULL, NULL, NULL);
	if (r == 0) {
		starting = true;
		r = spice_server_init(s, &core);
		starting = false;
	}
	unlink(path);
	rmdir(dir);
	return r;
}

static bool readable(const char *what, const char *path)
{
	if (access(path, R_OK) == 0)
		return true;
	log_err("cannot read %s=%s: %s", what, path, strerror(errno));
	return false;
}

static bool tls_files_ok(const struct linkconf *c)
{
	return readable("tls-cert", c->tls_cert) && readable("tls-key", c->tls_key) &&
	       readable("tls-ca", c->tls_ca);
}

/*
 * GLib's generator, which makes the connection ids, opens /dev/urandom at its
 * first use and falls back to the time: it must be used before the sandbox. It
 * comes in with libspice-server and has no header here.
 */
static bool seed_glib(void)
{
	uint32_t (*random_int)(void) = (uint32_t (*)(void))dlsym(RTLD_DEFAULT, "g_random_int");

	if (random_int) {
		random_int();
		return true;
	}
	log_err("libspice-server came without GLib: this build cannot be used");
	return false;
}

/*
 * The machine's rules for cryptography, which hold for tickets, too, are read at
 * their first use: that would be in the sandbox, and so in vain.
 */
static void read_crypto_rules(void)
{
	OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL);
}

SpiceServer *spice_start(const struct conf *c)
{
	bool tls = c->file.tls_cert[0];
	SpiceServer *s;
	int r;

	if (!seed_glib() || (tls && !tls_files_ok(&c->file)))
		return NULL;
	read_crypto_rules();
	s = spice_server_new();
	if (!s)
		return NULL;
	if (*c->password)
		r = spice_server_set_ticket(s, c->password, 0, 0, 0);
	else
		r = spice_server_set_noauth(s);
	spice_server_set_name(s, "spicebd");
	if (r == 0)
		r = tls ? init_with_tls(s, &c->file) : spice_server_init(s, &core);
	if (r < 0) {
		log_err("cannot start the Spice server%s",
			tls ? ": check that tls-cert=, tls-key= and tls-ca= are PEM files that belong together" : "");
		return NULL;
	}
	spice_server_vm_start(s);
	return s;
}
