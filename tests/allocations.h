// allocations.h: counts calls of malloc and its kin, and of mmap, in the whole process, libraries included.
#ifndef PA_TESTS_ALLOCATIONS_H
#define PA_TESTS_ALLOCATIONS_H

#include <stdbool.h>
#include <stddef.h>

// False where a sanitizer owns malloc: nothing is counted then.
bool allocations_counted(void);
// Calls so far, by all threads.
size_t allocations_so_far(void);

#endif
