// SPDX-License-Identifier: GPL-2.0-only
/*
 * QMP below the commands: splitting, limits, order, ids, descriptors, a peer
 * that never reads.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/lib selftests/unit/daemon_qmp.c userhelper/lib/qmp.c userhelper/lib/sock.c $(pkg-config --cflags --libs json-glib-1.0 gio-unix-2.0)
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "qmp.h"
#include "sock.h"

#define TESTS	22

static int number, failed;

static void result(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

/* The splitter alone. */

static enum qmp_split split(struct qmp_splitter *s, const char *text, size_t len, int *objects,
			    int *bad)
{
	enum qmp_split r = QMP_SPLIT_MORE;

	*objects = *bad = 0;
	do {
		r = qmp_splitter_feed(s, &text, &len);
		if (r == QMP_SPLIT_OBJECT) {
			(*objects)++;
			qmp_splitter_next(s);
		}
		*bad += r == QMP_SPLIT_BAD;
	} while (r != QMP_SPLIT_MORE);
	return r;
}

static void split_text(struct qmp_splitter *s, const char *text, int *objects, int *bad)
{
	split(s, text, strlen(text), objects, bad);
}

static void test_splitter(void)
{
	struct qmp_splitter s;
	int n, bad;
	GString *g;

	qmp_splitter_init(&s);
	split_text(&s, "{}{\"a\":{}} \r\n{\"b\":\"}{\\\"\"}", &n, &bad);
	result(n == 3 && !bad, "three objects, braces in strings");
	split_text(&s, "{\"a\":", &n, &bad);
	result(n == 0 && !bad, "half an object");
	split_text(&s, "1}", &n, &bad);
	result(n == 1 && !bad, "its other half");
	split_text(&s, "junk\n{}", &n, &bad);
	result(n == 1 && bad == 1, "a bad line does not spoil the next");
	split_text(&s, "{\"a\n{}\n", &n, &bad);
	result(bad >= 1, "a string over two lines");
	qmp_splitter_clear(&s);

	qmp_splitter_init(&s);
	g = g_string_new(NULL);
	for (int i = 0; i < QMP_DEPTH_MAX + 1; i++)
		g_string_append(g, "{\"a\":");
	split(&s, g->str, g->len, &n, &bad);
	result(!n && bad == 1, "nested too deeply");
	qmp_splitter_clear(&s);
	g_string_free(g, TRUE);

	qmp_splitter_init(&s);
	g = g_string_new("{\"a\":\"");
	while (g->len < 100u << 20)
		g_string_append_len(g, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 48);
	split(&s, g->str, g->len, &n, &bad);
	result(!n && bad == 1 && s.buf->allocated_len <= 65536 + 1, "a line of 100 MB costs nothing");
	split_text(&s, "\n{}", &n, &bad);
	result(n == 1, "and ends at its end");
	qmp_splitter_clear(&s);
	g_string_free(g, TRUE);
}

/* A peer. */

static struct qmp_peer *held;
static int held_fd = -1, closed, commands;

static void command(struct qmp_peer *p, const char *name, JsonObject *args)
{
	commands++;
	if (!strcmp(name, "hold"))
		held = qmp_peer_ref(p);
	else if (!strcmp(name, "fail"))
		qmp_fail(p, QMP_DEVICE_NOT_FOUND, "no \"such\" \xff thing");
	else if (!strcmp(name, "fd"))
		held_fd = qmp_peer_take_fd(p), qmp_return(p, NULL);
	else
		qmp_return(p, NULL);
}

static void on_closed(struct qmp_peer *p)
{
	closed++;
}

static JsonNode *greeting(void)
{
	JsonNode *n = json_node_alloc();
	JsonObject *o = json_object_new();

	json_object_set_object_member(o, "QMP", json_object_new());
	json_node_init_object(n, o);
	json_object_unref(o);
	return n;
}

static const struct qmp_ops ops = {
	.command = command, .closed = on_closed, .greeting = greeting,
};

static struct qmp_peer *peer;
static int sock;

