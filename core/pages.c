#include "core/pages.h"

#include <sys/mman.h>

#include "core/invariant.h"

void pages_advise_huge(void *base, size_t bytes)
{
    invariant((uintptr_t)base % PAGE_HUGE_BYTES == 0 && bytes % PAGE_HUGE_BYTES == 0);
    (void)madvise(base, bytes, MADV_HUGEPAGE); /* refused: small pages do too */
}
