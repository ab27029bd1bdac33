/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Log lines of all programs: one line on stderr, with the syslog level as
 * "<N>" before it when stderr is the journal or SPICEBD_LOG_PREFIX is set, else
 * with the program's name. What comes from outside is escaped.
 */
#ifndef SPICEBD_LOG_H
#define SPICEBD_LOG_H

#include <stdbool.h>
#include <stddef.h>

enum log_level {
	LOG_L_ERR = 3,
	LOG_L_WARN = 4,
	LOG_L_NOTICE = 5,
	LOG_L_INFO = 6,
	LOG_L_DEBUG = 7,
};

/**
 * log_init() - name the program
 * @program: for the prefix; kept by reference
 * @debug: whether LOG_L_DEBUG lines appear (SPICEBD_DEBUG=1 does it too)
 */
void log_init(const char *program, bool debug);

/**
 * log_line() - write one line; thread-safe, async-signal-unsafe
 */
void log_line(enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#define log_err(...)	log_line(LOG_L_ERR, __VA_ARGS__)
#define log_warn(...)	log_line(LOG_L_WARN, __VA_ARGS__)
#define log_notice(...)	log_line(LOG_L_NOTICE, __VA_ARGS__)
#define log_info(...)	log_line(LOG_L_INFO, __VA_ARGS__)
#define log_debug(...)	log_line(LOG_L_DEBUG, __VA_ARGS__)

#endif /* SPICEBD_LOG_H */
