/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Threads. Drives, media, links and the control socket belong to the main
 * thread, which never waits for a far end. What waits is a task: a thread of
 * its own with a deadline, which can be cancelled, and which comes back to the
 * main thread by main_call() for every look at those objects.
 */
#ifndef SPICEBD_WORK_H
#define SPICEBD_WORK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "derr.h"

/**
 * struct task - a worker
 * @deadline: now_ms() by which it gives up; 0 never
 * @cancel_fd: readable once the task is cancelled, for poll()
 */
struct task {
	gint refs;
	gint cancelled;
	const char *name;
	int cancel_fd;
	long long deadline;
	void (*run)(struct task *t, void *arg);
	void *arg;
};

void work_init(void);

/**
 * main_call() - run a function on the main thread and wait for it
 *
 * The main thread does not wait for tasks, so this ends at once. On the main
 * thread it is a plain call.
 */
void main_call(void (*fn)(void *arg), void *arg);

/* The same without waiting; in order. */
void main_post(void (*fn)(void *arg), void *arg);

/**
 * task_new() - prepare a worker
 * @name: of its thread; kept by reference
 * Return: task with a reference for the caller, or NULL
 */
struct task *task_new(const char *name, long long deadline,
		      void (*run)(struct task *t, void *arg), void *arg);
/* Start it. False: there is no thread to be had. */
bool task_run(struct task *t);
struct task *task_ref(struct task *t);
void task_unref(struct task *t);
void task_cancel(struct task *t);
bool task_cancelled(struct task *t);

/* ms until the deadline, -1 without one, for poll(). */
int task_left(const struct task *t);

/**
 * change_wake() - something that a task may wait for has changed (main thread)
 * change_seq() - number of changes, to be read before looking
 * task_wait() - wait for a change after @seq
 *
 * Return: 0, -ECANCELED or -ETIMEDOUT with @e filled in
 */
void change_wake(void);
uint64_t change_seq(void);
int task_wait(struct task *t, uint64_t seq, const char *what, struct derr *e);

/* The same until @end, now_ms(); false: nothing changed, or it was cancelled. */
bool task_wait_until(struct task *t, uint64_t seq, long long end);

/**
 * task_poll() - wait for a descriptor
 * @events: for poll()
 * Return: its revents, or -ECANCELED, -ETIMEDOUT, with @e filled in
 */
int task_poll(struct task *t, int fd, short events, const char *what, struct derr *e);

/* Wait @ms, or until the task is cancelled or its deadline comes. */
int task_pause(struct task *t, int ms);

#endif /* SPICEBD_WORK_H */
