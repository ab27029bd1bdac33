// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebd: the generic netlink family: policies, commands, rights
 *
 * Commands run in parallel. None waits for a helper: the core holds a lock
 * around each that a helper's reply needs too.
 *
 * Rights stay with the open socket: one that passed SPICEBD_CMD_MANAGE is a
 * manager until it is closed, whatever its process gives up.
 */
#include <linux/log2.h>
#include <linux/slab.h>
#include <net/genetlink.h>
#include <net/sock.h>

#include "drive.h"

/**
 * struct manager - a socket that passed SPICEBD_CMD_MANAGE
 * @node: in managers
 * @sk: the socket, with a reference
 * @portid: its port id
 * @all: of all drives
 * @drives: of these, otherwise
 */
struct manager {
	struct list_head node;
	struct sock *sk;
	u32 portid;
	bool all;
	u64 drives;
};

/* The family is registered: before and after, nobody can be told anything. */
bool sbd_netlink_up;

static LIST_HEAD(managers);
/* Guards managers and what is in it. */
static DEFINE_SPINLOCK(managers_lock);

/* Policies: as Documentation/netlink/specs/spicebd.yaml says. */

static struct netlink_range_validation sbd_queues_range = {
	.min = SPICEBD_MIN_QUEUES, .max = SPICEBD_MAX_QUEUES,
};

static struct netlink_range_validation sbd_depth_range = {
	.min = SPICEBD_MIN_QUEUE_DEPTH, .max = SPICEBD_MAX_QUEUE_DEPTH,
};

static struct netlink_range_validation sbd_max_io_range = {
	.min = SPICEBD_MIN_MAX_IO, .max = SPICEBD_MAX_MAX_IO,
};

static struct netlink_range_validation_signed sbd_reconnect_range = {
	.min = SPICEBD_TIMEOUT_FOREVER, .max = SPICEBD_MAX_TIMEOUT,
};

static struct netlink_range_validation sbd_stall_range = {
	.max = SPICEBD_MAX_TIMEOUT,
};

static struct netlink_range_validation sbd_open_wait_range = {
	.max = SPICEBD_MAX_TIMEOUT,
};

static struct netlink_range_validation sbd_hold_limit_range = {
	.max = SPICEBD_MAX_TIMEOUT,
};

static struct netlink_range_validation sbd_block_size_range = {
	.min = 512, .max = 65536,
};

static struct netlink_range_validation sbd_read_ahead_range = {
	.max = SPICEBD_MAX_READ_AHEAD,
};

/* Behind a pointer: a policy's own bounds are signed and have 16 bits. */
static struct netlink_range_validation sbd_piece_range = {
	.min = 1, .max = SPICEBD_PIECE_MAX,
};

#define SBD_INDEX_POLICY	NLA_POLICY_MAX(NLA_U32, SPICEBD_MAX_DRIVES - 1)

static const struct nla_policy sbd_medium_policy[SPICEBD_A_MEDIUM_MAX + 1] = {
	[SPICEBD_A_MEDIUM_ID] =
		NLA_POLICY_RANGE(NLA_BINARY, 1, SPICEBD_MEDIUM_ID_MAX),
	[SPICEBD_A_MEDIUM_SIZE] = { .type = NLA_U64 },
	[SPICEBD_A_MEDIUM_FLAGS] = NLA_POLICY_MASK(NLA_U32, 0x3f),
	[SPICEBD_A_MEDIUM_BLOCK_SIZE] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_block_size_range),
	[SPICEBD_A_MEDIUM_IO_OPT] = { .type = NLA_U32 },
	[SPICEBD_A_MEDIUM_DISCARD_ALIGN] = { .type = NLA_U32 },
	[SPICEBD_A_MEDIUM_MAX_DISCARD] = { .type = NLA_U32 },
	[SPICEBD_A_MEDIUM_READ_AHEAD] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_read_ahead_range),
};

/* DRIVE_GET, MANAGE, TRAY_CLOSE, LOCK */
static const struct nla_policy sbd_index_policy[SPICEBD_A_DRIVE_INDEX + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
};

static const struct nla_policy
sbd_add_policy[SPICEBD_A_DRIVE_OPEN_WAIT + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_DRIVE_PERSONALITY] =
		NLA_POLICY_MAX(NLA_U32, SPICEBD_PERSONALITY_DISK),
	[SPICEBD_A_DRIVE_NR_QUEUES] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_queues_range),
	[SPICEBD_A_DRIVE_QUEUE_DEPTH] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_depth_range),
	[SPICEBD_A_DRIVE_MAX_IO] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_max_io_range),
	[SPICEBD_A_DRIVE_RECONNECT_TIMEOUT] =
		NLA_POLICY_FULL_RANGE_SIGNED(NLA_S32, &sbd_reconnect_range),
	[SPICEBD_A_DRIVE_STALL_TIMEOUT] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_stall_range),
	[SPICEBD_A_DRIVE_HELD_START] = { .type = NLA_FLAG },
	[SPICEBD_A_DRIVE_OPEN_WAIT] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_open_wait_range),
};

static const struct nla_policy
sbd_set_policy[SPICEBD_A_DRIVE_STALL_TIMEOUT + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_DRIVE_RECONNECT_TIMEOUT] =
		NLA_POLICY_FULL_RANGE_SIGNED(NLA_S32, &sbd_reconnect_range),
	[SPICEBD_A_DRIVE_STALL_TIMEOUT] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_stall_range),
};

/* DRIVE_DEL, MEDIUM_REMOVE, TRAY_OPEN, UNLOCK */
static const struct nla_policy sbd_force_policy[SPICEBD_A_DRIVE_FORCE + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_DRIVE_FORCE] = { .type = NLA_FLAG },
};

static const struct nla_policy
sbd_eject_policy[SPICEBD_A_DRIVE_VERDICT + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_DRIVE_FORCE] = { .type = NLA_FLAG },
	[SPICEBD_A_DRIVE_VERDICT] =
		NLA_POLICY_MAX(NLA_U32, SPICEBD_VERDICT_INACTIVE),
};

static const struct nla_policy
sbd_freeze_policy[SPICEBD_A_DRIVE_HOLD_LIMIT + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_DRIVE_HOLDER] = { .type = NLA_NUL_STRING,
				     .len = SPICEBD_HOLDER_NAME_MAX },
	[SPICEBD_A_DRIVE_HOLD_LIMIT] =
		NLA_POLICY_FULL_RANGE(NLA_U32, &sbd_hold_limit_range),
};

