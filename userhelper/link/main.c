// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd-link: one Spice listener of its own, or the virtio-serial ports of a
 * guest, and the media of whoever is at the other end.
 */
#include <errno.h>
#include <getopt.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bootid.h"
#include "conf.h"
#include "daemon.h"
#include "gate.h"
#include "keep.h"
#include "log.h"
#include "loop.h"
#include "port.h"
#include "reclaim.h"
#include "relay.h"
#include "sandbox.h"
#include "server.h"
#include "sock.h"
#include "ticket.h"
#include "virtio.h"

static struct conf conf;
static struct session_params session_params;

static const struct transport spice_transport = {
	.add = port_add,
	.del = port_del,
	.session = port_session,
	.for_each = ports_for_each,
	.replay = gate_replay,
};

static const struct transport *transport = &spice_transport;

/* ---- the parts, put together ---- */

static void daemon_came(void)
{
	transport->replay();
	transport->for_each(session_replay);
}

static void daemon_went(void)
{
	transport->for_each(session_daemon_gone);
}

static void open_stream(const struct link_msg *m)
{
	struct session *s = transport->session(m->port);
	struct link_msg answer = {
		.type = LINK_STREAM_FAILED, .port = m->port, .offer = m->offer, .tag = m->tag,
		.error = ENODEV, .text = "no such port",
	};

	if (s)
		session_open_stream(s, m->offer, m->tag);
	else
		daemon_send(&answer, -1);
}

static void daemon_heard(const struct link_msg *m)
{
	struct session *s = transport->session(m->port);

	switch (m->type) {
	case LINK_ADD_PORT:
		transport->add(m->port);
		break;
	case LINK_DEL_PORT:
		transport->del(m->port);
		break;
	case LINK_OPEN:
		open_stream(m);
		break;
	case LINK_NOTICE:
		if (s && memchr(m->u.notice.text, '\0', sizeof(m->u.notice.text)))
			session_notice(s, m->offer, m->flags, m->u.notice.text);
		break;
	case LINK_INVITE:
		if (transport == &spice_transport && strlen(m->text) <= LINK_TICKET_MAX)
			ticket_invite(m->text);
		break;
	case LINK_MOVE:
		if (s)
			session_move(s, m);
		break;
	case LINK_RESET_PORT:
		if (s)
			session_reset(s, "the daemon asked for it");
		break;
	case LINK_GET_STATS:
		if (s)
			session_get_stats(s);
		break;
	default:
		log_warn("unknown message %u from the daemon: versions differ?", m->type);
	}
}

static const struct daemon_hooks daemon_hooks = {
	.came = daemon_came,
	.went = daemon_went,
	.heard = daemon_heard,
};

static const struct port_hooks port_hooks = {
	.secret = ticket_secret,
	.connection = gate_port_fd,
	.end_client = gate_end_client,
	.spoken = gate_spoken,
	.learn = ticket_learn,
	.emit = daemon_send,
};

static void client_changed(bool came, const char *who)
{
	struct link_msg m = { .type = LINK_CLIENT, .flags = came };

	snprintf(m.text, sizeof(m.text), "%s", who);
	daemon_send(&m, -1);
}

static const struct virtio_hooks virtio_hooks = {
	.client = client_changed,
	.emit = daemon_send,
};

static const struct gate_hooks gate_hooks = {
	.speaks = ports_any_up,
	.expected = ports_unlinked,
	.linked = ports_linked,
	.client = client_changed,
};

/* ---- start ---- */

static bool is_relay(void)
{
	return conf.file.relay[0];
}

static void set_session_params(void)
{
	session_params.ping_interval = conf.file.ping_interval;
	session_params.ping_timeout = conf.file.ping_timeout;
	session_params.hello_timeout = conf.file.hello_timeout;
	session_params.client_force = conf.file.client_force;
	session_params.client_change = conf.file.client_change;
	session_params.client_insert = conf.file.client_insert;
	session_params.credit_budget = ((size_t)conf.file.memory_max << 20) / 2;
	boot_id_read(session_params.boot_id);
	random_bytes(session_params.instance, FRAME_UUID_LEN);
}

/*
 * A relay has nothing to do with this machine's drives: no daemon looks for it by
 * the name of its socket, which says that it runs, and nobody is let in.
 */
static int control_socket(const char *name)
{
	char address[5 + 108] = "unix:", *path = address + 5;
	int fd;

	if (!run_path(path, 108, "link/%s.%s", name, is_relay() ? "relay" : "sock")) {
		log_err("the path of the private socket is too long: use a shorter SPICEBD_RUN_DIR");
		return -1;
	}
	fd = keep_take("control", address);
	if (fd >= 0) {
		if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
			return -1;
		return fd;
	}
	if (mkdir(run_dir(), 0755) < 0 && errno != EEXIST)
		log_err("cannot make %s: %s", run_dir(), strerror(errno));
	*strrchr(path, '/') = '\0';
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		log_err("cannot make %s: %s", path, strerror(errno));
	path[strlen(path)] = '/';
	fd = sock_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, 0600);
	if (fd < 0)
		log_err("cannot listen on %s: %s%s", path, strerror(-fd),
			fd == -EADDRINUSE ? ": another spicebd-link of this name is running" : "");
	return fd;
}

