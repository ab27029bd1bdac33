// SPDX-License-Identifier: GPL-2.0-only
#include "tls.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

static const char usage[] =
"usage: spicebd-tls listen [ADDRESS:]PORT [OPTION...]\n"
"       spicebd-tls connect HOST PORT [OPTION...]\n"
"\n"
"listen lets other hosts bring drives here (spicebdctl migrate --to tls://HOST:PORT);\n"
"connect is what spicebdctl runs.\n"
"\n"
"  --certificates DIR  ca-cert.pem, and server-cert.pem and server-key.pem to listen,\n"
"                      client-cert.pem and client-key.pem to connect\n"
"                      (" TLS_CERTIFICATES ")\n"
"  --allow NAME        only who has a certificate of this name; can be repeated\n"
"  --ready-fd N        is told when the way stands\n"
"  --help, --version\n";

int complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("spicebd-tls: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return 1;
}

static int parse(int argc, char **argv, struct tls_options *o)
{
	static const struct option opts[] = {
		{ "certificates", required_argument, NULL, 'c' },
		{ "allow", required_argument, NULL, 'a' },
		{ "ready-fd", required_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", opts, NULL)) >= 0) {
		switch (c) {
		case 'c':
			o->certificates = optarg;
			break;
		case 'a':
			if (o->nr_allow == TLS_ALLOW_MAX)
				return complain("more than %d names", TLS_ALLOW_MAX) + 1;
			o->allow[o->nr_allow++] = optarg;
			break;
		case 'r':
			if (!*optarg || strlen(optarg) > 4 ||
			    strspn(optarg, "0123456789") != strlen(optarg))
				return complain("--ready-fd: a descriptor is a number") + 1;
			o->ready = atoi(optarg);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'V':
			puts("spicebd-tls " SPICEBD_VERSION);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	return -1;
}

int main(int argc, char **argv)
{
	struct tls_options o = { .certificates = TLS_CERTIFICATES, .ready = -1 };
	int r = parse(argc, argv, &o);
	char **words = argv + optind;

	if (r >= 0)
		return r;
	log_init("spicebd-tls", false);
	signal(SIGPIPE, SIG_IGN);
	if (argc - optind == 2 && !strcmp(words[0], "listen"))
		return tls_listen(words[1], &o);
	if (argc - optind == 3 && !strcmp(words[0], "connect"))
		return tls_connect(words[1], words[2], &o);
	fputs(usage, stderr);
	return 2;
}
