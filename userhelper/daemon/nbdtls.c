// SPDX-License-Identifier: GPL-2.0-only
#include "nbdtls.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>

#define AUTHORITY	"ca-cert.pem"

/* Where to look if the address does not say; the second is libnbd's own. */
static const char *const dirs[] = { "/etc/spicebd/tls", "/etc/pki/libnbd" };

static bool has_authority(const char *dir)
{
	g_autofree char *path = g_build_filename(dir, AUTHORITY, NULL);

	return access(path, R_OK) == 0;
}

static int use_default(struct nbd_handle *h, const char *uri, struct derr *e)
{
	for (size_t i = 0; i < G_N_ELEMENTS(dirs); i++) {
		if (!has_authority(dirs[i]))
			continue;
		if (nbd_set_tls_certificates(h, dirs[i]) < 0)
			return derr_set(e, EINVAL, "%s: %s", uri, nbd_get_error());
		return 0;
	}
	return derr_set(e, EACCES,
			"%s: no authority is known that could prove who this is: put its certificate into %s/" AUTHORITY ", or name a folder by ?tls-certificates=",
			uri, dirs[0]);
}

static int prepare(struct nbd_handle *h, const char *uri, GUri *u, GHashTable *q, struct derr *e)
{
	const char *dir = g_hash_table_lookup(q, "tls-certificates");
	const char *verify = g_hash_table_lookup(q, "tls-verify-peer");

	if (g_hash_table_contains(q, "tls-psk-file"))
		return 0;
	/* In libnbd's words; one that it does not know is an error of its own. */
	if (verify && (!strcmp(verify, "0") || !g_ascii_strcasecmp(verify, "false") ||
		       !g_ascii_strcasecmp(verify, "off") || !g_ascii_strcasecmp(verify, "no")))
		return 0;
	if (strcmp(g_uri_get_scheme(u), "nbds"))
		return derr_set(e, EOPNOTSUPP,
				"%s: TLS without a host's name proves nothing: use nbds://, or no TLS",
				uri);
	if (!dir)
		return use_default(h, uri, e);
	if (has_authority(dir))
		return 0;
	return derr_set(e, EACCES, "%s: no authority's certificate can be read: %s/" AUTHORITY,
			uri, dir);
}

int nbdtls_prepare(struct nbd_handle *h, const char *uri, struct derr *e)
{
	GHashTable *q = NULL;
	GUri *u;
	int r;

	if (g_ascii_strncasecmp(uri, "nbds", 4))
		return 0;
	u = g_uri_parse(uri, G_URI_FLAGS_ENCODED_QUERY, NULL);
	if (u)
		q = g_uri_parse_params(g_uri_get_query(u) ?: "", -1, "&;", 0, NULL);
	r = q ? prepare(h, uri, u, q, e) :
		derr_set(e, EINVAL, "%s: that is no address of an NBD server", uri);
	if (q)
		g_hash_table_unref(q);
	if (u)
		g_uri_unref(u);
	return r;
}
