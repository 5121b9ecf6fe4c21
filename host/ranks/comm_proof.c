// comm_proof.c: see comm_proof.h.
#include "host/ranks/comm_proof.h"

#include <string.h>

typedef struct {
    uint64_t v[4];
} sip;

static uint64_t turn(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static void rounds(sip *s, int count) {
    uint64_t *v = s->v;
    while (count--) {
        v[0] += v[1];
        v[1] = turn(v[1], 13) ^ v[0];
        v[0] = turn(v[0], 32);
        v[2] += v[3];
        v[3] = turn(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = turn(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = turn(v[1], 17) ^ v[2];
        v[2] = turn(v[2], 32);
    }
}

static uint64_t little_endian(const uint8_t *p, size_t bytes) {
    uint64_t x = 0;
    for (size_t i = 0; i < bytes; i++) x |= (uint64_t)p[i] << 8 * i;
    return x;
}

static void absorb(sip *s, uint64_t x) {
    s->v[3] ^= x;
    rounds(s, 2);
    s->v[0] ^= x;
}

void pa_proof(uint8_t proof[PA_WORD], const uint8_t word[PA_WORD], const void *message, size_t bytes) {
    const uint64_t k0 = little_endian(word, 8), k1 = little_endian(word + 8, 8);
    const uint8_t *m = message;
    sip s = {
        {k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}};
    size_t left = bytes;
    for (; left >= 8; left -= 8, m += 8) absorb(&s, little_endian(m, 8));
    absorb(&s, (uint64_t)(bytes & 255) << 56 | little_endian(m, left));
    s.v[2] ^= 0xee;
    for (int half = 0; half < 2; half++) {
        rounds(&s, 4);
        uint64_t x = s.v[0] ^ s.v[1] ^ s.v[2] ^ s.v[3];
        for (int i = 0; i < 8; i++) proof[8 * half + i] = (uint8_t)(x >> 8 * i);
        s.v[1] ^= 0xdd;
    }
}