static const struct nla_policy
sbd_thaw_policy[SPICEBD_A_DRIVE_HOLDER + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_DRIVE_HOLDER] = { .type = NLA_NUL_STRING,
				     .len = SPICEBD_HOLDER_NAME_MAX },
};

/* MEDIUM_INSERT, MEDIUM_SET */
static const struct nla_policy
sbd_insert_policy[SPICEBD_A_DRIVE_MEDIUM + 1] = {
	[SPICEBD_A_DRIVE_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_DRIVE_MEDIUM] = NLA_POLICY_NESTED(sbd_medium_policy),
};

/* ATTACH, KEY_NEW */
static const struct nla_policy
sbd_attach_policy[SPICEBD_A_HELPER_NR_KEYS + 1] = {
	[SPICEBD_A_HELPER_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_HELPER_NR_KEYS] =
		NLA_POLICY_RANGE(NLA_U32, 1, SPICEBD_MAX_KEYS),
};

static const struct nla_policy
sbd_detach_policy[SPICEBD_A_HELPER_INDEX + 1] = {
	[SPICEBD_A_HELPER_INDEX] = SBD_INDEX_POLICY,
};

static const struct nla_policy
sbd_bind_policy[SPICEBD_A_HELPER_BUFFER_LEN + 1] = {
	[SPICEBD_A_HELPER_KEY] = NLA_POLICY_EXACT_LEN(SPICEBD_KEY_LEN),
	[SPICEBD_A_HELPER_QUEUES] = { .type = NLA_U64 },
	[SPICEBD_A_HELPER_BUFFER_ADDR] = { .type = NLA_U64 },
	[SPICEBD_A_HELPER_BUFFER_LEN] = { .type = NLA_U64 },
};

static const struct nla_policy sbd_link_policy[SPICEBD_A_HELPER_LINK + 1] = {
	[SPICEBD_A_HELPER_INDEX] = SBD_INDEX_POLICY,
	[SPICEBD_A_HELPER_LINK] = NLA_POLICY_MAX(NLA_U32, SPICEBD_LINK_LOST),
};

static const struct nla_policy sbd_data_policy[SPICEBD_A_IO_DATA + 1] = {
	[SPICEBD_A_IO_COOKIE] = { .type = NLA_U64 },
	[SPICEBD_A_IO_DATA_OFFSET] = { .type = NLA_U32 },
	[SPICEBD_A_IO_DATA] =
		NLA_POLICY_FULL_RANGE(NLA_BINARY, &sbd_piece_range),
};

static const struct nla_policy sbd_complete_policy[SPICEBD_A_IO_ERROR + 1] = {
	[SPICEBD_A_IO_COOKIE] = { .type = NLA_U64 },
	[SPICEBD_A_IO_DATA_OFFSET] = { .type = NLA_U32 },
	[SPICEBD_A_IO_DATA] =
		NLA_POLICY_FULL_RANGE(NLA_BINARY, &sbd_piece_range),
	[SPICEBD_A_IO_ERROR] = { .type = NLA_U32 },
};

static const struct nla_policy
sbd_answers_policy[SPICEBD_A_IO_ANSWERS + 1] = {
	[SPICEBD_A_IO_ANSWERS] =
		NLA_POLICY_RANGE(NLA_BINARY, sizeof(struct spicebd_io_answer),
				 SPICEBD_BATCH_MAX *
				 sizeof(struct spicebd_io_answer)),
};

/* Says why, and passes the error on. */
static int say(struct genl_info *info, int error, const char *why)
{
	if (info->extack && why && *why)
		info->extack->_msg = why;
	return error;
}

static int missing(struct genl_info *info, const char *why)
{
	return say(info, -EINVAL, why);
}

static struct manager *find_manager(const struct sock *sk)
{
	struct manager *m;

	list_for_each_entry(m, &managers, node)
		if (m->sk == sk)
			return m;
	return NULL;
}

/* May this socket manage the drive? With index -1: make new ones? */
static bool manages(const struct sock *sk, int index)
{
	struct manager *m;
	bool ret;

	spin_lock(&managers_lock);
	m = find_manager(sk);
	ret = m && (m->all || (index >= 0 && (m->drives & BIT_ULL(index))));
	spin_unlock(&managers_lock);
	return ret;
}

/* The drive that a command names, if the socket is a manager of it. */
static struct sbd_drive *managed_drive(struct sk_buff *skb,
				       struct genl_info *info,
				       const struct nlattr *index)
{
	struct sbd_drive *d;

	if (!index) {
		missing(info, "no drive index");
		return ERR_PTR(-EINVAL);
	}
	if (!manages(NETLINK_CB(skb).sk, nla_get_u32(index))) {
		say(info, -EPERM, "this socket is not a manager of the drive");
		return ERR_PTR(-EPERM);
	}
	d = sbd_drive_get(nla_get_u32(index));
	if (!d) {
		say(info, -ENODEV, "there is no such drive");
		return ERR_PTR(-ENODEV);
	}
	return d;
}

