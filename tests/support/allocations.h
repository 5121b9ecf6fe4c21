// allocations.h: counts calls of malloc and its kin, and of mmap, in the whole process, libraries included. Blocks of
// less than a page that the OpenMP and C++ runtimes take for their bookkeeping are not counted: libgomp takes one for a
// parallel region, oneDNN some list nodes for a product's arguments, and neither can be configured not to. Nor are the
// buffers that oneDNN's products take where there is no AVX-512.
#ifndef PA_TESTS_ALLOCATIONS_H
#define PA_TESTS_ALLOCATIONS_H

#include <stdbool.h>
#include <stddef.h>

// False where a sanitizer owns malloc: nothing is counted then.
bool allocations_counted(void);
// Calls so far, by all threads.
size_t allocations_so_far(void);

#endif
