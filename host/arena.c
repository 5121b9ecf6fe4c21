// arena.c: see arena.h.
#include "host/arena.h"

const char *pa_arena_name(int kind) {
    static const char *const name[ARENAS] = {"parameters",  "16-bit weights", "int8 weights", "gradients", "moments",
                                             "activations", "backward",       "caches",       "workspace"};
    return name[kind];
}

void *pa_arena_take(pa_arena *a, size_t count, size_t size, size_t align) {
    size_t at = a->used;
    a->used += (count * size + align - 1) & ~(align - 1);
    return a->base && count ? a->base + at : NULL;
}

size_t pa_arenas_total(const pa_arena *a) {
    size_t sum = 0;
    for (int i = 0; i < ARENAS; i++) sum += a[i].used;
    return sum;
}

void pa_arenas_print(const pa_arena *a, const char *precision, const char *device, FILE *out) {
    fprintf(out, "memory plan, %s on %s:\n", precision, device);
    for (int i = 0; i < ARENAS; i++)
        if (a[i].used) fprintf(out, "  %-14s %10.1f MB\n", pa_arena_name(i), (double)a[i].used / 1e6);
    fprintf(out, "  %-14s %10.1f MB\n", "all", (double)pa_arenas_total(a) / 1e6);
}