static int fill_medium(struct sk_buff *skb, const struct sbd_medium *m,
		       bool manager)
{
	struct nlattr *nest = nla_nest_start(skb, SPICEBD_A_DRIVE_MEDIUM);

	if (!nest)
		return -EMSGSIZE;
	if (manager && m->id_len &&
	    nla_put(skb, SPICEBD_A_MEDIUM_ID, m->id_len, m->id))
		return -EMSGSIZE;
	if (nla_put_u64_64bit(skb, SPICEBD_A_MEDIUM_SIZE, m->size,
			      SPICEBD_A_MEDIUM_PAD) ||
	    nla_put_u32(skb, SPICEBD_A_MEDIUM_FLAGS, m->flags) ||
	    nla_put_u32(skb, SPICEBD_A_MEDIUM_BLOCK_SIZE, m->block_size) ||
	    nla_put_u32(skb, SPICEBD_A_MEDIUM_IO_OPT, m->io_opt) ||
	    nla_put_u32(skb, SPICEBD_A_MEDIUM_DISCARD_ALIGN,
			m->discard_align) ||
	    nla_put_u32(skb, SPICEBD_A_MEDIUM_MAX_DISCARD, m->max_discard) ||
	    nla_put_u32(skb, SPICEBD_A_MEDIUM_READ_AHEAD, m->read_ahead))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int fill_stats(struct sk_buff *skb, struct sbd_drive *d)
{
	struct nlattr *nest = nla_nest_start(skb, SPICEBD_A_DRIVE_STATS);
	int i;

	if (!nest)
		return -EMSGSIZE;
	for (i = SPICEBD_A_STATS_READS; i <= SPICEBD_A_STATS_MAX; i++)
		if (nla_put_u64_64bit(skb, i, sbd_stats_read(d, i),
				      SPICEBD_A_STATS_PAD))
			return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int fill_holder(struct sk_buff *skb, const struct sbd_holder *h,
		       bool manager)
{
	struct nlattr *nest = nla_nest_start(skb, SPICEBD_A_DRIVE_HOLDERS);
	unsigned long now = jiffies;

	if (!nest)
		return -EMSGSIZE;
	if ((manager && nla_put_string(skb, SPICEBD_A_HOLDER_NAME, h->name)) ||
	    nla_put_u64_64bit(skb, SPICEBD_A_HOLDER_SINCE,
			      jiffies_to_msecs(now - h->since),
			      SPICEBD_A_HOLDER_PAD))
		return -EMSGSIZE;
	if (h->limited &&
	    nla_put_u32(skb, SPICEBD_A_HOLDER_LEFT, time_after(h->end, now) ?
			jiffies_to_msecs(h->end - now) : 0))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

/* drive->lock held */
static int fill_freeze(struct sk_buff *skb, const struct sbd_drive *d,
		       bool manager)
{
	u32 i;
	int ret;

	if (nla_put_u32(skb, SPICEBD_A_DRIVE_FREEZE, d->freeze))
		return -EMSGSIZE;
	if (d->freeze_error &&
	    nla_put_u32(skb, SPICEBD_A_DRIVE_FREEZE_ERROR, d->freeze_error))
		return -EMSGSIZE;
	for (i = 0; i < d->nr_holders; i++) {
		ret = fill_holder(skb, &d->holders[i], manager);
		if (ret)
			return ret;
	}
	return 0;
}

/* What does not change. */
static int fill_constants(struct sk_buff *skb, const struct sbd_drive *d)
{
	dev_t dev = disk_devt(d->disk);

	if (nla_put_u32(skb, SPICEBD_A_DRIVE_INDEX, d->index) ||
	    nla_put_string(skb, SPICEBD_A_DRIVE_NAME, d->disk->disk_name) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_MAJOR, MAJOR(dev)) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_MINOR, MINOR(dev)) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_PERSONALITY, d->personality) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_NR_QUEUES, d->nr_queues) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_QUEUE_DEPTH, d->depth) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_MAX_IO, d->max_io))
		return -EMSGSIZE;
	return 0;
}

/* drive->lock held */
static int fill_condition(struct sk_buff *skb, const struct sbd_drive *d)
{
	if (nla_put_u32(skb, SPICEBD_A_DRIVE_CONDITION, sbd_condition(d)))
		return -EMSGSIZE;
	if (d->tray.medium || d->verdict == SPICEBD_VERDICT_NONE)
		return 0;
	if (nla_put_u32(skb, SPICEBD_A_DRIVE_VERDICT, d->verdict) ||
	    nla_put_u64_64bit(skb, SPICEBD_A_DRIVE_VERDICT_SINCE,
			      sbd_verdict_age(d), SPICEBD_A_DRIVE_PAD))
		return -EMSGSIZE;
	return 0;
}

/* drive->lock held */
static int fill_state(struct sk_buff *skb, struct sbd_drive *d, bool manager)
{
	u32 left;
	int ret;

	if (nla_put_s32(skb, SPICEBD_A_DRIVE_RECONNECT_TIMEOUT,
			d->reconnect_timeout) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_STALL_TIMEOUT,
			d->stall_timeout) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_OPEN_WAIT, d->open_wait) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_TRAY, d->tray.open ?
			SPICEBD_TRAY_OPEN : SPICEBD_TRAY_CLOSED) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_STATE, sbd_drive_state(d)) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_HELPER, d->helper.state) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_LINK, d->helper.link) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_NR_SOCKETS, d->nr_socks) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_OPENERS, d->openers) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_USERS, d->users) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_IN_FLIGHT,
			sbd_queue_in_flight(d)) ||
	    nla_put_u32(skb, SPICEBD_A_DRIVE_HELD, d->nr_held) ||
	    nla_put_u64_64bit(skb, SPICEBD_A_DRIVE_GENERATION, d->generation,
			      SPICEBD_A_DRIVE_PAD))
		return -EMSGSIZE;
	if (d->helper.pid &&
	    nla_put_u32(skb, SPICEBD_A_DRIVE_HELPER_PID, d->helper.pid))
		return -EMSGSIZE;
	if (sbd_hold_left(d, &left) &&
	    nla_put_u32(skb, SPICEBD_A_DRIVE_HOLD_LEFT, left))
		return -EMSGSIZE;
	ret = fill_condition(skb, d);
	if (!ret)
		ret = fill_freeze(skb, d, manager);
	if (!ret && d->tray.medium)
		ret = fill_medium(skb, &d->medium, manager);
	return ret;
}

/**
 * sbd_netlink_fill - put a drive into a message
 * @skb: the message
 * @d: the drive
 * @portid: for whom
 * @seq: sequence number
 * @flags: NLM_F_*
 * @cmd: enum spicebd_cmd
 * @event: enum spicebd_event, or -1
 * @manager: it is for a manager
 *
 * Return: 0 or -EMSGSIZE.
 */
int sbd_netlink_fill(struct sk_buff *skb, struct sbd_drive *d, u32 portid,
		     u32 seq, int flags, u8 cmd, int event, bool manager)
{
	void *header = genlmsg_put(skb, portid, seq, &sbd_family, flags, cmd);
	int ret;

	if (!header)
		return -EMSGSIZE;
	ret = fill_constants(skb, d);
	if (!ret && event >= 0)
		ret = nla_put_u32(skb, SPICEBD_A_DRIVE_EVENT, event);
	if (!ret) {
		spin_lock(&d->lock);
		ret = fill_state(skb, d, manager);
		spin_unlock(&d->lock);
	}
	if (!ret)
		ret = fill_stats(skb, d);
	if (ret)
		genlmsg_cancel(skb, header);
	else
		genlmsg_end(skb, header);
	return ret;
}

/*
 * Room for an answer. A command that changes something allocates it first: it
 * is not to fail for want of memory once it has taken effect.
 */
static struct sk_buff *new_reply(void)
{
	return genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
}

/* These use up their skb. */
static int reply_drive(struct sk_buff *skb, struct genl_info *info,
		       struct sbd_drive *d, u8 cmd, bool manager)
{
	int ret;

