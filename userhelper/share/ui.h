/* SPDX-License-Identifier: GPL-2.0-only */
/* What the user sees of it: a line for each event, for people or as JSON. */
#ifndef SPICEBD_SHARE_UI_H
#define SPICEBD_SHARE_UI_H

#include <stdbool.h>

#include "share.h"

/**
 * ui_init() - start
 * @json: one JSON object a line instead of words
 */
void ui_init(bool json);
void ui_share_event(const struct spicebd_share_event *ev);
/* other events: name for JSON, text for both (NULL: JSON only) */
void ui_event(const char *name, const char *text);
enum ui_result { UI_DONE, UI_BUSY, UI_NO_ANSWER, UI_FAILED };

/* how a command ended; name: of the medium or file, or NULL; text: why, or NULL */
void ui_answer(const char *verb, const char *name, enum ui_result result, const char *text);
void ui_list(struct spicebd_share *share, const struct spicebd_share_info **list,
	     unsigned int n);
/* several lines of our own */
void ui_text(const char *name, const char *text);
/* Whether there is a terminal to show traffic on. */
bool ui_wants_traffic(void);
/**
 * struct ui_wait - a command that waits for the drives
 * @verb: NULL: none does
 * @since: now_ms(); for @limit ms it waits
 */
struct ui_wait {
	const char *verb, *name;
	long long since;
	int limit;
};

/**
 * ui_live() - the live line of a terminal, as long as a drive has something
 * @wait: of a command that waits it tells, if that takes long
 * @list: what is offered; the one medium that moved is named, or the last one that did
 */
void ui_live(struct spicebd_share *share, const struct ui_wait *wait,
	     const struct spicebd_share_info **list, unsigned int n);
/* takes the live line away */
void ui_end(void);
/* a line was typed below it */
void ui_typed(void);

#endif /* SPICEBD_SHARE_UI_H */
