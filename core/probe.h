/*
 * probe.h - USDT probes of provider "raft" (systemtap's sdt.h): a nop until a tracer attaches.
 *
 * Names are <role>_<event>; which there are and what their arguments mean is in
 * docs/operations/tracing.md.
 */
#ifndef CORE_PROBE_H
#define CORE_PROBE_H

#include <sys/sdt.h>

#define probe0(name)             DTRACE_PROBE(raft, name)
#define probe1(name, a)          DTRACE_PROBE1(raft, name, a)
#define probe2(name, a, b)       DTRACE_PROBE2(raft, name, a, b)
#define probe3(name, a, b, c)    DTRACE_PROBE3(raft, name, a, b, c)
#define probe4(name, a, b, c, d) DTRACE_PROBE4(raft, name, a, b, c, d)

#endif
