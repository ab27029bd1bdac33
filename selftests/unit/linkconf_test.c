// SPDX-License-Identifier: GPL-2.0-only
/*
 * links.d/NAME.conf: parsing, rules, saving, listening; and password files.
 *
 * BUILD: gcc -std=gnu11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Wno-sign-compare -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib selftests/unit/linkconf_test.c userhelper/lib/linkconf.c userhelper/lib/linkconf_dirs.c userhelper/lib/linkconf_listen.c userhelper/lib/linkconf_relay.c userhelper/lib/file.c userhelper/lib/password.c userhelper/lib/sock.c
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linkconf.h"
#include "password.h"
#include "sock.h"

static int checks_failed;
static char dir[] = "/tmp/linkconf_test.XXXXXX";
static char err[1400];

#define CHECK(cond) do { \
	if (!(cond)) { \
		printf("# %s:%d: %s (%s)\n", __FILE__, __LINE__, #cond, err); \
		checks_failed++; \
	} \
} while (0)

static int parse(const char *text, struct linkconf *c)
{
	char *copy = strdup(text);
	int r;

	linkconf_init(c, "t");
	err[0] = '\0';
	r = linkconf_parse(copy, c, err, sizeof(err));
	free(copy);
	return r;
}

static void write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == strlen(text));
	CHECK(fchmod(fd, mode) == 0 && close(fd) == 0);
}

static const char *in_dir(const char *name)
{
	static char path[LINKCONF_PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

/* ---- one configuration ---- */

static void test_defaults(void)
{
	struct linkconf c;

	CHECK(parse("address=unix:/s", &c) == 0);
	CHECK(!strcmp(c.name, "t") && !strcmp(linkconf_is_unix(&c), "/s"));
	CHECK(c.memory_max == 256 && c.socket_mode == 0600 && !c.insecure);
	CHECK(c.client_force && c.client_change && !c.client_insert && c.busy_poll);
	CHECK(c.ping_interval == 5000 && c.ping_timeout == 15000 && c.hello_timeout == 10000);
	CHECK(!c.password_file[0] && !c.tls_cert[0] && !c.tls_key[0] && !c.tls_ca[0] && !c.user[0]);
}

static void test_ports(void)
{
	char prefix[LINKCONF_PATH_MAX + 1], err[300];
	struct linkconf c;

	CHECK(parse("address=port:", &c) == 0 && linkconf_is_port(&c, prefix));
	CHECK(!strcmp(prefix, "/dev/virtio-ports/org.spice-space.spicebd"));
	CHECK(parse("address=port:other", &c) == 0 && linkconf_is_port(&c, prefix));
	CHECK(!strcmp(prefix, "/dev/virtio-ports/other"));
	CHECK(parse("address=port:/run/p", &c) == 0 && linkconf_is_port(&c, prefix));
	CHECK(!strcmp(prefix, "/run/p") && !linkconf_is_unix(&c));
	CHECK(linkconf_listen(&c, err, sizeof(err)) == -EINVAL && strstr(err, "not listened on"));
	CHECK(parse("address=unix:/s", &c) == 0 && !linkconf_is_port(&c, NULL));
	/* The one that udev starts needs no file. */
	CHECK(linkconf_load("port", &c, err, sizeof(err)) == 0 && linkconf_is_port(&c, prefix));
	CHECK(linkconf_load("port2", &c, err, sizeof(err)) == -ENOENT);
}