	ret = sbd_netlink_fill(skb, d, info->snd_portid, info->snd_seq, 0,
			       cmd, -1, manager);
	if (ret) {
		nlmsg_free(skb);
		return ret;
	}
	return genlmsg_reply(skb, info);
}

static int sbd_drive_get_doit(struct sk_buff *skb, struct genl_info *info)
{
	const struct nlattr *index = info->attrs[SPICEBD_A_DRIVE_INDEX];
	struct sk_buff *reply;
	struct sbd_drive *d;
	int ret = -ENOMEM;

	if (!index)
		return missing(info, "no drive index");
	d = sbd_drive_get(nla_get_u32(index));
	if (!d)
		return say(info, -ENODEV, "there is no such drive");
	reply = new_reply();
	if (reply)
		ret = reply_drive(reply, info, d, SPICEBD_CMD_DRIVE_GET,
				  manages(NETLINK_CB(skb).sk, d->index));
	sbd_drive_put(d);
	return ret;
}

static int sbd_drive_get_dumpit(struct sk_buff *skb,
				struct netlink_callback *cb)
{
	struct sbd_drive *d;
	int ret = 0;

	while (!ret && (d = sbd_drive_get_next(cb->args[0]))) {
		ret = sbd_netlink_fill(skb, d, NETLINK_CB(cb->skb).portid,
				       cb->nlh->nlmsg_seq, NLM_F_MULTI,
				       SPICEBD_CMD_DRIVE_GET, -1,
				       manages(NETLINK_CB(cb->skb).sk,
					       d->index));
		if (!ret)
			cb->args[0] = d->index + 1;
		sbd_drive_put(d);
	}
	return skb->len ? skb->len : ret;
}

static int sbd_manage_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct sock *sk = NETLINK_CB(skb).sk;
	struct manager *m, *old;
	struct nlattr *attr;
	int rest;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return say(info, -EPERM, "to manage drives needs CAP_SYS_ADMIN");
	m = kzalloc(sizeof(*m), GFP_KERNEL);
	if (!m)
		return -ENOMEM;
	m->sk = sk;
	m->portid = info->snd_portid;
	m->all = !info->attrs[SPICEBD_A_DRIVE_INDEX];
	/* All of it passed the policy. */
	nlmsg_for_each_attr(attr, info->nlhdr, GENL_HDRLEN, rest)
		if (nla_type(attr) == SPICEBD_A_DRIVE_INDEX)
			m->drives |= BIT_ULL(nla_get_u32(attr));

	spin_lock(&managers_lock);
	old = find_manager(sk);
	if (old) {
		old->all = m->all;
		old->drives = m->drives;
	} else {
		sock_hold(sk);
		list_add(&m->node, &managers);
	}
	spin_unlock(&managers_lock);
	if (old)
		kfree(m);
	return 0;
}

static int sbd_drive_add_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr **attrs = info->attrs;
	struct sbd_drive_params p;
	struct sk_buff *reply;
	struct sbd_drive *d;
	const char *why = NULL;
	int ret;

	if (!manages(NETLINK_CB(skb).sk, -1))
		return say(info, -EPERM,
			   "this socket is not a manager of all drives");
	if (!attrs[SPICEBD_A_DRIVE_PERSONALITY])
		return missing(info, "no personality");
	sbd_drive_defaults(&p);
	p.personality = nla_get_u32(attrs[SPICEBD_A_DRIVE_PERSONALITY]);
	if (attrs[SPICEBD_A_DRIVE_INDEX])
		p.index = nla_get_u32(attrs[SPICEBD_A_DRIVE_INDEX]);
	if (attrs[SPICEBD_A_DRIVE_NR_QUEUES])
		p.nr_queues = nla_get_u32(attrs[SPICEBD_A_DRIVE_NR_QUEUES]);
	if (attrs[SPICEBD_A_DRIVE_QUEUE_DEPTH])
		p.depth = nla_get_u32(attrs[SPICEBD_A_DRIVE_QUEUE_DEPTH]);
	if (attrs[SPICEBD_A_DRIVE_MAX_IO])
		p.max_io = nla_get_u32(attrs[SPICEBD_A_DRIVE_MAX_IO]);
	if (attrs[SPICEBD_A_DRIVE_RECONNECT_TIMEOUT])
		p.reconnect_timeout =
			nla_get_s32(attrs[SPICEBD_A_DRIVE_RECONNECT_TIMEOUT]);
	if (attrs[SPICEBD_A_DRIVE_STALL_TIMEOUT])
		p.stall_timeout =
			nla_get_u32(attrs[SPICEBD_A_DRIVE_STALL_TIMEOUT]);
	p.held = attrs[SPICEBD_A_DRIVE_HELD_START];
	if (attrs[SPICEBD_A_DRIVE_OPEN_WAIT])
		p.open_wait = nla_get_u32(attrs[SPICEBD_A_DRIVE_OPEN_WAIT]);
	if (!is_power_of_2(p.max_io))
		return say(info, -EINVAL,
			   "the largest request is not a power of two");

	reply = new_reply();
	if (!reply)
		return -ENOMEM;
	d = sbd_drive_add(&p, &why);
	if (IS_ERR(d)) {
		nlmsg_free(reply);
		return say(info, PTR_ERR(d), why);
	}
	ret = reply_drive(reply, info, d, SPICEBD_CMD_DRIVE_ADD, true);
	sbd_drive_put(d);
	return ret;
}

static int sbd_drive_set_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr **attrs = info->attrs;
	struct sbd_drive *d;

	d = managed_drive(skb, info, attrs[SPICEBD_A_DRIVE_INDEX]);
	if (IS_ERR(d))
		return PTR_ERR(d);
	spin_lock(&d->lock);
	if (attrs[SPICEBD_A_DRIVE_RECONNECT_TIMEOUT])
		d->reconnect_timeout =
			nla_get_s32(attrs[SPICEBD_A_DRIVE_RECONNECT_TIMEOUT]);
	if (attrs[SPICEBD_A_DRIVE_STALL_TIMEOUT])
		d->stall_timeout =
			nla_get_u32(attrs[SPICEBD_A_DRIVE_STALL_TIMEOUT]);
	if (!(d->gate & SBD_GATE_GONE))
		sbd_queue_clock(d);
	spin_unlock(&d->lock);
	sbd_drive_put(d);
	return 0;
}

static int sbd_drive_del_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct sbd_drive *d;
	int ret;

	d = managed_drive(skb, info, info->attrs[SPICEBD_A_DRIVE_INDEX]);
	if (IS_ERR(d))
		return PTR_ERR(d);
	ret = sbd_drive_delete(d, info->attrs[SPICEBD_A_DRIVE_FORCE]);
	sbd_drive_put(d);
	if (ret == -EBUSY)
		say(info, ret, "the drive is open, locked or frozen");
	return ret;
}

