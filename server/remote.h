/*
 * remote.h - a fiber of one core runs a function on another and waits for it: start, stop, status,
 * and other rare work. Data paths have messages of their own.
 *
 * Owner     The job lives on the caller's stack until the answer is back.
 * Threads   Any core of the node after remote_init().
 */
#ifndef SERVER_REMOTE_H
#define SERVER_REMOTE_H

#include "core/core.h"

void remote_init(struct core *core); /* on every core, before its first turn */

/* Fiber context. Runs `function(argument)` in a fiber of core `to`; directly when that is this one.
 */
void remote_call(uint32_t to, void (*function)(void *argument), void *argument);

/* The same on behalf of a client: it leaves that core the fibers of its own (core/fiber.h). */
void remote_call_request(uint32_t to, void (*function)(void *argument), void *argument);

#endif