static void test_relay(void)
{
	const char *prefix = NULL;
	struct linkconf c;

	CHECK(parse("address=unix:/s", &c) == 0 && !c.relay[0] && !linkconf_relays_port(&c, 0));
	CHECK(parse("address=unix:/s\nrelay=connect:/run/vm", &c) == 0);
	CHECK(!linkconf_relay_listens(&c, &prefix) && !strcmp(prefix, "/run/vm"));
	CHECK(linkconf_relays_port(&c, 0) && linkconf_relays_port(&c, 1) &&
	      !linkconf_relays_port(&c, 2) && !linkconf_relays_port(&c, 256));
	CHECK(parse("address=unix:/s\nrelay=listen:/v\nrelay-user=qemu\nrelay-ports=2-3,255,0", &c) == 0);
	CHECK(linkconf_relay_listens(&c, &prefix) && !strcmp(prefix, "/v"));
	CHECK(!strcmp(c.relay_user, "qemu") && !linkconf_relays_port(&c, 1));
	CHECK(linkconf_relays_port(&c, 0) && linkconf_relays_port(&c, 2) &&
	      linkconf_relays_port(&c, 3) && linkconf_relays_port(&c, 255));
}

static void test_busy_poll(void)
{
	struct linkconf c;

	CHECK(parse("address=unix:/s\nbusy-poll=no", &c) == 0 && !c.busy_poll);
	CHECK(parse("address=unix:/s\nbusy-poll=yes", &c) == 0 && c.busy_poll);
	CHECK(parse("address=unix:/s\nbusy-poll=100", &c) < 0);
}

static void test_all_keys(void)
{
	struct linkconf c;

	CHECK(parse("# all\n\n \t address \t=  [::1]:5900 \r\npassword-file=/p w\n"
		    "tls-cert=/c\ntls-key=/k\ntls-ca=/a\ninsecure=yes\nmemory-max=32\nuser=u=v\n"
		    "socket-mode=0666\nping-interval=0.1\nping-timeout=2.25\nhello-timeout=3600\n"
		    "client-force=no\nclient-change=no\nclient-insert=yes",
		    &c) == 0);
	CHECK(!strcmp(c.address, "[::1]:5900") && !linkconf_is_unix(&c));
	CHECK(!strcmp(c.password_file, "/p w") && !strcmp(c.user, "u=v") && c.insecure);
	CHECK(!strcmp(c.tls_cert, "/c") && !strcmp(c.tls_key, "/k") && !strcmp(c.tls_ca, "/a"));
	CHECK(c.memory_max == 32 && c.socket_mode == 0666);
	CHECK(!c.client_force && !c.client_change && c.client_insert);
	CHECK(c.ping_interval == 100 && c.ping_timeout == 2250 && c.hello_timeout == 3600000);
}

