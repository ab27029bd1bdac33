// SPDX-License-Identifier: GPL-2.0-only
/* listen, unlisten, media: the Spice side. */
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linkconf.h"
#include "log.h"
#include "password.h"
#include "sock.h"

#define LINK_MS		20000
#define DEFAULT_LINK	"default"

/* The link's own process opens it later, from another working directory. */
static int take_file(const char *what, const char *path, char *out, struct fault *f)
{
	char real[PATH_MAX];
	struct stat st;

	if (!realpath(path, real) || stat(real, &st) < 0 || access(real, R_OK) < 0) {
		fault_set(f, EXIT_REFUSED, "%s %s: %s", what, clean(path), strerror(errno));
		return -errno;
	}
	if (!S_ISREG(st.st_mode)) {
		fault_set(f, EXIT_REFUSED, "%s %s: not a regular file", what, clean(path));
		return -EINVAL;
	}
	if (strlen(real) > LINKCONF_PATH_MAX) {
		fault_set(f, EXIT_REFUSED, "%s: the path is too long", what);
		return -ENAMETOOLONG;
	}
	strcpy(out, real);
	return 0;
}

static int check_password(const char *path, struct fault *f)
{
	char password[PASSWORD_MAX + 1], err[sizeof(f->text)];
	int r = password_read(path, password, err, sizeof(err));

	explicit_bzero(password, sizeof(password));
	if (r < 0)
		fault_set(f, EXIT_REFUSED, "%s", err);
	return r;
}

static int relay_option(int c, const char *text, struct linkconf *l, struct fault *f)
{
	char *to = c == 'r' ? l->relay : l->relay_user;
	size_t size = c == 'r' ? sizeof(l->relay) : sizeof(l->relay_user);
	const char *why = NULL;

	if (c == 'n')
		why = linkconf_relay_ports(l, text);
	else if (c != 'r' && c != 'u')
		return -1;
	else if (!*text || strlen(text) >= size)
		why = "is empty or too long";
	else
		strcpy(to, text);
	if (!why)
		return 0;
	fault_set(f, EXIT_USAGE, "--relay%s: \"%s\" %s",
		  c == 'n' ? "-ports" : c == 'u' ? "-user" : "", clean(text), why);
	return -1;
}

static int listen_option(int c, const char *text, struct linkconf *l, struct fault *f)
{
	switch (c) {
	case 'p':
		if (take_file("password file", text, l->password_file, f) < 0)
			return -1;
		return check_password(l->password_file, f);
	case 'c':
		return take_file("TLS certificate", text, l->tls_cert, f);
	case 'k':
		return take_file("TLS key", text, l->tls_key, f);
	case 'a':
		return take_file("TLS CA file", text, l->tls_ca, f);
	case 'i':
		l->insecure = true;
		return 0;
	case 'I':
		l->client_insert = true;
		return 0;
	}
	return relay_option(c, text, l, f);
}

static int take_address(const char *text, struct linkconf *l, struct fault *f)
{
	const char *prefix = *text == '/' ? "unix:" : "";

	if (strlen(text) + 5 > LINKCONF_ADDRESS_MAX) {
		fault_set(f, EXIT_USAGE, "the address is too long");
		return -ENAMETOOLONG;
	}
	snprintf(l->address, sizeof(l->address), "%s%s", prefix, text);
	return 0;
}

/* For clients of this machine, or through ssh: the only way in that needs no secret. */
static int take_default(struct linkconf *l, struct fault *f)
{
	char path[108];

	if (run_path(path, sizeof(path), "spice.sock"))
		return take_address(path, l, f);
	fault_set(f, EXIT_REFUSED, "the path of the run directory is too long");
	return -ENAMETOOLONG;
}

