/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * links.d/NAME.conf: how a spicebd-link is to listen. Read by the supervisor,
 * by the link and by spicebdctl; Documentation/processes.rst has the keys.
 */
#ifndef SPICEBD_LINKCONF_H
#define SPICEBD_LINKCONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct sockaddr;

#define LINKCONF_NAME_MAX	31
#define LINKCONF_PATH_MAX	1023
#define LINKCONF_ADDRESS_MAX	255
#define LINKCONF_LINKS_MAX	64	/* that linkconf_list() tells of */
#define LINKCONF_FILE_MAX	16384	/* bytes of a file */
#define LINKCONF_PORTS		256	/* they are numbered below */

/* The link that udev starts when a virtio-serial port of ours appears. */
#define LINKCONF_PORT_LINK	"port"
#define LINKCONF_PORT_DIR	"/dev/virtio-ports"
#define LINKCONF_PORT_NAME	"org.spice-space.spicebd"

struct linkconf {
	char name[LINKCONF_NAME_MAX + 1];
	char file[LINKCONF_PATH_MAX + 1];	/* where it was read */
	char address[LINKCONF_ADDRESS_MAX + 1];	/* as written */
	char password_file[LINKCONF_PATH_MAX + 1];	/* these four: empty if not given */
	char tls_cert[LINKCONF_PATH_MAX + 1];
	char tls_key[LINKCONF_PATH_MAX + 1];
	char tls_ca[LINKCONF_PATH_MAX + 1];
	char user[32 + 1];			/* empty: the default */
	bool insecure;
	bool busy_poll;				/* look for quick answers before sleeping */
	bool client_force;			/* a client may eject by force */
	bool client_change;			/* ... and put another medium in */
	bool client_insert;			/* ... also where none was */
	unsigned int memory_max;		/* MiB */
	mode_t socket_mode;
	char relay[LINKCONF_PATH_MAX + 16];	/* empty: none; connect:/PATH or listen:/PATH */
	char relay_user[32 + 1];		/* empty: root */
	uint8_t relay_ports[LINKCONF_PORTS / 8];	/* bits */
	unsigned int ping_interval;		/* ms */
	unsigned int ping_timeout;		/* ms */
	unsigned int hello_timeout;		/* ms */
};

/**
 * linkconf_name_ok() - whether it is [a-z0-9][a-z0-9_-]{0,30}
 */
bool linkconf_name_ok(const char *name);

/**
 * linkconf_init() - the defaults
 */
void linkconf_init(struct linkconf *c, const char *name);

/**
 * linkconf_load() - read links.d/NAME.conf from run_dir(), else from
 *	SPICEBD_CONF_DIR or /etc/spicebd
 * @err: out, on error: one line, with file and line number
 * Return: 0 or -errno; -ENOENT when there is no such file, but for the link
 *	LINKCONF_PORT_LINK, which needs none
 */
int linkconf_load(const char *name, struct linkconf *out, char *err, size_t errlen);

/**
 * linkconf_parse() - the same from memory
 * @text: NUL-terminated and changed by the call
 */
int linkconf_parse(char *text, struct linkconf *out, char *err, size_t errlen);

/**
 * linkconf_check() - whether the values agree with each other, as far as that
 *	can be told without resolving the address
 */
int linkconf_check(const struct linkconf *c, char *err, size_t errlen);

/**
 * linkconf_save() - write run_dir()/links.d/NAME.conf, mode 0600, atomically
 */
int linkconf_save(const struct linkconf *c, char *err, size_t errlen);

/**
 * linkconf_list() - names of all configurations, sorted, each once
 * Return: how many, or -errno
 */
int linkconf_list(char names[LINKCONF_LINKS_MAX][LINKCONF_NAME_MAX + 1]);

/**
 * linkconf_listen() - bind the address
 *
 * Holds the rules: a TCP address needs a password file; one beyond loopback
 * needs TLS, unless insecure=yes. Of a host name's addresses the first that
 * can be bound is taken.
 * Return: listening stream socket (close-on-exec, non-blocking) or -errno
 */
int linkconf_listen(const struct linkconf *c, char *err, size_t errlen);

/**
 * linkconf_is_address() - whether "HOST:PORT" or "[IPV6]:PORT" can mean @sa
 */
bool linkconf_is_address(const char *address, const struct sockaddr *sa);

/**
 * linkconf_check_socket() - whether the same rules allow to listen on @fd
 *
 * By the socket's own address, which need not be the configured one when
 * somebody else bound and passed it.
 * Return: 0 or -errno
 */
int linkconf_check_socket(const struct linkconf *c, int fd, char *err, size_t errlen);

/**
 * linkconf_is_unix() - path of a unix address, or NULL
 */
const char *linkconf_is_unix(const struct linkconf *c);

/**
 * linkconf_is_port() - whether it is the end of virtio-serial ports, which does
 *	not listen
 * @c: checked
 * @prefix: out: their paths but for ".N"; or NULL
 */
bool linkconf_is_port(const struct linkconf *c, char prefix[LINKCONF_PATH_MAX + 1]);

/**
 * linkconf_relay_listens() - whether QEMU connects to a relay's sockets, or it to QEMU's
 * @c: checked; a relay
 * @prefix: out: of the sockets' paths, but for ".N"; or NULL
 */
bool linkconf_relay_listens(const struct linkconf *c, const char **prefix);

/* Whether it is a relay, and port @number of the guest is among its ports. */
bool linkconf_relays_port(const struct linkconf *c, unsigned int number);

/**
 * linkconf_relay_ports() - numbers and ranges, as "0-1,5"
 * Return: NULL, or what is wrong with it
 */
const char *linkconf_relay_ports(struct linkconf *c, const char *text);

#endif /* SPICEBD_LINKCONF_H */