static const struct {
	const char *text, *want;
} wrong[] = {
	{ "", "no address=" },
	{ "address=unix:/s\ncolour=red", ":2: \"colour\" is no known key" },
	{ "address=unix:/s\naddress=unix:/t", ":2: \"address\" is given twice" },
	{ "\n\naddress unix:/s", ":3: \"line\" is not key=value" },
	{ "=unix:/s", "\"\" is no known key" },
	{ "address=", "has no value" },
	{ "address=unix:s", "no absolute path" },
	{ "address=unix:/s\npassword-file=p", "no absolute path" },
	{ "address=unix:/s\nrelay=/run/vm", "neither listen:/PATH nor connect:/PATH" },
	{ "address=unix:/s\nrelay=listen:run", "no absolute path" },
	{ "address=unix:/s\nrelay=listen:/", "no absolute path" },
	{ "address=unix:/s\nrelay=listen:/run/", "no absolute path" },
	{ "address=unix:/s\nrelay=connect:/v\nrelay-user=u", "relay=listen: only" },
	{ "address=unix:/s\nrelay-user=u", "which is not given" },
	{ "address=unix:/s\nrelay-ports=0", "without relay" },
	{ "address=unix:/s\nrelay=listen:/v\nrelay-ports=256", "no list of ports" },
	{ "address=unix:/s\nrelay=listen:/v\nrelay-ports=3-1", "a range that is none" },
	{ "address=unix:/s\nrelay=listen:/v\nrelay-ports=1,", "no list of ports" },
	{ "address=unix:/s\nrelay=listen:/v\nrelay-ports=1x", "no list of ports" },
	{ "address=unix:/s\nrelay=listen:/v\nrelay-ports=-1", "no list of ports" },
	{ "address=unix:/s\nrelay=listen:/v\nrelay-ports=0-64", "too many ports" },
	{ "address=unix:/s\nrelay=listen:/v\nrelay-ports=99999999999999999999", "no list of ports" },
	{ "address=port:\nrelay=listen:/v", "a relay is of the host" },
	{ "address=port:a/b", "neither a port's name nor an absolute path" },
	{ "address=port:/a/", "neither a port's name nor an absolute path" },
	{ "address=port:\npassword-file=/p", "has no password" },
	{ "address=port:\ntls-cert=/p\ntls-key=/p\ntls-ca=/p", "no TLS" },
	{ "address=unix:/s\nmemory-max=31", "out of range" },
	{ "address=unix:/s\nmemory-max=65537", "out of range" },
	{ "address=unix:/s\nmemory-max=99999999999999999999", "is no number" },
	{ "address=unix:/s\nmemory-max=-1", "is no number" },
	{ "address=unix:/s\nmemory-max=64M", "is no number" },
	{ "address=unix:/s\nsocket-mode=1000", "no octal mode" },
	{ "address=unix:/s\nsocket-mode=0680", "no octal mode" },
	{ "address=unix:/s\ninsecure=true", "neither yes nor no" },
	{ "address=unix:/s\nping-interval=nan", "no number of seconds" },
	{ "address=unix:/s\nping-interval=1e1", "no number of seconds" },
	{ "address=unix:/s\nping-interval=0.01", "out of range" },
	{ "address=unix:/s\nping-interval=3601", "out of range" },
	{ "address=unix:/s\nping-interval=5\nping-timeout=4.999", "shorter than" },
	{ "address=unix:/s\ntls-cert=/c\ntls-key=/k", "TLS needs all of" },
	{ "address=unix:/s\ntls-ca=/a", "TLS needs all of" },
	{ "address=unix:/s\ntls-cert=/c\ntls-key=/k\ntls-ca=/a", "TCP addresses only" },
	{ "address=127.0.0.1:5900", "needs a password" },
	{ "address=127.0.0.1\npassword-file=/p", "neither unix" },
	{ "address=127.0.0.1:\npassword-file=/p", "neither unix" },
	{ "address=127.0.0.1:0\npassword-file=/p", "neither unix" },
	{ "address=127.0.0.1:65536\npassword-file=/p", "neither unix" },
	{ "address=127.0.0.1:99999999999\npassword-file=/p", "neither unix" },
	{ "address=:5900\npassword-file=/p", "neither unix" },
	{ "address=::1:5900\npassword-file=/p", "neither unix" },
	{ "address=[::1]5900\npassword-file=/p", "neither unix" },
	{ "address=[::1\npassword-file=/p", "neither unix" },
	{ "address=[]:5900\npassword-file=/p", "neither unix" },
};

static void test_wrong(void)
{
	struct linkconf c;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		CHECK(parse(wrong[i].text, &c) == -EINVAL);
		if (strstr(err, wrong[i].want))
			continue;
		printf("# \"%s\": no \"%s\" in \"%s\"\n", wrong[i].text, wrong[i].want, err);
		checks_failed++;
	}
}

/* A value that just fits, and one byte more. */
static void test_lengths(void)
{
	char text[2 * LINKCONF_PATH_MAX];
	struct linkconf c;

	for (int more = 0; more < 2; more++) {
		snprintf(text, sizeof(text), "address=unix:/s\ntls-cert=/%0*d\ntls-key=/k\ntls-ca=/a",
			 LINKCONF_PATH_MAX - 1 + more, 0);
		CHECK(parse(text, &c) == -EINVAL && strstr(err, more ? "too long" : "TCP"));
		snprintf(text, sizeof(text), "address=unix:/s\nuser=%0*d", 32 + more, 0);
		CHECK(parse(text, &c) == (more ? -EINVAL : 0));
		snprintf(text, sizeof(text), "address=unix:/%0*d", 106 + more, 0);
		CHECK(parse(text, &c) == (more ? -EINVAL : 0));
		snprintf(text, sizeof(text), "address=%0*d:1\npassword-file=/p",
			 LINKCONF_ADDRESS_MAX - 2 + more, 0);
		CHECK(parse(text, &c) == (more ? -EINVAL : 0));
	}
}

