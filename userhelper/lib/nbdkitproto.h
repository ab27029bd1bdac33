/* SPDX-License-Identifier: GPL-2.0-only */
/* Messages of spicebd-nbdkit; Documentation/processes.rst tells their use. */
#ifndef SPICEBD_NBDKITPROTO_H
#define SPICEBD_NBDKITPROTO_H

#include <stdint.h>

#define NBDKIT_PROTO_MAGIC	0x4b424453u
#define NBDKIT_ID_LEN		32	/* hex digits */

enum nbdkit_mode {
	NBDKIT_FILE = 1,	/* descriptor: regular file or block device */
	NBDKIT_FOLDER_ISO,	/* descriptor: folder, served as ISO 9660 */
	NBDKIT_FOLDER_FAT,	/* descriptor: folder, served as a FAT disk, read-only */
};

#define NBDKIT_JOB_READ_ONLY	(1u << 0)

struct nbdkit_job {
	uint32_t magic;
	uint32_t mode;			/* enum nbdkit_mode */
	uint32_t flags;
	uint32_t threads;		/* 0: nbdkit's default */
	char id[NBDKIT_ID_LEN + 1];	/* of the sockets */
	char label[32 + 1];		/* volume label of a folder, or empty */
	uint8_t pad[2];
};

struct nbdkit_answer {
	uint32_t magic;
	uint32_t error;			/* errno; 0 */
	int32_t pid;			/* of nbdkit */
	uint8_t incarnation[16];
	char text[228];			/* for people, with error */
};

enum nbdkit_ctl_cmd {
	NBDKIT_CTL_STATUS = 1,
	NBDKIT_CTL_FENCE,
	NBDKIT_CTL_STOP,
	NBDKIT_CTL_MEDIUM,	/* the answer brings the descriptor that is served */
};

struct nbdkit_ctl {
	uint32_t magic;
	uint32_t cmd;			/* enum nbdkit_ctl_cmd; answered by struct nbdkit_answer */
};

#endif /* SPICEBD_NBDKITPROTO_H */
