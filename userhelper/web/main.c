// SPDX-License-Identifier: GPL-2.0-only
#include "web.h"

#include <gio/gunixsocketaddress.h>
#include <getopt.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "program.h"

static const char usage[] =
"usage: spicebd-web --listen ADDRESS:PORT --link ADDRESS [OPTION...]\n"
"\n"
"Serves a page from which a browser shares a disc image as a medium, and takes the\n"
"browser's WebSocket to a spicebd-link.\n"
"\n"
"  --listen ADDRESS:PORT  where browsers come to; beyond 127.0.0.1 and [::1] only\n"
"                         with a certificate\n"
"  --link ADDRESS         of the spicebd-link: unix:/PATH or HOST:PORT\n"
"  --tls-cert FILE        PEM: serve https, with this certificate\n"
"  --tls-key FILE         PEM: its key, which nobody else may read\n"
"  --name NAME[:PORT]     what browsers call this server, if not by its address\n"
"  --page DIR             where the page is (../share/spicebd/web)\n"
"  --user USER            to become, if started as root (spicebd-link, else nobody)\n"
"  --help, --version\n";

int complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("spicebd-web: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return 1;
}

/* Returns an exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct web_options *o)
{
	static const struct option opts[] = {
		{ "listen", required_argument, NULL, 'l' },
		{ "link", required_argument, NULL, 'L' },
		{ "tls-cert", required_argument, NULL, 'c' },
		{ "tls-key", required_argument, NULL, 'k' },
		{ "name", required_argument, NULL, 'n' },
		{ "page", required_argument, NULL, 'p' },
		{ "user", required_argument, NULL, 'u' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 }
	};
	const char **value;
	int c;

	while ((c = getopt_long(argc, argv, "h", opts, NULL)) >= 0) {
		value = c == 'l' ? &o->listen : c == 'L' ? &o->link : c == 'c' ? &o->cert :
			c == 'k' ? &o->key : c == 'n' ? &o->name : c == 'p' ? &o->page :
			c == 'u' ? &o->user : NULL;
		if (value) {
			*value = optarg;
		} else if (c == 'h') {
			fputs(usage, stdout);
			return 0;
		} else if (c == 'V') {
			puts("spicebd-web " SPICEBD_VERSION);
			return 0;
		} else {
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind == argc && o->listen && o->link && !o->cert == !o->key)
		return -1;
	complain(!o->cert != !o->key ? "--tls-cert and --tls-key belong together" :
		 optind < argc ? "there is a word too many" : "--listen and --link are needed");
	return 2;
}

static GSocketConnectable *link_address(const char *text)
{
	g_autoptr(GError) error = NULL;
	GSocketConnectable *a;

	if (g_str_has_prefix(text, "unix:") && text[5] == '/') {
		if (strlen(text + 5) < 108)
			return G_SOCKET_CONNECTABLE(g_unix_socket_address_new(text + 5));
		complain("--link %s: the path is too long for a socket", text);
		return NULL;
	}
	a = g_network_address_parse(text, 0, &error);
	if (a && g_network_address_get_port(G_NETWORK_ADDRESS(a)))
		return a;
	complain("--link %s: it is unix:/PATH or HOST:PORT, as the link's address=", text);
	g_clear_object(&a);
	return NULL;
}

/* A key that others can read proves nothing. */
static GTlsCertificate *certificate(const struct web_options *o)
{
	g_autoptr(GError) error = NULL;
	GTlsCertificate *cert;
	struct stat st;

	if (stat(o->key, &st) == 0 && st.st_mode & 077) {
		complain("%s can be read by others: make it 0600", o->key);
		return NULL;
	}
	cert = g_tls_certificate_new_from_files(o->cert, o->key, &error);
	if (!cert)
		complain("%s, %s: %s", o->cert, o->key, error->message);
	return cert;
}

static char *usual_page(void)
{
	char program[512];
	g_autofree char *dir = NULL;

	program_path("spicebd-web", program, sizeof(program));
	dir = g_path_get_dirname(program);
	return g_build_filename(dir, "..", "share", "spicebd", "web", NULL);
}

static gboolean on_signal(gpointer loop)
{
	g_main_loop_quit(loop);
	return G_SOURCE_CONTINUE;
}

/* Everything that needs a right comes before rights_drop(), and bytes of others after it. */
static int serve(const struct web_options *o)
{
	g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
	g_autoptr(GSocketConnectable) link = link_address(o->link);
	g_autoptr(GTlsCertificate) cert = NULL;
	g_autoptr(GSocketAddress) address = NULL;
	g_autoptr(GSocket) socket = NULL;
	g_autofree char *page = o->page ? g_strdup(o->page) : usual_page();
	GInetSocketAddress *in;

	if (!link || (o->cert && !(cert = certificate(o))) || !files_load(page))
		return 1;
	socket = listen_open(o->listen, cert);
	if (!socket)
		return 1;
	address = g_socket_get_local_address(socket, NULL);
	in = G_INET_SOCKET_ADDRESS(address);
	if (!own_init(in, o->name, cert) || !rights_drop(o->user) ||
	    !listen_start(socket, http_server(link), cert))
		return 1;
	g_unix_signal_add(SIGTERM, on_signal, loop);
	g_unix_signal_add(SIGINT, on_signal, loop);
	log_info("the page is at %s://%s (port %u); its link is %s", cert ? "https" : "http",
		 o->listen, g_inet_socket_address_get_port(in), o->link);
	g_main_loop_run(loop);
	return 0;
}

int main(int argc, char **argv)
{
	struct web_options o = { 0 };
	int r = parse(argc, argv, &o);

	if (r >= 0)
		return r;
	log_init("spicebd-web", false);
	signal(SIGPIPE, SIG_IGN);
	return serve(&o);
}