static void test_names(void)
{
	char name[LINKCONF_NAME_MAX + 2];

	memset(name, 'x', sizeof(name));
	name[LINKCONF_NAME_MAX + 1] = '\0';
	CHECK(!linkconf_name_ok(name));
	name[LINKCONF_NAME_MAX] = '\0';
	CHECK(linkconf_name_ok(name));
	CHECK(linkconf_name_ok("0") && linkconf_name_ok("a-b_c9"));
	CHECK(!linkconf_name_ok("") && !linkconf_name_ok("-a") && !linkconf_name_ok("_a"));
	CHECK(!linkconf_name_ok("A") && !linkconf_name_ok("a.b") && !linkconf_name_ok("../a"));
}

/* ---- files ---- */

static void test_save_and_load(void)
{
	char names[LINKCONF_LINKS_MAX][LINKCONF_NAME_MAX + 1];
	struct linkconf c, d;
	struct stat st;

	CHECK(parse("address=127.0.0.1:5900\npassword-file=/p\nmemory-max=64\nping-timeout=7.5\n"
		    "socket-mode=0660\ninsecure=yes\nclient-insert=yes\nuser=u", &c) == 0);
	CHECK(linkconf_save(&c, err, sizeof(err)) == 0);
	CHECK(stat(in_dir("links.d/t.conf"), &st) == 0 && (st.st_mode & 0777) == 0600);
	CHECK(linkconf_load("t", &d, err, sizeof(err)) == 0);
	CHECK(!strcmp(d.file, in_dir("links.d/t.conf")));
	memset(c.file, 0, sizeof(c.file));
	memset(d.file, 0, sizeof(d.file));
	CHECK(!memcmp(&c, &d, offsetof(struct linkconf, insecure)));
	CHECK(d.insecure && d.client_insert && d.memory_max == 64 && d.socket_mode == 0660);
	CHECK(d.ping_interval == 5000 && d.ping_timeout == 7500);
	CHECK(!memcmp(c.relay_ports, d.relay_ports, sizeof(c.relay_ports)) && !d.relay[0]);
	strcpy(c.relay, "listen:/v");
	strcpy(c.relay_user, "q");
	CHECK(!linkconf_relay_ports(&c, "1,3-5,200"));
	CHECK(linkconf_save(&c, err, sizeof(err)) == 0 && linkconf_load("t", &d, err, sizeof(err)) == 0);
	CHECK(!strcmp(d.relay, "listen:/v") && !strcmp(d.relay_user, "q") &&
	      !memcmp(c.relay_ports, d.relay_ports, sizeof(c.relay_ports)));
	CHECK(d.busy_poll);
	c.busy_poll = false;
	CHECK(linkconf_save(&c, err, sizeof(err)) == 0 && linkconf_load("t", &d, err, sizeof(err)) == 0);
	CHECK(!d.busy_poll);
	c.busy_poll = true;
	CHECK(linkconf_save(&c, err, sizeof(err)) == 0 && linkconf_load("t", &d, err, sizeof(err)) == 0);
	CHECK(d.busy_poll);
	strcpy(c.user, "u\ninsecure=yes");
	CHECK(linkconf_save(&c, err, sizeof(err)) == -EINVAL);
	strcpy(c.name, "other");
	c.user[0] = '\0';
	CHECK(linkconf_save(&c, err, sizeof(err)) == 0);
	write_file(in_dir("links.d/NONE.conf"), "", 0600);
	CHECK(linkconf_list(names) == 2 && !strcmp(names[0], "other") && !strcmp(names[1], "t"));
}

