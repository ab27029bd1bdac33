/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files linkconf*.c share of a relay's keys. */
#ifndef SPICEBD_LINKCONF_RELAY_H
#define SPICEBD_LINKCONF_RELAY_H

#include <stdio.h>

#include "linkconf.h"

void linkconf_relay_init(struct linkconf *c);
bool linkconf_relay_is_usual(const struct linkconf *c);	/* its ports */
void linkconf_relay_put(FILE *f, const struct linkconf *c);
/* NULL, or what is wrong with it. */
const char *linkconf_relay_check(const struct linkconf *c);

#endif /* SPICEBD_LINKCONF_RELAY_H */
