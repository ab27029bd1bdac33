/* SPDX-License-Identifier: GPL-2.0-only */
/* /etc/spicebd/automount.conf */
#ifndef SPICEBD_MOUNT_CONF_H
#define SPICEBD_MOUNT_CONF_H

#include <stdbool.h>
#include <stddef.h>

#define CONF_PATH	"/etc/spicebd/automount.conf"
#define CONF_TYPES_MAX	16
#define CONF_OPTIONS_MAX 16
#define CONF_TYPE_LEN	15

enum conf_owner { OWNER_AUTO, OWNER_SPICEBD, OWNER_UDISKS };

/**
 * struct conf_type - a file system that may be mounted, and on which drives
 */
struct conf_type {
	char name[CONF_TYPE_LEN + 1];
	bool cdrom, disk;
};

/**
 * struct conf_option - one more mount option
 * @type: the file system that it is for, "" for all
 * @key, @value: @value is NULL when there is none; both point into conf.text
 */
struct conf_option {
	char type[CONF_TYPE_LEN + 1];
	const char *key, *value;
};

/**
 * struct conf - what the administrator wants
 * @place: absolute, no "..", no trailing slash
 * @disk_writable: a disk medium that can be written is mounted so
 */
struct conf {
	bool enable;
	bool disk_writable;
	enum conf_owner owner;
	char place[256];
	struct conf_type type[CONF_TYPES_MAX];
	unsigned int n_types;
	struct conf_option option[CONF_OPTIONS_MAX];
	unsigned int n_options;
	char text[1024];
	size_t text_len;
};

/**
 * conf_init() - what holds where nothing is configured
 */
void conf_init(struct conf *c);

/**
 * conf_load() - read the file; one that is not there is no error
 * @err: out, when false: one line, what, why, what to do
 *
 * The file decides what root mounts, so only root's own is taken, that nobody
 * else can write.
 */
bool conf_load(struct conf *c, const char *path, char *err, size_t size);

/**
 * conf_parse() - the lines of such a file
 * @text: NUL-terminated
 */
bool conf_parse(struct conf *c, const char *path, const char *text, char *err, size_t size);

/**
 * conf_allows() - may this type be mounted from this sort of drive?
 */
bool conf_allows(const struct conf *c, const char *type, bool cdrom);

#endif /* SPICEBD_MOUNT_CONF_H */