static void test_bad_files(void)
{
	char big[LINKCONF_FILE_MAX + 2];
	struct linkconf c;

	CHECK(linkconf_load("none", &c, err, sizeof(err)) == -ENOENT && strstr(err, "not configured"));
	CHECK(linkconf_load("../t", &c, err, sizeof(err)) == -EINVAL);
	write_file(in_dir("links.d/bad.conf"), "address=unix:/s", 0620);
	CHECK(linkconf_load("bad", &c, err, sizeof(err)) == -EPERM && strstr(err, "others may write"));
	write_file(in_dir("links.d/bad.conf"), "nothing=here", 0644);
	CHECK(linkconf_load("bad", &c, err, sizeof(err)) == -EINVAL && strstr(err, "bad.conf:1: "));
	memset(big, '#', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	write_file(in_dir("links.d/bad.conf"), big, 0644);
	CHECK(linkconf_load("bad", &c, err, sizeof(err)) == -EINVAL && strstr(err, "too long"));
	big[LINKCONF_FILE_MAX] = '\0';
	write_file(in_dir("links.d/bad.conf"), big, 0644);
	CHECK(linkconf_load("bad", &c, err, sizeof(err)) == -EINVAL && strstr(err, "no address="));
	unlink(in_dir("links.d/bad.conf"));
	CHECK(mkdir(in_dir("links.d/bad.conf"), 0700) == 0);
	CHECK(linkconf_load("bad", &c, err, sizeof(err)) == -EINVAL && strstr(err, "regular"));
	rmdir(in_dir("links.d/bad.conf"));
	CHECK(symlink("t.conf", in_dir("links.d/bad.conf")) == 0);
	CHECK(linkconf_load("bad", &c, err, sizeof(err)) == -ELOOP);
}

static void test_passwords(void)
{
	char out[PASSWORD_MAX + 1], text[PASSWORD_MAX + 3];

	memset(text, 'x', sizeof(text));
	strcpy(text + PASSWORD_MAX, "\r\n");
	write_file(in_dir("pw"), text, 0600);
	CHECK(password_read(in_dir("pw"), out, err, sizeof(err)) == 0 && strlen(out) == PASSWORD_MAX);
	strcpy(text + PASSWORD_MAX, "x");
	write_file(in_dir("pw"), text, 0600);
	CHECK(password_read(in_dir("pw"), out, err, sizeof(err)) == -EINVAL && !out[0]);
	CHECK(!!strstr(err, "longer than 59 bytes"));
	write_file(in_dir("pw"), "\nsecret\n", 0600);
	CHECK(password_read(in_dir("pw"), out, err, sizeof(err)) == -EINVAL && strstr(err, "empty"));
	write_file(in_dir("pw"), "secret\nrest", 0600);
	CHECK(password_read(in_dir("pw"), out, err, sizeof(err)) == 0 && !strcmp(out, "secret"));
	CHECK(password_read(in_dir("none"), out, err, sizeof(err)) == -ENOENT && !out[0]);
	CHECK(password_read(dir, out, err, sizeof(err)) == -EISDIR);
}

/* ---- sockets ---- */

static int tcp_socket(const char *host, bool listening)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, host, &a.sin_addr);
	CHECK(fd >= 0 && bind(fd, (void *)&a, sizeof(a)) == 0);
	CHECK(!listening || listen(fd, 1) == 0);
	return fd;
}

