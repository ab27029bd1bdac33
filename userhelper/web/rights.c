// SPDX-License-Identifier: GPL-2.0-only
/* When address, key and page are open: nothing of root's is needed any more. */
#include "web.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "caps.h"

#define MEMORY_MAX	(256u << 20)
#define FILES_MAX	(2 * WEB_CONNS_MAX + 64)

static bool limit(int what, const char *name, rlim_t value)
{
	struct rlimit r = { value, value };

	if (setrlimit(what, &r) == 0)
		return true;
	complain("cannot limit %s: %s", name, strerror(errno));
	return false;
}

static bool become(const char *user)
{
	struct passwd *pw;

	if (geteuid() != 0) {
		if (user)
			complain("not started as root: it stays user %u, and is not %s",
				 (unsigned int)geteuid(), user);
		return !user;
	}
	pw = getpwnam(user ? user : "spicebd-link");
	if (!pw && !user)
		pw = getpwnam("nobody");
	if (!pw || pw->pw_uid == 0) {
		complain("--user %s: %s: name an unprivileged user that exists",
			 user ? user : "nobody", pw ? "that is root" : "there is no such user");
		return false;
	}
	if (setgroups(0, NULL) == 0 && setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) == 0 &&
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) == 0)
		return true;
	complain("cannot become user %s: %s", pw->pw_name, strerror(errno));
	return false;
}

bool rights_drop(const char *user)
{
	umask(077);
	if (!limit(RLIMIT_DATA, "memory", MEMORY_MAX) || !limit(RLIMIT_CORE, "core dumps", 0) ||
	    !limit(RLIMIT_NOFILE, "open files", FILES_MAX))
		return false;
	caps_drop_bounding();
	if (!become(user))
		return false;
	/* After the change of user, which sets it back. */
	if (caps_set(0) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 &&
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
		return true;
	complain("cannot give up privileges: %s", strerror(errno));
	return false;
}
