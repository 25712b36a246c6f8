/*
 * pages.h - asks the kernel for huge pages under memory that is read at random: where a small page
 * costs a walk of the page table for each access, more than the access itself in a virtual machine.
 *
 * Threads   Any. Advice only: without huge pages everything works as before.
 */
#ifndef CORE_PAGES_H
#define CORE_PAGES_H

#include "core/base.h"

#define PAGE_HUGE_BYTES ((size_t)(2 * 1024 * 1024))

/* Both multiples of PAGE_HUGE_BYTES. */
void pages_advise_huge(void *base, size_t bytes);

#endif
