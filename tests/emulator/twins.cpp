// twins.cpp: what lanes do when they meet: shuffles, votes, and the twins of mma, ldmatrix and cp.async after the PTX
// manual.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/emulator/device.h"

namespace emulator {

static void shuffle_act(void **slots, unsigned present) {
    uint64_t bits[32];
    for (unsigned rest = present; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        bits[lane] = ((shuffled *)slots[lane])->bits;
    }
    for (unsigned rest = present; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        shuffled *s = (shuffled *)slots[lane];
        if (!(present >> s->source & 1)) fault("lane %d shuffles from lane %d, which is not there", lane, s->source);
        s->bits = bits[s->source];
    }
}

static void vote_act(void **slots, unsigned present) {
    unsigned ballot = 0;
    for (unsigned rest = present; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        ballot |= (unsigned)((vote *)slots[lane])->predicate << lane;
    }
    for (unsigned rest = present; rest; rest &= rest - 1) ((vote *)slots[__builtin_ctz(rest)])->ballot = ballot;
}

template <typename T> static float number(uint16_t bits) {
    return __half2float(__half{bits});
}
template <> float number<__nv_bfloat16>(uint16_t bits) {
    return __bfloat162float(__nv_bfloat16{bits});
}

// d (16, 8) += a (16, K) b (K, 8). Element i of a lane's a (two a register) is at row g + 8 where i / 2 is odd, column
// 2t + i % 2 + 8 (i / 4); of its b at row 2t + i % 2 + 8 (i / 2), column g; of its d at row g + 8 (i / 2), column 2t +
// i % 2.
template <typename T, int K> static void mma_act(void **slots, unsigned) {
    float a[16][K], b[K][8];
    for (int lane = 0; lane < 32; lane++) {
        const product *p = (const product *)slots[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < K / 2; i++)
            a[g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = number<T>((uint16_t)(p->a[i / 2] >> 16 * (i % 2)));
        for (int i = 0; i < K / 4; i++)
            b[2 * t + i % 2 + 8 * (i / 2)][g] = number<T>((uint16_t)(p->b[i / 2] >> 16 * (i % 2)));
    }
    for (int row = 0; row < 16; row++) {
        float sum[8] = {};
        for (int k = 0; k < K; k++)
            for (int column = 0; column < 8; column++) sum[column] += a[row][k] * b[k][column];
        for (int column = 0; column < 8; column++)
            ((product *)slots[row % 8 * 4 + column / 2])->d[row / 8 * 2 + column % 2] += sum[column];
    }
}

template <int COUNT, bool TRANSPOSED> static void ldmatrix_act(void **slots, unsigned) {
    for (int matrix = 0; matrix < COUNT; matrix++) {
        uint16_t x[8][8];
        for (int row = 0; row < 8; row++) {
            const int lane = matrix * 8 + row;
            const void *from = ((const matrix_rows *)slots[lane])->row;
            if ((uintptr_t)from % 16) fault("ldmatrix: lane %d's row is not aligned to 16 bytes", lane);
            if (!is_shared(from, 16)) fault("ldmatrix: lane %d's row is not in shared memory", lane);
            memcpy(x[row], from, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, t = lane % 4;
            const uint32_t low = TRANSPOSED ? x[2 * t][g] : x[g][2 * t],
                           high = TRANSPOSED ? x[2 * t + 1][g] : x[g][2 * t + 1];
            ((matrix_rows *)slots[lane])->out[matrix] = low | high << 16;
        }
    }
}

extern const point at_syncwarp = {"__syncwarp", nullptr, false};
extern const point at_shuffle = {"a shuffle", shuffle_act, false};
extern const point at_vote = {"a vote", vote_act, false};
extern const point at_mma_f16_k16 = {"mma.m16n8k16 of f16", mma_act<__half, 16>, true};
extern const point at_mma_bf16_k16 = {"mma.m16n8k16 of bf16", mma_act<__nv_bfloat16, 16>, true};
extern const point at_mma_f16_k8 = {"mma.m16n8k8", mma_act<__half, 8>, true};
extern const point at_ldmatrix_x4 = {"ldmatrix.x4", ldmatrix_act<4, false>, true};
extern const point at_ldmatrix_x4_trans = {"ldmatrix.x4.trans", ldmatrix_act<4, true>, true};
extern const point at_ldmatrix_x2 = {"ldmatrix.x2", ldmatrix_act<2, false>, true};
extern const point at_ldmatrix_x2_trans = {"ldmatrix.x2.trans", ldmatrix_act<2, true>, true};

void needs(int arch, const char *what) {
    if (architecture() < arch) fault("%s needs sm_%d, and this is sm_%d", what, arch, architecture());
}

// Until the copy is waited for, its place holds nothing that could be meant.
void copy_start(void *shared, const void *global, bool valid) {
    needs(80, "cp.async");
    if ((uintptr_t)shared % 16 || (valid && (uintptr_t)global % 16))
        fault("cp.async: addresses must be multiples of 16");
    if (!is_shared(shared, 16)) fault("cp.async: the destination is not in shared memory");
    memset(shared, 0xff, 16);
    self->copies.push_back({shared, valid ? global : nullptr});
}

void copies_commit() {
    needs(80, "cp.async");
    self->commits.push_back(self->copies.size());
}

void copies_wait(size_t newest) {
    thread &t = *self;
    needs(80, "cp.async");
    if (t.commits.size() <= newest) return;
    const size_t groups = t.commits.size() - newest, count = t.commits[groups - 1];
    for (size_t i = 0; i < count; i++) {
        if (t.copies[i].global)
            memcpy(t.copies[i].shared, t.copies[i].global, 16);
        else
            memset(t.copies[i].shared, 0, 16);
    }
    t.copies.erase(t.copies.begin(), t.copies.begin() + (ptrdiff_t)count);
    t.commits.erase(t.commits.begin(), t.commits.begin() + (ptrdiff_t)groups);
    for (size_t &end : t.commits) end -= count;
}

} // namespace emulator