static void open_peer(void)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		_exit(1);
	sock = sv[1];
	closed = commands = 0;
	peer = qmp_peer_new(sv[0], &ops, NULL);
}

/* Runs the loop until it has nothing to do. */
static void settle(void)
{
	while (g_main_context_iteration(NULL, FALSE))
		;
}

static char answer[1 << 16];

static const char *ask(const char *text)
{
	ssize_t n;

	if (send(sock, text, strlen(text), MSG_NOSIGNAL) < 0)
		return "";
	settle();
	n = recv(sock, answer, sizeof(answer) - 1, MSG_DONTWAIT);
	answer[n > 0 ? n : 0] = '\0';
	return answer;
}

static void test_peer(void)
{
	const char *a;
	int fds[2], copy;

	open_peer();
	result(strstr(ask(" "), "\"QMP\"") != NULL, "greeting");
	a = ask("{\"execute\":\"x\",\"id\":[1]}");
	result(strstr(a, "CommandNotFound") && strstr(a, "\"id\":[1]"), "nothing before "
	       "qmp_capabilities");
	a = ask("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"a\",\"id\":1}"
		"{\"execute\":\"b\",\"id\":2}");
	result(strstr(a, "\"id\":1") && strstr(a, "\"id\":2") &&
	       strstr(a, "\"id\":1") < strstr(a, "\"id\":2"), "pipelined, in order");
	a = ask("{\"execute\":\"fail\"}");
	result(strstr(a, "DeviceNotFound") && g_utf8_validate(a, -1, NULL), "an error's class, "
	       "and UTF-8");
	result(strstr(ask("[1]\n"), "parse error") != NULL, "an array is no command");
	result(strstr(ask("{\"execute\":1}\n"), "must be a string") != NULL, "a command that is a "
	       "number");
	result(strstr(ask("{\"execute\":\"a\",\"x\":1}\n"), "unexpected") != NULL,
	       "a member of no meaning");
	result(strstr(ask("{\"execute\":\"a\",\"arguments\":[]}\n"), "must be an object") != NULL,
	       "arguments that are a list");
	if (pipe(fds) < 0)
		_exit(1);
	sock_send_fd(sock, "{\"execute\":\"fd\"}", 16, fds[0]);
	settle();
	recv(sock, answer, sizeof(answer), MSG_DONTWAIT);
	result(held_fd >= 0 && (fcntl(held_fd, F_GETFD) & FD_CLOEXEC), "a passed descriptor");
	close(held_fd);
	for (int i = 0; i < 200; i++)
		sock_send_fd(sock, " ", 1, fds[0]);
	settle();
	copy = dup(fds[0]);
	result(copy >= 0 && copy < 100, "a flood of descriptors is closed");
	close(copy);
	close(fds[0]);
	close(fds[1]);
	close(sock);
	settle();
	result(closed == 1, "the peer goes");
}

static void test_slow_command(void)
{
	open_peer();
	ask("{\"execute\":\"qmp_capabilities\"}");
	ask("{\"execute\":\"hold\",\"id\":7}");
	commands = 0;
	for (int i = 0; i < 5000; i++)
		if (send(sock, "{\"execute\":\"a\"}\r\n", 17, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
	settle();
	result(commands == 0, "later commands wait for the one under way");
	close(sock);
	settle();
	if (!closed)
		qmp_peer_close(peer);
	/* Its answer goes nowhere, and hurts nobody. */
	qmp_return(held, NULL);
	qmp_peer_unref(held);
	settle();
	result(closed == 1, "a peer that went before its answer");
}

static void test_deaf_peer(void)
{
	open_peer();
	ask("{\"execute\":\"qmp_capabilities\"}");
	for (int i = 0; i < 200000 && !closed; i++) {
		qmp_event(peer, "SOME_EVENT_THAT_NOBODY_READS", NULL);
		settle();
	}
	result(closed == 1, "a peer that never reads is closed");
	close(sock);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	printf("KTAP version 1\n1..%d\n", TESTS);
	test_splitter();
	test_peer();
	test_slow_command();
	test_deaf_peer();
	return failed || number != TESTS;
}
