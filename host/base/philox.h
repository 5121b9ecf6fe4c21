// philox.h: counter-based random numbers (Philox4x32-10; Salmon et al., SC 2011): the same draw on every machine and
// backend from (seed, purpose, step, index). Header only, so that kernels can use it too.
#ifndef PA_PHILOX_H
#define PA_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define PA_EVERYWHERE __host__ __device__
#else
#define PA_EVERYWHERE
#endif

// What a draw is for. Runs depend on the values (a resumed run must draw the same numbers): append only.
enum {
    PA_RANDOM_INIT = 1,     // step: tensor, index: element
    PA_RANDOM_ORDER = 2,    // step: epoch, index: place in the shuffle
    PA_RANDOM_CROP = 3,     // step: window of the run, index: 0
    PA_RANDOM_AUGMENT = 4,  // step: window of the run, index: which augmentation
    PA_RANDOM_PREFIX = 5,   // step: window of the run, index: prefix position
    PA_RANDOM_DROPOUT = 6,  // step: window of the run, index: layer, row and column
    PA_RANDOM_SAMPLE = 7,   // step: stream, index: token of the piece
    PA_RANDOM_EVAL = 8,     // step: piece, index: 0
    PA_RANDOM_STARTS = 9,   // step: step of the run, index: 0 how many windows begin a piece, 1 their prefix
    PA_RANDOM_RELEASE = 10, // step: stream, index: token of the piece that struck the key
};

typedef struct {
    uint32_t v[4];
} pa_philox;

PA_EVERYWHERE static inline pa_philox pa_philox_raw(uint64_t key, uint64_t high, uint64_t low) {
    uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32), c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    pa_philox r = {{c0, c1, c2, c3}};
    return r;
}

// 128 random bits for (seed, purpose, step, index). purpose < 256, step < 2^56.
PA_EVERYWHERE static inline pa_philox pa_random(uint64_t seed, unsigned purpose, uint64_t step, uint64_t index) {
    return pa_philox_raw(seed, (uint64_t)purpose << 56 | step, index);
}

// Uniform in [0, 1) with 53 bits.
static inline double pa_uniform(pa_philox r) {
    return (double)(((uint64_t)r.v[1] << 32 | r.v[0]) >> 11) * 0x1p-53;
}

// Uniform integer in [0, n), with a bias of at most n / 2^64.
static inline uint64_t pa_below(pa_philox r, uint64_t n) {
    return (uint64_t)(((unsigned __int128)((uint64_t)r.v[1] << 32 | r.v[0]) * n) >> 64);
}

#endif