/* Could it be listened on? Found out before anything is written or started. */
static int try_address(const struct linkconf *l, struct fault *f)
{
	char err[300];
	int fd;

	if (linkconf_check(l, err, sizeof(err)) < 0) {
		fault_set(f, EXIT_REFUSED, "%s", err);
		return -EINVAL;
	}
	if (linkconf_is_port(l, NULL))
		return 0;
	fd = linkconf_listen(l, err, sizeof(err));
	if (fd < 0) {
		fault_set(f, EXIT_REFUSED, "%s", err);
		return fd;
	}
	close(fd);
	if (linkconf_is_unix(l))
		unlink(linkconf_is_unix(l));
	return 0;
}

static int control_link(const char *verb, const char *name, struct fault *f)
{
	char unit[64], request[64];
	char *argv[] = { "systemctl", NULL, unit, NULL };
	bool start = !strcmp(verb, "start");

	if (!daemon_by_systemd()) {
		snprintf(request, sizeof(request), "link-%s %s", verb, name);
		return supervisor_request(request, LINK_MS, f);
	}
	argv[1] = start ? "start" : "stop";
	snprintf(unit, sizeof(unit), "spicebd-link@%s.service", name);
	if (daemon_run(argv, f) == 0)
		return 0;
	if (start) {
		argv[1] = "stop";	/* or it would be tried for ever */
		daemon_run(argv, f);
	}
	fault_set(f, EXIT_REFUSED, "%s did not %s; journalctl -u %s says why", unit, verb, unit);
	return -EIO;
}

static void remove_conf(const char *name)
{
	char path[108];

	if (run_path(path, sizeof(path), "links.d/%s.conf", name))
		unlink(path);
}

/* A unit cannot: its ExecStopPost would run at every restart. */
static void remove_leftovers(const char *name)
{
	char path[108];

	if (run_path(path, sizeof(path), "link/%s.sock", name))
		unlink(path);
	if (run_path(path, sizeof(path), "link/%s.relay", name))
		unlink(path);
	/* What says that the password was used: the next link takes it again. */
	if (run_path(path, sizeof(path), "link/%s.ticket", name))
		unlink(path);
}

/* The sockets that a relay made for QEMU; those of QEMU's own are not ours. */
static void remove_relay_sockets(const struct linkconf *l)
{
	char path[LINKCONF_PATH_MAX + 16];
	const char *prefix;
	int r;

	if (!linkconf_relay_listens(l, &prefix))
		return;
	for (unsigned int i = 0; i < LINKCONF_PORTS; i++) {
		if (!linkconf_relays_port(l, i))
			continue;
		snprintf(path, sizeof(path), "%s.%u", prefix, i);
		r = sock_remove_dead(path);
		if (r < 0)
			log_warn("%s is left: %s", path, strerror(-r));
	}
}

/*
 * Whether somebody listens on its private socket. Not found out by connecting:
 * a new peer there ends the session of the old one, which is spicebdd.
 */
static bool listens(const char *name, const char *suffix)
{
	char path[108], line[512], *at;
	bool found = false;
	FILE *f;

	if (!run_path(path, sizeof(path), "link/%s.%s", name, suffix))
		return false;
	f = fopen("/proc/net/unix", "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		at = strchr(line, '/');
		found = at && !strcmp(at, path);
	}
	fclose(f);
	return found;
}

static bool link_runs(const char *name)
{
	return listens(name, "sock") || listens(name, "relay");
}

static bool has_conf(const char *name)
{
	char path[108];

	return run_path(path, sizeof(path), "links.d/%s.conf", name) && access(path, F_OK) == 0;
}

/* A link that runs: 1, as it is to be; else an error that says how. */
static int compare_running(const struct linkconf *want, struct fault *f)
{
	static struct linkconf now;
	char how[LINKCONF_ADDRESS_MAX + 8] = "with other settings", err[300];

	if (linkconf_load(want->name, &now, err, sizeof(err)) == 0) {
		memset(now.file, 0, sizeof(now.file));
		if (!memcmp(&now, want, sizeof(now)))
			return 1;
		if (strcmp(now.address, want->address))
			snprintf(how, sizeof(how), "on %s", now.address);
	}
	fault_set(f, EXIT_REFUSED, "link \"%s\" listens already, %s; \"spicebdctl unlisten %s\" "
		  "ends it, and its session", want->name, how, want->name);
	return -EEXIST;
}

