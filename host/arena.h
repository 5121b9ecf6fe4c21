// arena.h: the arenas that a backend takes all its memory in: counted by one walk over everything that lies in them, printed, taken, and
// handed out by the same walk again. Where the memory comes from is the backend's business.
#ifndef PA_ARENA_H
#define PA_ARENA_H

#include "host/backend.h"

typedef enum {
    ARENA_PARAMETERS,
    ARENA_WEIGHTS, // copies of parameters for products of 16 bits
    ARENA_INT8,
    ARENA_GRADIENTS,
    ARENA_MOMENTS,
    ARENA_ACTIVATIONS,
    ARENA_BACKWARD,
    ARENA_CACHES,
    ARENA_WORKSPACE,
    ARENAS
} pa_arena_kind;

typedef struct {
    char *base; // NULL while sizes are being counted
    size_t used, size;
} pa_arena;

const char *pa_arena_name(int kind);
// Room for count things of so many bytes each; the next begins on a multiple of align, a power of two. NULL while sizes are being counted,
// and for none.
void *pa_arena_take(pa_arena *a, size_t count, size_t size, size_t align);
// Both of (ARENAS).
size_t pa_arenas_total(const pa_arena *a);
void pa_arenas_print(const pa_arena *a, const char *precision, const char *device, FILE *out);

#endif
