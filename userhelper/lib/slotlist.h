/* SPDX-License-Identifier: GPL-2.0-only */
/* Lists of a ring's slots, oldest first. A slot is in one list at most. */
#ifndef SPICEBD_SLOTLIST_H
#define SPICEBD_SLOTLIST_H

#include "ring.h"

struct slot_list {
	struct ring_slot *first, *last;
	unsigned int n;
};

/* slot_list_add() - to the end */
static inline void slot_list_add(struct slot_list *l, struct ring_slot *s)
{
	s->next = NULL;
	s->prev = l->last;
	if (l->last)
		l->last->next = s;
	else
		l->first = s;
	l->last = s;
	l->n++;
}

static inline void slot_list_add_first(struct slot_list *l, struct ring_slot *s)
{
	s->prev = NULL;
	s->next = l->first;
	if (l->first)
		l->first->prev = s;
	else
		l->last = s;
	l->first = s;
	l->n++;
}

/* slot_list_move() - all of @from to the end of @l, in their order */
static inline void slot_list_move(struct slot_list *l, struct slot_list *from)
{
	if (!from->first)
		return;
	from->first->prev = l->last;
	if (l->last)
		l->last->next = from->first;
	else
		l->first = from->first;
	l->last = from->last;
	l->n += from->n;
	*from = (struct slot_list) { 0 };
}

/* slot_list_del() - from wherever in @l it is */
static inline void slot_list_del(struct slot_list *l, struct ring_slot *s)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		l->first = s->next;
	if (s->next)
		s->next->prev = s->prev;
	else
		l->last = s->prev;
	s->next = NULL;
	s->prev = NULL;
	l->n--;
}

#endif /* SPICEBD_SLOTLIST_H */