static int start_link(const struct linkconf *l, struct fault *f)
{
	char err[300];
	struct qmp *q;

	if (link_runs(l->name))
		return compare_running(l, f);
	if (try_address(l, f) < 0)
		return -EINVAL;
	/* A relay serves no drive of this machine: there may be no module for a daemon. */
	if (!l->relay[0]) {
		q = daemon_connect(DAEMON_MUST, f);
		if (!q)
			return -ENOENT;
		qmp_close(q);
	}
	if (linkconf_save(l, err, sizeof(err)) < 0) {
		fault_set(f, EXIT_REFUSED, "%s", err);
		return -EIO;
	}
	if (control_link("start", l->name, f) == 0)
		return 0;
	remove_conf(l->name);
	return -EIO;
}

static void warn_password(const struct linkconf *l)
{
	struct stat st;

	if (l->password_file[0] && stat(l->password_file, &st) == 0 && st.st_mode & 077)
		log_warn("others can read the password file %s; chmod 600 it", l->password_file);
}

static void tell(const char *name, const char *address, bool json)
{
	g_autoptr(JsonObject) o = json_object_new();

	if (!json) {
		printf("link %s listens %s%s\n", name, address ? "on " : "no more", address ?: "");
		return;
	}
	json_object_set_string_member(o, "link", name);
	if (address)
		json_object_set_string_member(o, "address", address);
	json_print_object(o);
}

int verb_listen(const struct verb *v, int argc, char **argv)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON,
		{ "password-file", required_argument, NULL, 'p' },
		{ "tls-cert", required_argument, NULL, 'c' },
		{ "tls-key", required_argument, NULL, 'k' },
		{ "tls-ca", required_argument, NULL, 'a' },
		{ "insecure", no_argument, NULL, 'i' },
		{ "client-insert", no_argument, NULL, 'I' },
		{ "relay", required_argument, NULL, 'r' },
		{ "relay-ports", required_argument, NULL, 'n' },
		{ "relay-user", required_argument, NULL, 'u' },
		OPT_END
	};
	static struct linkconf l;
	struct fault f = { .status = EXIT_REFUSED };
	bool json = false;
	const char *name;
	int c, status;

	linkconf_init(&l, "");
	while ((c = verb_option(v, argc, argv, opts, &json, &status)))
		if (listen_option(c, optarg, &l, &f) < 0)
			return fault_tell(&f);
	if (status >= 0)
		return status;
	if (argc - optind > 2)
		return verb_usage(v, "an address is wanted, and at most a name before it");
	if (argc - optind == 2)
		name = argv[optind];
	else if (argc - optind == 1 && !strncmp(argv[optind], "port:", 5))
		name = LINKCONF_PORT_LINK;
	else
		name = DEFAULT_LINK;
	if (!linkconf_name_ok(name))
		return verb_usage(v, "\"%s\" is no name: a-z, 0-9, - and _, at most %d",
				  clean(name), LINKCONF_NAME_MAX);
	strcpy(l.name, name);
	if ((argc == optind ? take_default(&l, &f) : take_address(argv[argc - 1], &l, &f)) < 0 ||
	    start_link(&l, &f) < 0)
		return fault_tell(&f);
	warn_password(&l);
	tell(l.name, l.address, json);
	return EXIT_DONE;
}

