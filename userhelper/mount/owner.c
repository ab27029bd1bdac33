// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where somebody sits at a graphical desktop and there is udisks, the desktop
 * mounts, for that person. On a text console nobody would: then it is us.
 */
#include "owner.h"

#include <stdlib.h>
#include <string.h>
#include <systemd/sd-login.h>
#include <unistd.h>

static bool has_udisks(void)
{
	static const char * const places[] = { "/usr/share", "/usr/local/share", "/etc" };
	char path[128];

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		strcpy(path, places[i]);
		strcat(path, "/dbus-1/system-services/org.freedesktop.UDisks2.service");
		if (access(path, F_OK) == 0)
			return true;
	}
	return false;
}

/* A person, not the greeter; at a seat, not from afar; and not on the way out. */
static bool is_desktop(const char *session)
{
	char *type = NULL, *class = NULL, *state = NULL, *seat = NULL;
	bool yes;

	yes = sd_session_get_seat(session, &seat) >= 0 &&
	      sd_session_is_remote(session) <= 0 &&
	      sd_session_get_class(session, &class) >= 0 && !strcmp(class, "user") &&
	      sd_session_get_state(session, &state) >= 0 && strcmp(state, "closing") &&
	      sd_session_get_type(session, &type) >= 0 &&
	      (!strcmp(type, "x11") || !strcmp(type, "wayland") || !strcmp(type, "mir"));
	free(type);
	free(class);
	free(state);
	free(seat);
	return yes;
}

static bool has_desktop(void)
{
	char **sessions = NULL;
	bool found = false;

	if (sd_get_sessions(&sessions) < 0)
		return false;
	for (char **s = sessions; s && *s; s++) {
		found = found || is_desktop(*s);
		free(*s);
	}
	free(sessions);
	return found;
}

const char *owner_choose(const struct conf *c)
{
	if (!c->enable)
		return "no";
	if (c->owner == OWNER_SPICEBD)
		return "spicebd";
	if (c->owner == OWNER_UDISKS)
		return "udisks";
	return has_udisks() && has_desktop() ? "udisks" : "spicebd";
}