/* The drive and socket of a helper's command. */
static struct sbd_drive *helped_drive(struct sk_buff *skb,
				      struct genl_info *info)
{
	return managed_drive(skb, info, info->attrs[SPICEBD_A_HELPER_INDEX]);
}

static int not_attached(struct genl_info *info, int ret)
{
	if (ret == -EPERM)
		say(info, ret, "this socket is not the drive's helper");
	if (ret == -ENOSPC)
		say(info, ret, "too many keys have not been used");
	return ret;
}

static int reply_keys(struct sk_buff *skb, struct genl_info *info, u8 cmd,
		      u32 index, u32 nr, u8 (*keys)[SPICEBD_KEY_LEN])
{
	void *header;
	u32 i;

	header = genlmsg_put_reply(skb, info, &sbd_family, 0, cmd);
	if (!header || nla_put_u32(skb, SPICEBD_A_HELPER_INDEX, index))
		goto fail;
	for (i = 0; i < nr; i++)
		if (nla_put(skb, SPICEBD_A_HELPER_KEY, SPICEBD_KEY_LEN,
			    keys[i]))
			goto fail;
	genlmsg_end(skb, header);
	return genlmsg_reply(skb, info);
fail:
	nlmsg_free(skb);
	return -EMSGSIZE;
}

static int answer_keys(struct sk_buff *skb, struct genl_info *info, u8 cmd)
{
	struct nlattr *nr_attr = info->attrs[SPICEBD_A_HELPER_NR_KEYS];
	u32 nr = nr_attr ? nla_get_u32(nr_attr) : 1;
	u8 keys[SPICEBD_MAX_KEYS][SPICEBD_KEY_LEN];
	bool attach = cmd == SPICEBD_CMD_ATTACH;
	struct sock *sk = NETLINK_CB(skb).sk;
	struct sk_buff *reply;
	struct sbd_drive *d;
	int ret;

	d = helped_drive(skb, info);
	if (IS_ERR(d))
		return PTR_ERR(d);
	reply = new_reply();
	if (!reply)
		ret = -ENOMEM;
	else if (attach)
		ret = sbd_helper_attach(d, sk, info->snd_portid, nr, keys);
	else
		ret = sbd_helper_new_keys(d, sk, nr, keys);
	if (ret == -EBUSY)
		say(info, ret, "a helper is attached to the drive");
	if (!ret) {
		ret = reply_keys(reply, info, cmd, d->index, nr, keys);
		if (ret && attach)
			sbd_helper_detach(d, sk);
	} else {
		nlmsg_free(reply);
	}
	memzero_explicit(keys, sizeof(keys));
	sbd_drive_put(d);
	return not_attached(info, ret);
}

static int sbd_attach_doit(struct sk_buff *skb, struct genl_info *info)
{
	return answer_keys(skb, info, SPICEBD_CMD_ATTACH);
}

static int sbd_key_new_doit(struct sk_buff *skb, struct genl_info *info)
{
	return answer_keys(skb, info, SPICEBD_CMD_KEY_NEW);
}

static int sbd_detach_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct sbd_drive *d = helped_drive(skb, info);
	int ret;

	if (IS_ERR(d))
		return PTR_ERR(d);
	ret = sbd_helper_detach(d, NETLINK_CB(skb).sk);
	sbd_drive_put(d);
	return not_attached(info, ret);
}

static int sbd_link_report_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *link = info->attrs[SPICEBD_A_HELPER_LINK];
	struct sbd_drive *d;
	int ret;

	if (!link)
		return missing(info, "no link state");
	d = helped_drive(skb, info);
	if (IS_ERR(d))
		return PTR_ERR(d);
	ret = sbd_helper_link(d, NETLINK_CB(skb).sk, nla_get_u32(link));
	sbd_drive_put(d);
	return not_attached(info, ret);
}

static int reply_bind(struct sk_buff *skb, struct genl_info *info,
		      const struct sbd_sock *s)
{
	void *header;

	header = genlmsg_put_reply(skb, info, &sbd_family, 0,
				   SPICEBD_CMD_QUEUE_BIND);
	if (!header ||
	    nla_put_u32(skb, SPICEBD_A_HELPER_INDEX, s->drive->index) ||
	    nla_put_u32(skb, SPICEBD_A_HELPER_CREDIT, s->max_out) ||
	    nla_put_u32(skb, SPICEBD_A_HELPER_CREDIT_BYTES, s->max_bytes)) {
		nlmsg_free(skb);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return genlmsg_reply(skb, info);
}

static int sbd_queue_bind_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr **attrs = info->attrs;
	const char *why = NULL;
	struct sbd_bind b = {};
	struct sk_buff *reply;
	struct sbd_sock *s;
	unsigned int noio;
	int ret;

	if (!attrs[SPICEBD_A_HELPER_KEY])
		return missing(info, "no key");
	if (!attrs[SPICEBD_A_HELPER_BUFFER_ADDR] !=
	    !attrs[SPICEBD_A_HELPER_BUFFER_LEN])
		return missing(info, "a buffer needs address and length");
	b.key = nla_data(attrs[SPICEBD_A_HELPER_KEY]);
	if (attrs[SPICEBD_A_HELPER_QUEUES])
		b.queues = nla_get_u64(attrs[SPICEBD_A_HELPER_QUEUES]);
	if (attrs[SPICEBD_A_HELPER_BUFFER_ADDR]) {
		b.buffer_addr = nla_get_u64(attrs[SPICEBD_A_HELPER_BUFFER_ADDR]);
		b.buffer_len = nla_get_u64(attrs[SPICEBD_A_HELPER_BUFFER_LEN]);
		if (!b.buffer_len)
			return missing(info, "a buffer of no length");
	}
	reply = new_reply();
	if (!reply)
		return -ENOMEM;
	s = sbd_sock_bind(&b, NETLINK_CB(skb).sk, info->snd_portid, &noio,
			  &why);
	if (IS_ERR(s)) {
		nlmsg_free(reply);
		return say(info, PTR_ERR(s), why);
	}
	ret = reply_bind(reply, info, s);
	sbd_sock_bound(s, noio, !ret);
	return ret;
}