int verb_unlisten(const struct verb *v, int argc, char **argv)
{
	static struct linkconf l;
	struct fault f = { 0 };
	const char *name;
	char err[300];
	bool json = false;
	int r = verb_options(v, argc, argv, &json, NULL);

	if (r >= 0)
		return r;
	if (argc - optind > 1)
		return verb_usage(v, "one link at a time");
	name = argc == optind ? DEFAULT_LINK : argv[optind];
	if (!linkconf_name_ok(name))
		return verb_usage(v, "\"%s\" is no name of a link", clean(name));
	/* One that keeps dying does not run just now, but is to be ended, too. */
	if (!link_runs(name) && !has_conf(name)) {
		fault_set(&f, EXIT_REFUSED, "link \"%s\" does not listen", name);
		return fault_tell(&f);
	}
	if (linkconf_load(name, &l, err, sizeof(err)) < 0)
		linkconf_init(&l, name);	/* broken meanwhile: it is ended, though */
	r = control_link("stop", name, &f);
	remove_conf(name);
	if (r < 0)
		return fault_tell(&f);
	remove_leftovers(name);
	remove_relay_sockets(&l);
	tell(name, NULL, json);
	return EXIT_DONE;
}

static JsonArray *media_of(JsonObject *link)
{
	JsonNode *n = json_object_get_member(link, "media");

	return n && JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;
}

/* As sources for insert, for programs. A name that is no word is left to people. */
static void media_names(JsonObject *link)
{
	const char *name = json_str(link, "link", "?");
	JsonArray *a = media_of(link);

	for (guint i = 0; a && i < json_array_get_length(a); i++) {
		const char *m = json_str(json_array_get_object_element(a, i), "name", "");

		if (*m && !strcmp(m, clean(m)))
			printf("spice:%s/%s\n", name, m);
	}
}

static void media_rows(JsonObject *link)
{
	const char *name = json_str(link, "link", "?");
	JsonArray *a = media_of(link);
	char size[32];

	if (!a || !json_array_get_length(a)) {
		printf("%-12s (%s)\n", clean(name), json_bool(link, "client") ?
		       "a client is connected and offers nothing" : "no client is connected");
		return;
	}
	for (guint i = 0; i < json_array_get_length(a); i++) {
		JsonObject *m = json_array_get_object_element(a, i);

		printf("%-12s %9s  %-4s %-6s %-10s %s\n", clean(name),
		       size_text(json_int(m, "size", 0), size, sizeof(size)),
		       json_bool(m, "read-only") ? "ro" : "rw", clean(json_str(m, "kind", "-")),
		       clean(json_str(m, "in-use-by", "-")), clean(json_str(m, "name", "?")));
	}
}

int verb_media(const struct verb *v, int argc, char **argv)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON, { "names", no_argument, NULL, 'n' }, OPT_END
	};
	g_autoptr(JsonNode) n = NULL;
	struct fault f = { 0 };
	struct qmp *q;
	JsonArray *a;
	bool json = false, names = false;
	int r;

	while (verb_option(v, argc, argv, opts, &json, &r))
		names = true;
	if (r >= 0)
		return r;
	if (argc != optind)
		return verb_usage(v, "it takes no arguments");
	q = daemon_connect(names ? DAEMON_IF_RUNNING : DAEMON_MUST, &f);
	if (q)
		n = qmp_call(q, "spicebd-query-media", NULL, -1, 10000, &f);
	qmp_close(q);
	if (!n)
		return fault_tell(&f);
	a = JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;
	if (json) {
		json_print_node(n);
		return EXIT_DONE;
	}
	for (guint i = 0; names && a && i < json_array_get_length(a); i++)
		if (JSON_NODE_HOLDS_OBJECT(json_array_get_element(a, i)))
			media_names(json_array_get_object_element(a, i));
	if (names)
		return EXIT_DONE;
	if (!a || !json_array_get_length(a)) {
		puts("no link listens; spicebdctl listen ADDRESS makes one");
		return EXIT_DONE;
	}
	puts("LINK              SIZE  MODE KIND   IN USE BY  NAME");
	for (guint i = 0; i < json_array_get_length(a); i++)
		if (JSON_NODE_HOLDS_OBJECT(json_array_get_element(a, i)))
			media_rows(json_array_get_object_element(a, i));
	return EXIT_DONE;
}
