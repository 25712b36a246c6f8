/*
 * prng.h - small deterministic generator (xoshiro256**, seeded by splitmix64) for jitter, tests and
 * the simulator. Not for secrets.
 */
#ifndef CORE_PRNG_H
#define CORE_PRNG_H

#include "core/base.h"

struct prng {
    uint64_t state[4];
};

static inline void prng_init(struct prng *prng, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        prng->state[i] = z ^ (z >> 31);
    }
}

static inline uint64_t prng_next(struct prng *prng)
{
    uint64_t *s = prng->state;
    uint64_t product = s[1] * 5;
    uint64_t result = ((product << 7) | (product >> 57)) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

/* Uniform in [0, bound), bound > 0 (multiply-shift; bias below 2^-32 for bounds below 2^32). */
static inline uint64_t prng_below(struct prng *prng, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)prng_next(prng) * bound) >> 64);
}

/* True `numerator` times out of `denominator`. */
static inline bool prng_chance(struct prng *prng, uint64_t numerator, uint64_t denominator)
{
    return prng_below(prng, denominator) < numerator;
}

#endif
