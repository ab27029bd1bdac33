// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes the kernel complain on request, so that the launcher of test machines
 * can be shown to notice. It is called spicebd because that is the module
 * that the launcher loads; it shares nothing else with it.
 */
#include <linux/cdrom.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

static char *provoke = "";
module_param(provoke, charp, 0444);
MODULE_PARM_DESC(provoke, "warn, oops, atomic, hung, or nothing; for a debug kernel: leak, freed, order, shift");

/* gives the module something to depend on, as the real one does */
static struct cdrom_device_info never_registered;
static bool registered;

static DEFINE_SPINLOCK(lock);

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);

static void lock_both(struct mutex *a, struct mutex *b)
{
	mutex_lock(a);
	mutex_lock(b);
	mutex_unlock(b);
	mutex_unlock(a);
}

/* Faults that only a kernel notices which looks for them. */
static void provoke_quietly(void)
{
	int *memory = kmalloc(sizeof(*memory), GFP_KERNEL);
	int bits = 32;

	if (!memory || !strcmp(provoke, "leak"))
		return;
	kfree(memory);
	OPTIMIZER_HIDE_VAR(memory);
	if (!strcmp(provoke, "freed"))
		WRITE_ONCE(*memory, 1);
	OPTIMIZER_HIDE_VAR(bits);
	if (!strcmp(provoke, "shift"))
		pr_info("%d\n", 1 << bits);
	if (!strcmp(provoke, "order")) {
		lock_both(&first, &second);
		lock_both(&second, &first);
	}
}

static int __init provoke_init(void)
{
	provoke_quietly();
	if (!strcmp(provoke, "warn")) {
		WARN(1, "provoked on purpose\n");
	} else if (!strcmp(provoke, "oops")) {
		WRITE_ONCE(*(int *)NULL, 1);
	} else if (!strcmp(provoke, "atomic")) {
		spin_lock(&lock);
		schedule_timeout_uninterruptible(1);
		spin_unlock(&lock);
	} else if (!strcmp(provoke, "hung")) {
		schedule_timeout_uninterruptible(20 * HZ);
	}
	if (registered)
		unregister_cdrom(&never_registered);
	return 0;
}

static void __exit provoke_exit(void)
{
}

module_init(provoke_init);
module_exit(provoke_exit);
MODULE_DESCRIPTION("complaints for the launcher's own test");
MODULE_LICENSE("GPL");