static void test_listen(void)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	struct linkconf c;
	char text[400];
	struct stat st;
	int fd, other;

	snprintf(text, sizeof(text), "address=unix:%s/s\nsocket-mode=0640", dir);
	CHECK(parse(text, &c) == 0);
	fd = linkconf_listen(&c, err, sizeof(err));
	CHECK(fd >= 0 && stat(in_dir("s"), &st) == 0 && (st.st_mode & 0777) == 0640);
	CHECK(linkconf_listen(&c, err, sizeof(err)) == -EADDRINUSE && strstr(err, "cannot listen"));
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK && fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);

	/* A port that is taken, then the same one free. */
	other = tcp_socket("127.0.0.1", true);
	CHECK(getsockname(other, (void *)&a, &len) == 0);
	snprintf(text, sizeof(text), "address=127.0.0.1:%u\npassword-file=/p", ntohs(a.sin_port));
	CHECK(parse(text, &c) == 0);
	CHECK(linkconf_listen(&c, err, sizeof(err)) == -EADDRINUSE && strstr(err, "cannot listen"));
	close(other);
	fd = linkconf_listen(&c, err, sizeof(err));
	CHECK(fd >= 0 && linkconf_check_socket(&c, fd, err, sizeof(err)) == 0);
	close(fd);
	CHECK(parse("address=0.0.0.0:5900\npassword-file=/p", &c) == 0);
	CHECK(linkconf_listen(&c, err, sizeof(err)) == -EPERM && strstr(err, "beyond loopback"));
	CHECK(parse("address=203.0.113.1:5900\npassword-file=/p\ninsecure=yes", &c) == 0);
	CHECK(linkconf_listen(&c, err, sizeof(err)) < 0 && strstr(err, "cannot listen"));
}

/* By what the socket is, whatever the configuration says. */
static void test_check_socket(void)
{
	struct linkconf c;
	int fd;

	CHECK(parse("address=unix:/s", &c) == 0);
	fd = tcp_socket("127.0.0.1", true);
	CHECK(linkconf_check_socket(&c, fd, err, sizeof(err)) == -EINVAL && strstr(err, "password"));
	CHECK(parse("address=127.0.0.1:1\npassword-file=/p", &c) == 0);
	CHECK(linkconf_check_socket(&c, fd, err, sizeof(err)) == 0);
	close(fd);
	fd = tcp_socket("0.0.0.0", true);
	CHECK(linkconf_check_socket(&c, fd, err, sizeof(err)) == -EPERM);
	c.insecure = true;
	CHECK(linkconf_check_socket(&c, fd, err, sizeof(err)) == 0);
	close(fd);
	fd = tcp_socket("127.0.0.1", false);
	CHECK(linkconf_check_socket(&c, fd, err, sizeof(err)) == -ENOTSOCK);
	close(fd);
	fd = sock_listen(in_dir("s2"), SOCK_STREAM, 0600);
	CHECK(fd >= 0 && linkconf_check_socket(&c, fd, err, sizeof(err)) == 0);
	strcpy(c.tls_cert, "/c");
	CHECK(linkconf_check_socket(&c, fd, err, sizeof(err)) == -EINVAL && strstr(err, "TCP"));
	close(fd);
}

static const struct {
	void (*run)(void);
	const char *what;
} tests[] = {
	{ test_defaults, "defaults" },
	{ test_all_keys, "every key" },
	{ test_busy_poll, "looking for quick answers" },
	{ test_ports, "ports of a virtual machine" },
	{ test_relay, "a relay for a guest" },
	{ test_wrong, "wrong lines, values and combinations" },
	{ test_lengths, "the longest values" },
	{ test_names, "names" },
	{ test_save_and_load, "what is saved is read again" },
	{ test_bad_files, "files that are refused" },
	{ test_passwords, "password files" },
	{ test_listen, "listening" },
	{ test_check_socket, "the rules for a socket that was passed" },
};

static void clean_up(void)
{
	static const char * const files[] = {
		"links.d/t.conf", "links.d/other.conf", "links.d/NONE.conf", "links.d/bad.conf",
		"pw", "s", "s2",
	};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		unlink(in_dir(files[i]));
	rmdir(in_dir("links.d"));
	rmdir(dir);
}

int main(void)
{
	int failures = 0;

	if (!mkdtemp(dir))
		return 1;
	setenv("SPICEBD_RUN_DIR", dir, 1);
	setenv("SPICEBD_CONF_DIR", "/nonexistent", 1);
	printf("TAP version 13\n1..%zu\n", sizeof(tests) / sizeof(tests[0]));
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		checks_failed = 0;
		tests[i].run();
		failures += !!checks_failed;
		printf("%sok %zu - linkconf: %s\n", checks_failed ? "not " : "", i + 1,
		       tests[i].what);
	}
	clean_up();
	return !!failures;
}
