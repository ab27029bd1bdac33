// SPDX-License-Identifier: GPL-2.0-only
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "conf.h"
#include "device.h"
#include "log.h"
#include "owner.h"
#include "serve.h"

static const char usage[] =
	"usage: spicebd-mount DEVICE          mount what is in it, until the medium goes\n"
	"       spicebd-mount --clean DEVICE  end what a killed one has left\n"
	"       spicebd-mount --owner         who mounts what is inserted now, for udev\n"
	"       spicebd-mount --check [FILE]  is " CONF_PATH " in order?\n"
	"\n"
	"DEVICE is a name, as spicebd0 or spicebd1p2. spicebd-mount@.service runs it.\n";

/* A file that is in error is the service's to complain of, in its journal. */
static int print_owner(void)
{
	static struct conf c;
	char err[400];

	printf("SPICEBD_AUTOMOUNT=%s\n",
	       conf_load(&c, CONF_PATH, err, sizeof(err)) ? owner_choose(&c) : "spicebd");
	return 0;
}

static int check(const char *path)
{
	static struct conf c;
	char err[400];

	if (conf_load(&c, path, err, sizeof(err)))
		return 0;
	log_err("%s", err);
	return 1;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "clean", no_argument, NULL, 'c' },
		{ "owner", no_argument, NULL, 'o' },
		{ "check", no_argument, NULL, 'k' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ }
	};
	struct device dev;
	int mode = getopt_long(argc, argv, "hV", longs, NULL), args = argc - optind;

	log_init("spicebd-mount", false);
	if (mode == 'h' || mode == 'V')
		return fputs(mode == 'h' ? usage : SPICEBD_VERSION "\n", stdout) < 0;
	if (mode == 'o' && args == 0)
		return print_owner();
	if (mode == 'k' && args <= 1)
		return check(args ? argv[optind] : CONF_PATH);
	if ((mode != -1 && mode != 'c') || args != 1) {
		fputs(usage, stderr);
		return 2;
	}
	if (!device_name(&dev, argv[optind])) {
		log_err("no such device: give a name as spicebd0 or spicebd1p2");
		return 2;
	}
	return mode == 'c' ? serve_clean(&dev) : serve(&dev);
}
