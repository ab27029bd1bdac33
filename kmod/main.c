// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: removable drives whose medium is served by a userspace helper
 *
 * Ordered inits with their undo, nothing else.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <net/genetlink.h>

#include "drive.h"

struct workqueue_struct *sbd_wq;
struct workqueue_struct *sbd_slow_wq;

static char *drives = "cdrom,disk";
module_param(drives, charp, 0444);
MODULE_PARM_DESC(drives, "Drives to make: a list of cdrom and disk, at most 64; empty: none (default: cdrom,disk)");

static unsigned int queues;
module_param(queues, uint, 0444);
MODULE_PARM_DESC(queues, "Hardware queues of these drives, 1 to 16 (default: 4, or the number of CPUs if that is less)");

static unsigned int depth = SPICEBD_DEFAULT_QUEUE_DEPTH;
module_param(depth, uint, 0444);
MODULE_PARM_DESC(depth, "Requests of each hardware queue, 1 to 256 (default: 64)");

static unsigned int max_io = SPICEBD_DEFAULT_MAX_IO;
module_param(max_io, uint, 0444);
MODULE_PARM_DESC(max_io, "Largest request in bytes, a power of two, 4096 to 4194304 (default: 1048576)");

static bool held;
module_param(held, bool, 0444);
MODULE_PARM_DESC(held, "Make these drives held: no request passes until they are released (default: no)");

static unsigned int open_wait;
module_param(open_wait, uint, 0444);
MODULE_PARM_DESC(open_wait, "Seconds that an open of a held drive waits for its release (default: 0, it fails)");

static int __init sbd_make_drive(const char *word)
{
	struct sbd_drive_params p;
	struct sbd_drive *d;
	const char *why = "";

	sbd_drive_defaults(&p);
	if (!strcmp(word, "cdrom")) {
		p.personality = SPICEBD_PERSONALITY_CDROM;
	} else if (!strcmp(word, "disk")) {
		p.personality = SPICEBD_PERSONALITY_DISK;
	} else {
		pr_err("drives=: '%s' is neither cdrom nor disk\n", word);
		return -EINVAL;
	}
	if (queues)
		p.nr_queues = queues;
	p.depth = depth;
	p.max_io = max_io;
	p.held = held;
	p.open_wait = open_wait;
	d = sbd_drive_add(&p, &why);
	if (IS_ERR(d)) {
		pr_err("no drive made: %s (error %ld)\n",
		       *why ? why : "out of resources", PTR_ERR(d));
		return PTR_ERR(d);
	}
	sbd_drive_put(d);
	return 0;
}

static int __init sbd_check_params(void)
{
	if (queues > SPICEBD_MAX_QUEUES) {
		pr_err("queues= must be %d to %d\n", SPICEBD_MIN_QUEUES,
		       SPICEBD_MAX_QUEUES);
		return -EINVAL;
	}
	if (depth < SPICEBD_MIN_QUEUE_DEPTH ||
	    depth > SPICEBD_MAX_QUEUE_DEPTH) {
		pr_err("depth= must be %d to %d\n", SPICEBD_MIN_QUEUE_DEPTH,
		       SPICEBD_MAX_QUEUE_DEPTH);
		return -EINVAL;
	}
	if (max_io < SPICEBD_MIN_MAX_IO || max_io > SPICEBD_MAX_MAX_IO ||
	    !is_power_of_2(max_io)) {
		pr_err("max_io= must be a power of two, %d to %d\n",
		       SPICEBD_MIN_MAX_IO, SPICEBD_MAX_MAX_IO);
		return -EINVAL;
	}
	if (open_wait > SPICEBD_MAX_TIMEOUT) {
		pr_err("open_wait= must be at most %d\n",
		       SPICEBD_MAX_TIMEOUT);
		return -EINVAL;
	}
	return 0;
}

static int __init sbd_make_drives(void)
{
	char *list, *rest, *word;
	int ret = 0;

	if (!*drives)
		return 0;
	list = kstrdup(drives, GFP_KERNEL);
	if (!list)
		return -ENOMEM;
	rest = list;
	while (!ret && (word = strsep(&rest, ",")))
		ret = sbd_make_drive(word);
	kfree(list);
	return ret;
}

static int __init sbd_init(void)
{
	int ret;

	ret = sbd_check_params();
	if (ret)
		return ret;

	sbd_wq = alloc_workqueue("spicebd", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!sbd_wq)
		return -ENOMEM;
	sbd_slow_wq = alloc_workqueue("spicebd-slow", WQ_UNBOUND, 0);
	if (!sbd_slow_wq) {
		ret = -ENOMEM;
		goto no_slow_wq;
	}
	ret = sbd_make_drives();
	if (ret)
		goto no_drives;
	ret = sbd_suspend_init();
	if (ret)
		goto no_drives;
	ret = sbd_netlink_init();
	if (ret)
		goto no_netlink;
	return 0;

no_netlink:
	sbd_suspend_exit();
no_drives:
	sbd_drives_exit();
	destroy_workqueue(sbd_slow_wq);
no_slow_wq:
	destroy_workqueue(sbd_wq);
	return ret;
}

static void __exit sbd_exit(void)
{
	sbd_netlink_exit();
	sbd_suspend_exit();
	sbd_drives_exit();
	destroy_workqueue(sbd_slow_wq);
	destroy_workqueue(sbd_wq);
	rcu_barrier();
}

module_init(sbd_init);
module_exit(sbd_exit);
MODULE_DESCRIPTION("Removable drives whose medium is served by a userspace helper");
MODULE_AUTHOR("The spicebd developers");
MODULE_LICENSE("GPL");
MODULE_ALIAS_GENL_FAMILY(SPICEBD_FAMILY_NAME);
