// SPDX-License-Identifier: GPL-2.0-only
/* The exports. */
#include "export.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

struct exp *exp_by_number(struct server *s, uint32_t number)
{
	for (int i = 0; number && i < EXPORTS_MAX; i++)
		if (s->exports[i].number == number)
			return &s->exports[i];
	return NULL;
}

struct exp *exp_by_name(struct server *s, const char *name)
{
	for (int i = 0; i < EXPORTS_MAX; i++) {
		struct exp *e = &s->exports[i];

		if (e->number && !e->removing && !strcmp(e->name, name))
			return e;
	}
	return NULL;
}

struct exp *exp_by_index(struct server *s, uint32_t index)
{
	for (int i = 0; i < EXPORTS_MAX; i++)
		if (s->exports[i].number && !s->exports[i].removing && !index--)
			return &s->exports[i];
	return NULL;
}

static uint32_t users(const struct server *s, const struct exp *e, bool with_gone)
{
	uint32_t n = 0;

	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++) {
		const struct client *c = &s->clients[i];

		n += c->pid && c->number == e->number && (with_gone || !c->gone);
	}
	return n;
}

/* Those who could still ask for something. */
uint32_t exp_clients(const struct server *s, const struct exp *e)
{
	return users(s, e, false);
}

static void exp_free(struct exp *e)
{
	free(e->name);
	free(e->description);
	memset(e, 0, sizeof(*e));
}

static int add(struct server *s, const struct export_ctl *c, const char **why)
{
	struct exp *e = exp_by_number(s, c->number), *same = exp_by_name(s, c->name);

	*why = "";
	if (e && same == e) {
		e->confirmed = true;
		return 0;
	}
	*why = "the number or the name is in use";
	if (e || same || !c->number)
		return EEXIST;
	*why = "too many exports";
	for (int i = 0; i < EXPORTS_MAX && !e; i++)
		if (!s->exports[i].number)
			e = &s->exports[i];
	if (!e)
		return ENOSPC;
	*why = "out of memory";
	e->name = strdup(c->name);
	e->description = strdup(c->text);
	if (!e->name || !e->description) {
		exp_free(e);
		return ENOMEM;
	}
	e->number = c->number;
	e->flags = c->flags & (EXPORT_CTL_WRITABLE | EXPORT_CTL_WRITETHROUGH |
			       EXPORT_CTL_SNAPSHOT);
	e->confirmed = true;
	log_info("export '%.100s' is there", e->name);
	return 0;
}

void exp_add(struct server *s, const struct export_ctl *c)
{
	const char *why;
	int r = add(s, c, &why);

	owner_send(s, EXPORT_EV_ANSWER, c->tag, c->number, r, 0, r ? why : "");
}

static void remove_hard(struct server *s, struct exp *e)
{
	e->removing = true;
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
		if (s->clients[i].pid && s->clients[i].number == e->number)
			client_hang_up(&s->clients[i]);
}

void exp_del(struct server *s, const struct export_ctl *c)
{
	struct exp *e = exp_by_number(s, c->number);

	if (!e) {
		owner_send(s, EXPORT_EV_ANSWER, c->tag, c->number, ENOENT, 0, "no such export");
		return;
	}
	/* One that hung up a moment ago does not count. */
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
		if (s->clients[i].pid && s->clients[i].number == e->number)
			client_look(&s->clients[i]);
	if (!(c->flags & EXPORT_CTL_HARD) && exp_clients(s, e)) {
		owner_send(s, EXPORT_EV_ANSWER, c->tag, c->number, EBUSY, exp_clients(s, e),
			   "still in use");
		return;
	}
	remove_hard(s, e);
	e->del_tag = c->tag;
}

void exp_sync_begin(struct server *s)
{
	for (int i = 0; i < EXPORTS_MAX; i++) {
		s->exports[i].confirmed = false;
		/* The new one asks for what it wants to know. */
		s->exports[i].del_tag = 0;
		s->exports[i].told = 0;
	}
}

void exp_sync_end(struct server *s, uint32_t tag)
{
	for (int i = 0; i < EXPORTS_MAX; i++) {
		struct exp *e = &s->exports[i];

		if (e->number && !e->removing && !e->confirmed) {
			log_notice("export '%.100s' is unknown to spicebdd: it ends", e->name);
			remove_hard(s, e);
		}
	}
	owner_send(s, EXPORT_EV_ANSWER, tag, 0, 0, 0, "");
	requests_ask_again(s);
}

void exps_settle(struct server *s)
{
	for (int i = 0; i < EXPORTS_MAX; i++) {
		struct exp *e = &s->exports[i];
		uint32_t n;

		if (!e->number)
			continue;
		n = exp_clients(s, e);
		if (n != e->told && s->owner >= 0 && !e->removing) {
			e->told = n;
			owner_send(s, EXPORT_EV_CLIENTS, 0, e->number, 0, n, "");
		}
		if (!e->removing || users(s, e, true))
			continue;
		log_info("export '%.100s' is gone", e->name);
		if (e->del_tag)
			owner_send(s, EXPORT_EV_ANSWER, e->del_tag, e->number, 0, 0, "");
		exp_free(e);
	}
}