static int nested_medium(struct genl_info *info, struct nlattr **attrs)
{
	struct nlattr *nest = info->attrs[SPICEBD_A_DRIVE_MEDIUM];

	if (!nest)
		return missing(info, "no medium");
	return nla_parse_nested(attrs, SPICEBD_A_MEDIUM_MAX, nest,
				sbd_medium_policy, info->extack);
}

static int parse_medium(struct genl_info *info, struct sbd_medium *m)
{
	struct nlattr *attrs[SPICEBD_A_MEDIUM_MAX + 1];
	int ret;

	memset(m, 0, sizeof(*m));
	ret = nested_medium(info, attrs);
	if (ret)
		return ret;
	if (!attrs[SPICEBD_A_MEDIUM_SIZE])
		return missing(info, "no size of the medium");
	m->size = nla_get_u64(attrs[SPICEBD_A_MEDIUM_SIZE]);
	if (attrs[SPICEBD_A_MEDIUM_ID]) {
		m->id_len = nla_len(attrs[SPICEBD_A_MEDIUM_ID]);
		memcpy(m->id, nla_data(attrs[SPICEBD_A_MEDIUM_ID]), m->id_len);
	}
	if (attrs[SPICEBD_A_MEDIUM_FLAGS])
		m->flags = nla_get_u32(attrs[SPICEBD_A_MEDIUM_FLAGS]);
	if (attrs[SPICEBD_A_MEDIUM_BLOCK_SIZE])
		m->block_size =
			nla_get_u32(attrs[SPICEBD_A_MEDIUM_BLOCK_SIZE]);
	if (attrs[SPICEBD_A_MEDIUM_IO_OPT])
		m->io_opt = nla_get_u32(attrs[SPICEBD_A_MEDIUM_IO_OPT]);
	if (attrs[SPICEBD_A_MEDIUM_DISCARD_ALIGN])
		m->discard_align =
			nla_get_u32(attrs[SPICEBD_A_MEDIUM_DISCARD_ALIGN]);
	if (attrs[SPICEBD_A_MEDIUM_MAX_DISCARD])
		m->max_discard =
			nla_get_u32(attrs[SPICEBD_A_MEDIUM_MAX_DISCARD]);
	if (attrs[SPICEBD_A_MEDIUM_READ_AHEAD])
		m->read_ahead =
			nla_get_u32(attrs[SPICEBD_A_MEDIUM_READ_AHEAD]);
	return 0;
}

static int reply_generation(struct sk_buff *skb, struct genl_info *info,
			    u32 index, u64 generation)
{
	void *header;

	header = genlmsg_put_reply(skb, info, &sbd_family, 0,
				   SPICEBD_CMD_MEDIUM_INSERT);
	if (!header || nla_put_u32(skb, SPICEBD_A_DRIVE_INDEX, index) ||
	    nla_put_u64_64bit(skb, SPICEBD_A_DRIVE_GENERATION, generation,
			      SPICEBD_A_DRIVE_PAD)) {
		nlmsg_free(skb);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return genlmsg_reply(skb, info);
}

/* What a refused verb has to say, beside its error. */
static const char *verb_why(int error)
{
	switch (error) {
	case -ENOSYS:
		return "the drive has no tray";
	case -EINPROGRESS:
		return "the drive is locked or in use; its user was asked";
	case -EINVAL:
		return "the tray is closed";
	case -EEXIST:
		return "there is a medium in the drive";
	case -ENOTCONN:
		return "the helper has bound no queue";
	case -ENODEV:
		return "the drive is being deleted";
	default:
		return NULL;
	}
}

static int sbd_medium_insert_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct sk_buff *reply;
	const char *why = NULL;
	struct sbd_medium m;
	struct sbd_drive *d;
	u64 generation = 0;
	int ret;

	d = managed_drive(skb, info, info->attrs[SPICEBD_A_DRIVE_INDEX]);
	if (IS_ERR(d))
		return PTR_ERR(d);
	if (!sbd_helper_is(d, NETLINK_CB(skb).sk)) {
		ret = not_attached(info, -EPERM);
		goto out;
	}
	ret = parse_medium(info, &m);
	if (ret)
		goto out;
	ret = sbd_medium_check(d, &m, &why);
	if (ret) {
		say(info, ret, why);
		goto out;
	}
	ret = -ENOMEM;
	reply = new_reply();
	if (!reply)
		goto out;
	ret = sbd_verb(d, SBD_VERB_INSERT, 0, &m, &generation);
	if (ret) {
		say(info, ret, ret == -EBUSY ? "an older medium is still open" :
					       verb_why(ret));
		nlmsg_free(reply);
	} else {
		ret = reply_generation(reply, info, d->index, generation);
	}
out:
	sbd_drive_put(d);
	return ret;
}

static int sbd_medium_set_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *attrs[SPICEBD_A_MEDIUM_MAX + 1];
	struct nlattr *read_ahead;
	struct sbd_drive *d;
	int ret;

	d = managed_drive(skb, info, info->attrs[SPICEBD_A_DRIVE_INDEX]);
	if (IS_ERR(d))
		return PTR_ERR(d);
	ret = nested_medium(info, attrs);
	if (!ret && !sbd_helper_is(d, NETLINK_CB(skb).sk))
		ret = not_attached(info, -EPERM);
	if (!ret) {
		read_ahead = attrs[SPICEBD_A_MEDIUM_READ_AHEAD];
		if (read_ahead)
			ret = sbd_medium_read_ahead(d, nla_get_u32(read_ahead));
		else
			ret = missing(info, "nothing that can be set");
	}
	if (ret == -ENOMEDIUM)
		say(info, ret, "there is no medium in the drive");
	sbd_drive_put(d);
	return ret;
}

static int do_verb_args(struct sk_buff *skb, struct genl_info *info,
			enum sbd_verb verb, unsigned int args)
{
	struct sbd_drive *d;
	int ret;

	d = managed_drive(skb, info, info->attrs[SPICEBD_A_DRIVE_INDEX]);
	if (IS_ERR(d))
		return PTR_ERR(d);
	ret = sbd_verb(d, verb, args, NULL, NULL);
	if (ret == -EBUSY && READ_ONCE(d->freeze))
		say(info, ret, "the drive is frozen");
	else if (ret == -EBUSY)
		say(info, ret, "the medium is in use; its user was asked");
	else if (ret)
		say(info, ret, verb_why(ret));
	sbd_drive_put(d);
	return ret;
}

static int do_verb(struct sk_buff *skb, struct genl_info *info,
		   enum sbd_verb verb, bool force)
{
	return do_verb_args(skb, info, verb, force ? SBD_ARG_FORCE : 0);
}

