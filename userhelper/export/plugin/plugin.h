/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The plugin of spicebd-export's nbdkits. One nbdkit serves one client; which
 * exports there are it asks of spicebd-export, which hands it the connected
 * socket of the export's own NBD server. It opens nothing itself.
 */
#ifndef SPICEBD_EXPORT_PLUGIN_H
#define SPICEBD_EXPORT_PLUGIN_H

#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>

#include "exportproto.h"
#include "snapmap.h"
#include "view.h"

/* ask.c: of spicebd-export */
int ask_set(const char *value);
bool ask_ready(void);
/* @fd: out: EXPORT_FDS_MAX; @n: out: how many came, none with an error */
int ask(uint32_t kind, const char *name, uint32_t index, struct export_grant *g, int *fd,
	unsigned int *n);
void ask_close(void);
/* No more from the client; from any thread. */
void ask_over(void);

/*
 * backend.c: one connection to the export's server, shared by all threads. A
 * thread of its own moves its bytes; the others wait for their commands.
 */
struct backend;

struct backend *backend_open(int fd, const char *name);
void backend_close(struct backend *b);
struct nbd_handle *backend_handle(struct backend *b);

/**
 * struct command - one command under way, on the stack of who waits for it
 */
struct command {
	struct backend *b;
	bool done;
	int error;
};

/* The completion to be given to an nbd_aio_… call. */
nbd_completion_callback command_begin(struct command *c, struct backend *b);
/* @cookie: what that call returned. Return: 0, or -1 with nbdkit's error set */
int command_end(struct command *c, int64_t cookie);

/**
 * struct handle - one client's export
 * @h: the backend's
 * @view: of a snapshot, or NULL
 * @flags: EXPORT_CTL_*
 */
struct handle {
	struct backend *b;
	struct nbd_handle *h;
	struct view *view;
	uint32_t flags;
	char description[EXPORT_NAME_MAX + 1];
};

/* extents.c: nbdkit's extents */
struct nbdkit_extents;
int extents_get(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
		struct nbdkit_extents *extents);

/* sandbox.c: from here on no file, no program, no socket */
int sandbox_enter(void);

#endif /* SPICEBD_EXPORT_PLUGIN_H */