static void on_signal(int fd, int events, void *opaque)
{
	struct signalfd_siginfo si;

	if (read(fd, &si, sizeof(si)) == sizeof(si)) {
		log_info("ended by signal %u", si.ssi_signo);
		loop_quit();
	}
}

/* SIGPIPE: a peer's end must come as an error of its own write. */
static bool catch_signals(void)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd >= 0 && loop_watch_add(fd, LOOP_READ, on_signal, NULL);
}

/* A Spice server and the socket that it gets its clients from. */
static SpiceServer *listen_for_clients(void)
{
	struct gate_params gate = { 0 };
	SpiceServer *server;

	gate.listener = conf_listener(&conf);
	if (gate.listener < 0)
		return NULL;
	server = spice_start(&conf);
	if (!server)
		return NULL;
	gate.tls = conf.file.tls_cert[0];
	gate.hello_timeout = conf.file.hello_timeout;
	ports_init(server, is_relay() ? &relay_end : &session_end, &session_params,
		   &port_hooks);
	if (!gate_init(server, &gate, &gate_hooks)) {
		log_err("out of memory");
		return NULL;
	}
	keep_store("spice", gate.listener);
	return server;
}

static bool go(const char *name, const char *ports, bool sandbox)
{
	const char *user = conf.file.user[0] ? conf.file.user : NULL;

	char why[120];

	keep_ready_prepare();
	/* Before the first thread, and while we have the rights. */
	reclaim_prepare(why, sizeof(why));
	if (sandbox && !sandbox_drop(user, conf.file.memory_max))
		return false;
	if (*why)
		log_warn("%s: a machine that is short of memory may get stuck", why);
	if (ports && !virtio_start(ports, sandbox, &session_params, &virtio_hooks))
		return false;
	if (is_relay() && !relay_start(&conf.file, sandbox))
		return false;
	if (ports)
		log_notice("link %s: serving the ports %s.N", name, ports);
	else
		log_notice("link %s: listening on %s%s%s%s", name, conf.file.address,
			   conf.file.tls_cert[0] ? " with TLS" : "",
			   is_relay() ? ", relaying: " : "", conf.file.relay);
	if (sandbox && !sandbox_seal())
		return false;
	keep_ready();
	return true;
}

static int run(const char *name, bool sandbox)
{
	char prefix[LINKCONF_PATH_MAX + 1], *ports = NULL;
	SpiceServer *server = NULL;
	uid_t owner = geteuid();
	int control;

	if (!conf_load(&conf, name))
		return 2;	/* trying again would not help */
	if (loop_init() < 0 || !catch_signals()) {
		log_err("cannot set up the event loop: %s", strerror(errno));
		return 1;
	}
	loop_busy_poll(conf.file.busy_poll);
	set_session_params();
	if (linkconf_is_port(&conf.file, prefix)) {
		ports = prefix;
		/* In a migration, and with no sign of it. */
		session_params.lossy = true;
		transport = &virtio_transport;
	}
	if (!ports) {
		server = listen_for_clients();
		if (!server)
			return 1;
	}
	control = control_socket(name);
	if (control < 0)
		return 1;
	/* In the directory that the private socket's lies in, too. */
	if (server && !ticket_init(server, name, conf.password))
		return 1;
	explicit_bzero(conf.password, sizeof(conf.password));
	if (is_relay() && !relay_bind(&conf.file))
		return 1;
	if (!is_relay() && !daemon_init(control, owner, conf.file.address, &daemon_hooks)) {
		log_err("out of memory");
		return 1;
	}
	keep_store("control", control);
	if (!go(name, ports, sandbox))
		return 1;
	loop_run();
	/* The libraries' own ends would do what the sandbox forbids. */
	_exit(0);
}

static void usage(FILE *f)
{
	fprintf(f,
		"Usage: spicebd-link [OPTIONS] NAME\n"
		"Serve the Spice listener NAME, configured in links.d/NAME.conf, or, if it has\n"
		"address=port:, the virtio-serial ports of this virtual machine. With relay= it\n"
		"is a relay between that listener and the ports of a guest of this machine.\n"
		"\n"
		"  --debug        log more\n"
		"  --no-sandbox   keep all rights; for debugging only\n"
		"  --help         print this and exit\n"
		"  --version      print the version and exit\n");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "debug", no_argument, NULL, 'd' },
		{ "no-sandbox", no_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	bool debug = false, sandbox = true;
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 'd':
			debug = true;
			break;
		case 'n':
			sandbox = false;
			break;
		case 'h':
			usage(stdout);
			return 0;
		case 'V':
			printf("spicebd-link %s\n", SPICEBD_VERSION);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	log_init("spicebd-link", debug);
	if (argc - optind != 1 || !linkconf_name_ok(argv[optind])) {
		usage(stderr);
		return 2;
	}
	return run(argv[optind], sandbox);
}
