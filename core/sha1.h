/*
 * sha1.h - SHA-1 (FIPS 180-4), only to derive member and cluster ids the way etcd does.
 *
 * Owner     Nobody: no state. Not for anything that must resist an attacker.
 * Threads   Any.
 */
#ifndef CORE_SHA1_H
#define CORE_SHA1_H

#include "core/base.h"

#define SHA1_BYTES 20

void sha1(const void *data, size_t bytes, uint8_t digest[SHA1_BYTES]);

#endif