static int sbd_medium_remove_doit(struct sk_buff *skb, struct genl_info *info)
{
	return do_verb(skb, info, SBD_VERB_REMOVE,
		       info->attrs[SPICEBD_A_DRIVE_FORCE]);
}

static int sbd_tray_open_doit(struct sk_buff *skb, struct genl_info *info)
{
	return do_verb(skb, info, SBD_VERB_OPEN,
		       info->attrs[SPICEBD_A_DRIVE_FORCE]);
}

static int sbd_tray_close_doit(struct sk_buff *skb, struct genl_info *info)
{
	return do_verb(skb, info, SBD_VERB_CLOSE, false);
}

static int sbd_eject_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *verdict = info->attrs[SPICEBD_A_DRIVE_VERDICT];

	return do_verb_args(skb, info, SBD_VERB_EJECT,
			    (info->attrs[SPICEBD_A_DRIVE_FORCE] ?
			     SBD_ARG_FORCE : 0) |
			    (verdict ? nla_get_u32(verdict) <<
			     SBD_ARG_VERDICT_SHIFT : 0));
}

static int sbd_lock_doit(struct sk_buff *skb, struct genl_info *info)
{
	return do_verb(skb, info, SBD_VERB_LOCK_ADMIN, false);
}

static int sbd_unlock_doit(struct sk_buff *skb, struct genl_info *info)
{
	return do_verb(skb, info, SBD_VERB_UNLOCK_ADMIN,
		       info->attrs[SPICEBD_A_DRIVE_FORCE]);
}

/* The drive and the holder that a command names; rights come first. */
static struct sbd_drive *held_drive(struct sk_buff *skb,
				    struct genl_info *info, const char **name)
{
	const struct nlattr *holder = info->attrs[SPICEBD_A_DRIVE_HOLDER];
	struct sbd_drive *d;

	d = managed_drive(skb, info, info->attrs[SPICEBD_A_DRIVE_INDEX]);
	if (IS_ERR(d))
		return d;
	*name = holder ? nla_data(holder) : "";
	if (**name && strcmp(*name, SBD_SUSPEND_HOLDER))
		return d;
	if (**name)
		say(info, -EINVAL, "this holder is the kernel's own");
	else
		missing(info, "no holder");
	sbd_drive_put(d);
	return ERR_PTR(-EINVAL);
}

static int change_holder(struct sk_buff *skb, struct genl_info *info, u8 cmd)
{
	const struct nlattr *limit = NULL;
	struct sk_buff *reply;
	struct sbd_drive *d;
	const char *name;
	int ret;

	d = held_drive(skb, info, &name);
	if (IS_ERR(d))
		return PTR_ERR(d);
	/* Thaw's policy, and so its attributes, end before this. */
	if (cmd == SPICEBD_CMD_FREEZE)
		limit = info->attrs[SPICEBD_A_DRIVE_HOLD_LIMIT];
	reply = new_reply();
	if (!reply)
		ret = -ENOMEM;
	else if (cmd == SPICEBD_CMD_FREEZE)
		ret = sbd_freeze(d, name, limit ? nla_get_u32(limit) : 0);
	else
		ret = sbd_thaw(d, name);
	if (ret == -ENOSPC)
		say(info, ret, "the drive has as many holders as it can have");
	if (ret == -ENOENT)
		say(info, ret, "the drive has no such holder");
	if (ret)
		nlmsg_free(reply);
	else
		ret = reply_drive(reply, info, d, cmd, true);
	sbd_drive_put(d);
	return ret;
}

static int sbd_freeze_doit(struct sk_buff *skb, struct genl_info *info)
{
	return change_holder(skb, info, SPICEBD_CMD_FREEZE);
}

static int sbd_thaw_doit(struct sk_buff *skb, struct genl_info *info)
{
	return change_holder(skb, info, SPICEBD_CMD_THAW);
}

struct piece {
	u64 cookie;
	u32 offset;
	const void *data;
	u32 len;
};

static int parse_piece(struct genl_info *info, struct piece *p,
		       const char **why)
{
	struct nlattr **attrs = info->attrs;

	memset(p, 0, sizeof(*p));
	if (!attrs[SPICEBD_A_IO_COOKIE]) {
		*why = "no cookie";
		return -EINVAL;
	}
	p->cookie = nla_get_u64(attrs[SPICEBD_A_IO_COOKIE]);
	if (attrs[SPICEBD_A_IO_DATA_OFFSET])
		p->offset = nla_get_u32(attrs[SPICEBD_A_IO_DATA_OFFSET]);
	if (attrs[SPICEBD_A_IO_DATA]) {
		p->data = nla_data(attrs[SPICEBD_A_IO_DATA]);
		p->len = nla_len(attrs[SPICEBD_A_IO_DATA]);
	}
	return 0;
}

static struct sbd_sock *bound_sock(struct sk_buff *skb,
				   struct genl_info *info)
{
	struct sbd_sock *s = sbd_sock_find(NETLINK_CB(skb).sk);

	if (!s) {
		sbd_stats_stray();
		say(info, -ENOTCONN, "this socket is not bound to a drive");
	}
	return s;
}

/* A piece of a read, or with last the end of a request. */
static int take_reply(struct sk_buff *skb, struct genl_info *info, bool last)
{
	const char *why = NULL;
	struct nlattr *error;
	struct sbd_sock *s;
	struct piece p;
	int ret;

	s = bound_sock(skb, info);
	if (!s)
		return -ENOTCONN;
	ret = parse_piece(info, &p, &why);
	if (!ret && !last && !p.data) {
		why = "no data";
		ret = -EINVAL;
	}
	if (ret) {
		sbd_queue_refuse(s, why);
	} else if (last) {
		/* A piece's policy, and so its attributes, end before this. */
		error = info->attrs[SPICEBD_A_IO_ERROR];
		ret = sbd_queue_complete(s, p.cookie,
					 error ? nla_get_u32(error) : 0,
					 p.offset, p.data, p.len, &why);
	} else {
		ret = sbd_queue_data(s, p.cookie, p.offset, p.data, p.len,
				     &why);
	}
	sbd_sock_put(s);
	return say(info, ret, why);
}

static int sbd_io_data_doit(struct sk_buff *skb, struct genl_info *info)
{
	return take_reply(skb, info, false);
}

static int sbd_io_complete_doit(struct sk_buff *skb, struct genl_info *info)
{
	return take_reply(skb, info, true);
}

