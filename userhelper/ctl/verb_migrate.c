// SPDX-License-Identifier: GPL-2.0-only
/*
 * migrate: a drive's medium goes to another host. What takes rights or programs is
 * done here: a way to the other spicebdd is made, of which spicebdd is given the
 * descriptor.
 */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "migrate_way.h"
#include "sock.h"

#define ASK_MS		10000
#define MIGRATE_MS	240000	/* spicebdd's own limits are shorter */

/**
 * struct migrate_args - the command line
 * @to: where to
 * @certificates: for TLS
 * @resolve, @cancel, @serve: instead of that
 */
struct migrate_args {
	const char *to, *to_drive, *link, *share_uri, *share_subject, *certificates, *resolve;
	bool cancel, serve, json;
};

static int parse(const struct verb *v, int argc, char **argv, struct migrate_args *a)
{
	static const struct option opts[] = {
		{ "to", required_argument, NULL, 't' },
		{ "to-drive", required_argument, NULL, 'd' },
		{ "link", required_argument, NULL, 'l' },
		{ "share-uri", required_argument, NULL, 'u' },
		{ "share-subject", required_argument, NULL, 's' },
		{ "tls-certificates", required_argument, NULL, 'C' },
		{ "resolve", required_argument, NULL, 'r' },
		{ "cancel", no_argument, NULL, 'c' },
		{ "serve", no_argument, NULL, 'S' },
		OPT_HELP, OPT_JSON, OPT_END
	};
	int c, status;

	while ((c = verb_option(v, argc, argv, opts, &a->json, &status))) {
		switch (c) {
		case 't':
			a->to = optarg;
			break;
		case 'd':
			a->to_drive = optarg;
			break;
		case 'l':
			a->link = optarg;
			break;
		case 'u':
			a->share_uri = optarg;
			break;
		case 's':
			a->share_subject = optarg;
			break;
		case 'C':
			a->certificates = optarg;
			break;
		case 'r':
			a->resolve = optarg;
			break;
		case 'c':
			a->cancel = true;
			break;
		case 'S':
			a->serve = true;
			break;
		}
	}
	return status;
}

/* ---- what is asked of spicebdd */

static int ask(const char *command, JsonObject *a, int fd, int timeout_ms, struct fault *f)
{
	struct qmp *q = daemon_connect(DAEMON_IF_RUNNING, f);
	JsonNode *r = NULL;

	if (q)
		r = qmp_call(q, command, a, fd, timeout_ms, f);
	else
		json_object_unref(a);
	if (q)
		qmp_close(q);
	if (!r)
		return -EIO;
	json_node_unref(r);
	return 0;
}

static JsonObject *of_drive(const struct kernel_drive *d)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "drive", d->name);
	return o;
}

static void put(JsonObject *o, const char *name, const char *value)
{
	if (value)
		json_object_set_string_member(o, name, value);
}

static int migrate(const struct migrate_args *a, const struct kernel_drive *d, struct fault *f)
{
	JsonObject *o = of_drive(d);
	pid_t pid;
	int fd = migrate_way(a->to, a->certificates, &pid, f), r;

	if (fd < 0) {
		json_object_unref(o);
		return fd;
	}
	put(o, "uri", a->to);
	put(o, "to-drive", a->to_drive);
	put(o, "link", a->link);
	put(o, "share-uri", a->share_uri);
	put(o, "share-subject", a->share_subject);
	r = ask("spicebd-migrate", o, fd, MIGRATE_MS, f);
	migrate_way_end(fd, pid);
	return r;
}

static int settle(const struct migrate_args *a, const struct kernel_drive *d, struct fault *f)
{
	JsonObject *o = of_drive(d);

	if (a->cancel)
		return ask("spicebd-migrate-cancel", o, -1, ASK_MS, f);
	put(o, "how", a->resolve);
	return ask("spicebd-migrate-resolve", o, -1, ASK_MS, f);
}

/* ---- the far end of an ssh */

/* Return: 1; 0: the one side has ended; -EPIPE: the other one listens no more */
static int hand_on(int from, int to)
{
	char buf[16384];
	ssize_t n = read(from, buf, sizeof(buf)), done = 0;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 1;
	while (done < n) {
		ssize_t w = write(to, buf + done, n - done);

		if (w < 0 && errno != EINTR)
			return -EPIPE;
		done += w > 0 ? w : 0;
	}
	return n > 0;
}

static int serve(struct fault *f)
{
	struct qmp *q = daemon_connect(DAEMON_MUST, f);
	struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .events = POLLIN } };
	char path[108];
	int daemon;

	if (!q)
		return -EIO;
	qmp_close(q);
	p[1].fd = run_path(path, sizeof(path), "migrate.sock") ? sock_connect(path, SOCK_STREAM) :
		  -ENAMETOOLONG;
	if (p[1].fd < 0) {
		fault_set(f, EXIT_REFUSED, "cannot reach spicebdd at %s: %s", path,
			  strerror(-p[1].fd));
		return p[1].fd;
	}
	daemon = p[1].fd;
	while (poll(p, 2, -1) > 0 || errno == EINTR) {
		int r = p[1].revents ? hand_on(daemon, STDOUT_FILENO) : 1;

		/* What the other side said last is handed on, though it listens no more. */
		if (r == -EPIPE)
			p[1].fd = -1;
		if (!r || (p[0].revents && hand_on(STDIN_FILENO, daemon) <= 0))
			break;
	}
	close(daemon);
	return 0;
}

int verb_migrate(const struct verb *v, int argc, char **argv)
{
	struct migrate_args a = { 0 };
	struct kernel_drive d = { 0 };
	struct fault f = { 0 };
	int r = parse(v, argc, argv, &a);

	if (r >= 0)
		return r;
	if (!!a.to + !!a.resolve + a.cancel + a.serve != 1)
		return verb_usage(v, "one of --to, --cancel, --resolve and --serve is needed");
	if (a.serve)
		return serve(&f) < 0 ? fault_tell(&f) : EXIT_DONE;
	if (argc - optind != 1)
		return verb_usage(v, "name one drive");
	if (a.resolve && strcmp(a.resolve, "run-here") && strcmp(a.resolve, "give-up"))
		return verb_usage(v, "--resolve is run-here or give-up");
	if (drive_get(argv[optind], &d, &f) < 0)
		return fault_tell(&f);
	r = a.to ? migrate(&a, &d, &f) : settle(&a, &d, &f);
	if (r < 0)
		return fault_tell(&f);
	if (a.json)
		json_print_object(of_drive(&d));
	else if (a.to)
		printf("%s: the medium is at %s now\n", d.name, clean(a.to));
	return EXIT_DONE;
}
