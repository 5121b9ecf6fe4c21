// arena.h: a backend's memory. A walk over all buffers adds up the size of each arena; after the sizes are printed and
// the arenas allocated, the same walk runs again and hands the buffers out. How memory is allocated is the backend's
// business. Letters as in host/model/params.h; R = B N latent rows, Q = B K prefix rows, act: of the type of
// activations.
#ifndef PA_ARENA_H
#define PA_ARENA_H

#include "host/model/backend.h"

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
    size_t used, size, align;
} pa_arena;

// What one block keeps from the forward for the backward pass. With recomputation, and without training, all blocks
// share one.
typedef struct {
    void *zn;               // (Q + R, C) act: normalised input; prefix rows first (cross-attention only)
    float *mean, *rstd;     // (Q + R)
    void *q, *k, *v;        // act: q (R, ldq), k and v (Q + R, ldkv), rotated
    float *q_rstd, *k_rstd; // (R, H), (Q + R, H), with qk_norm
    void *o;                // (R, I) act
    float *lse;             // (B, H, N)
    float *z_mid;           // (R, C) after attention
    void *zn2;              // (R, C) act
    float *mean2, *rstd2;
    void *h, *g; // (R, F) act: before and after the activation
} pa_saved;

typedef struct {
    void *k, *v; // (S, H, capacity, D) act, k rotated
    int capacity;
} pa_cache;

const char *pa_arena_name(int kind);
// Begins a walk over all arenas (ARENAS); every buffer starts on a multiple of align, a power of two.
void pa_arenas_begin(pa_arena *a, size_t align);
// A buffer of `count` items of `size` bytes. NULL while sizes are being counted, and if count is 0.
void *pa_arena_take(pa_arena *a, size_t count, size_t size);
// The residual streams z (blocks + 1), (R, C) each, two in turn where nothing is kept, and what every block keeps, acts
// of `size` bytes. R: rows of latents, Q: rows of the prefix.
void pa_layout_blocks(pa_arena *a, const pa_open *o, size_t size, size_t R, size_t Q, float **z, pa_saved *saved);
// Keys and values of all blocks in a window, for o->streams sequences.
void pa_layout_caches(pa_arena *a, const pa_open *o, size_t size, pa_cache *cache);
// Rows of all weights of products, each with a scale for int8; scale_at (tensors): where a tensor's scales begin, -1
// where it has none.
size_t pa_layout_scales(const pa_params *p, ptrdiff_t *scale_at);
// a: (ARENAS).
size_t pa_arenas_total(const pa_arena *a);
void pa_arenas_print(const pa_arena *a, const char *precision, const char *device, FILE *out);

#endif