static int sbd_io_answers_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *list = info->attrs[SPICEBD_A_IO_ANSWERS];
	const char *why = NULL;
	struct sbd_sock *s;
	int ret;

	s = bound_sock(skb, info);
	if (!s)
		return -ENOTCONN;
	if (!list || nla_len(list) % sizeof(struct spicebd_io_answer)) {
		why = "no whole answers";
		sbd_queue_refuse(s, why);
		ret = -EINVAL;
	} else {
		ret = sbd_queue_answers(s, nla_data(list), nla_len(list) /
					sizeof(struct spicebd_io_answer), &why);
	}
	sbd_sock_put(s);
	return say(info, ret, why);
}

#define SBD_OP(_cmd, _doit, _policy)					\
	{								\
		.cmd = SPICEBD_CMD_##_cmd,				\
		.doit = _doit,						\
		.policy = _policy,					\
		.maxattr = ARRAY_SIZE(_policy) - 1,			\
	}

/* Looked up from the front for each message: the answers come first. */
static const struct genl_ops sbd_ops[] = {
	SBD_OP(IO_ANSWERS, sbd_io_answers_doit, sbd_answers_policy),
	SBD_OP(IO_COMPLETE, sbd_io_complete_doit, sbd_complete_policy),
	SBD_OP(IO_DATA, sbd_io_data_doit, sbd_data_policy),
	{
		.cmd = SPICEBD_CMD_DRIVE_GET,
		.doit = sbd_drive_get_doit,
		.dumpit = sbd_drive_get_dumpit,
		.policy = sbd_index_policy,
		.maxattr = ARRAY_SIZE(sbd_index_policy) - 1,
	},
	SBD_OP(MANAGE, sbd_manage_doit, sbd_index_policy),
	SBD_OP(DRIVE_ADD, sbd_drive_add_doit, sbd_add_policy),
	SBD_OP(DRIVE_SET, sbd_drive_set_doit, sbd_set_policy),
	SBD_OP(DRIVE_DEL, sbd_drive_del_doit, sbd_force_policy),
	SBD_OP(ATTACH, sbd_attach_doit, sbd_attach_policy),
	SBD_OP(DETACH, sbd_detach_doit, sbd_detach_policy),
	SBD_OP(KEY_NEW, sbd_key_new_doit, sbd_attach_policy),
	SBD_OP(QUEUE_BIND, sbd_queue_bind_doit, sbd_bind_policy),
	SBD_OP(LINK_REPORT, sbd_link_report_doit, sbd_link_policy),
	SBD_OP(MEDIUM_INSERT, sbd_medium_insert_doit, sbd_insert_policy),
	SBD_OP(MEDIUM_REMOVE, sbd_medium_remove_doit, sbd_force_policy),
	SBD_OP(TRAY_OPEN, sbd_tray_open_doit, sbd_force_policy),
	SBD_OP(TRAY_CLOSE, sbd_tray_close_doit, sbd_index_policy),
	SBD_OP(EJECT, sbd_eject_doit, sbd_eject_policy),
	SBD_OP(LOCK, sbd_lock_doit, sbd_index_policy),
	SBD_OP(UNLOCK, sbd_unlock_doit, sbd_force_policy),
	SBD_OP(MEDIUM_SET, sbd_medium_set_doit, sbd_insert_policy),
	SBD_OP(FREEZE, sbd_freeze_doit, sbd_freeze_policy),
	SBD_OP(THAW, sbd_thaw_doit, sbd_thaw_policy),
};

static const struct genl_multicast_group sbd_groups[] = {
	{ .name = SPICEBD_MCGRP_EVENTS },
};

struct genl_family sbd_family __ro_after_init = {
	.name = SPICEBD_FAMILY_NAME,
	.version = SPICEBD_FAMILY_VERSION,
	.module = THIS_MODULE,
	.netnsok = false,
	.parallel_ops = true,
	.ops = sbd_ops,
	.n_ops = ARRAY_SIZE(sbd_ops),
	.mcgrps = sbd_groups,
	.n_mcgrps = ARRAY_SIZE(sbd_groups),
};

/* Drops the managers whose sockets were closed. Context: worker or exit. */
static void drop_managers(bool all)
{
	struct manager *m, *next;
	LIST_HEAD(list);

	spin_lock(&managers_lock);
	list_for_each_entry_safe(m, next, &managers, node)
		if (all || sock_flag(m->sk, SOCK_DEAD))
			list_move(&m->node, &list);
	spin_unlock(&managers_lock);
	list_for_each_entry_safe(m, next, &list, node) {
		sock_put(m->sk);
		kfree(m);
	}
}

static void managers_work_fn(struct work_struct *work)
{
	drop_managers(false);
}

static DECLARE_WORK(managers_work, managers_work_fn);

/*
 * A socket was closed for good. Context: the closing process; the notifier
 * only flags and schedules. The port id may be another socket's already: it
 * is SOCK_DEAD that tells.
 */
static int sbd_netlink_event(struct notifier_block *nb, unsigned long event,
			     void *data)
{
	const struct netlink_notify *n = data;
	struct manager *m;
	bool found = false;

	if (event != NETLINK_URELEASE || n->protocol != NETLINK_GENERIC ||
	    !net_eq(n->net, &init_net))
		return NOTIFY_DONE;
	sbd_helper_released(n->portid);
	sbd_drives_released(n->portid);
	spin_lock(&managers_lock);
	list_for_each_entry(m, &managers, node)
		if (m->portid == n->portid && sock_flag(m->sk, SOCK_DEAD))
			found = true;
	spin_unlock(&managers_lock);
	if (found)
		queue_work(sbd_wq, &managers_work);
	return NOTIFY_DONE;
}

static struct notifier_block sbd_netlink_notifier = {
	.notifier_call = sbd_netlink_event,
};

/**
 * sbd_netlink_init - open the family for commands
 *
 * Return: 0 or an error.
 */
int __init sbd_netlink_init(void)
{
	int ret;

	ret = netlink_register_notifier(&sbd_netlink_notifier);
	if (ret)
		return ret;
	ret = genl_register_family(&sbd_family);
	if (ret)
		netlink_unregister_notifier(&sbd_netlink_notifier);
	else
		WRITE_ONCE(sbd_netlink_up, true);
	return ret;
}

/**
 * sbd_netlink_exit - no more commands
 *
 * Returns when the last one has ended. Bound sockets stay known until their
 * drives go.
 */
void sbd_netlink_exit(void)
{
	WRITE_ONCE(sbd_netlink_up, false);
	genl_unregister_family(&sbd_family);
	netlink_unregister_notifier(&sbd_netlink_notifier);
	cancel_work_sync(&managers_work);
	drop_managers(true);
}
