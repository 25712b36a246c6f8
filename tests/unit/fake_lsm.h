/*
 * fake_lsm.h - storage/lsm/lsm.h on one sorted array: what a test of the layers above links instead
 * of the real one, with the moments under its control.
 *
 * Story     Rows are "in memory" until fake_lsm_flush(), then "on disk": lookups of those answer
 *           ERR_WOULD_WAIT now and then. fake_lsm_merge() runs the compaction filter over rows of
 *           some range of ages, as real compactions do. fake_lsm_crash() forgets what was not
 *           flushed. Broken contracts (a version written twice or out of order) abort.
 * Owner     The test.
 * Threads   One.
 */
#ifndef TESTS_UNIT_FAKE_LSM_H
#define TESTS_UNIT_FAKE_LSM_H

#include "core/arena.h"
#include "core/prng.h"
#include "storage/lsm/lsm.h"

struct lsm *fake_lsm_create(uint64_t seed);
void fake_lsm_destroy(struct lsm *lsm);
struct lsm_reader *fake_lsm_reader(struct lsm *lsm);
void fake_lsm_set_filter(struct lsm *lsm, const struct lsm_filter *filter);

void fake_lsm_flush(struct lsm *lsm);
void fake_lsm_merge(struct lsm *lsm, uint64_t from_index, uint64_t to_index);
void fake_lsm_crash(struct lsm *lsm);
/* `meanwhile` runs once, within the next step of any cursor: what others do while it waits. */
void fake_lsm_meanwhile(struct lsm *lsm, void (*meanwhile)(void *context), void *context);
void fake_lsm_set_pressure(struct lsm *lsm, uint32_t pressure);
void fake_lsm_set_failure(struct lsm *lsm, int failure);
uint64_t fake_lsm_durable_index(const struct lsm *lsm); /* that it was told */
uint64_t fake_lsm_rows(const struct lsm *lsm);
uint64_t fake_lsm_table_rows(const struct lsm *lsm, char table);
uint64_t fake_lsm_pins(const struct lsm *lsm); /* rows and cursors held */

#endif
