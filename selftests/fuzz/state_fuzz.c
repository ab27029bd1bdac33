// SPDX-License-Identifier: GPL-2.0-only
/*
 * The file in which spicebdd finds what an earlier one left: any bytes, while the
 * kernel says that two drives have media.
 *
 * What must hold: what makes no sense is as good as no file, and every medium of
 * the kernel's is then either taken over or ejected.
 */
#include "adopt.h"
#include "daemon_stub.h"
#include "drive.h"
#include "file.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	stub_init();
	return 0;
}

static void put_medium(uint32_t index)
{
	struct kernel_drive *k = stub_drive(index);

	k->state |= SPICEBD_STATE_MEDIUM | SPICEBD_STATE_READY;
	k->medium.id_len = 16;
	memset(k->medium.id, 0x11, 16);
	k->medium.size = 1 << 20;
	stub_event(index, SPICEBD_EVENT_MEDIUM_CHANGED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64];
	int fds;

	stub_reset();
	fds = open_fds();
	snprintf(path, sizeof(path), "%s/state.json", stub_dir());
	must(file_replace(path, data, size) == 0);
	put_medium(0);
	put_medium(1);
	stub_settle();
	adopt_start();
	stub_settle();
	for (uint32_t i = 0; i < 2; i++) {
		struct drive *d = drive_at(i);

		must(d && (d->medium || !drive_has_medium(d)));
	}
	stub_reset();
	must(open_fds() == fds);
	return 0;
}
