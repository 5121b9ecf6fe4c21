// device.h: the twins of device.cuh's PTX, after the fragment layouts of the PTX manual ("Matrix multiply-accumulate
// operation using mma instruction", "ldmatrix", "cp.async", "griddepcontrol"). Included by cuda/device.cuh only.
#ifndef PA_EMULATOR_DEVICE_H
#define PA_EMULATOR_DEVICE_H

#define PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emulator {
struct product {
    float *d;
    const uint32_t *a, *b;
};
struct matrix_rows {
    const void *row;
    uint32_t *out;
};
extern const point at_mma_f16_k16, at_mma_bf16_k16, at_mma_f16_k8, at_ldmatrix_x4, at_ldmatrix_x4_trans, at_ldmatrix_x2,
    at_ldmatrix_x2_trans;
template <typename T> inline const point *mma_k16;
template <> inline const point *mma_k16<__half> = &at_mma_f16_k16;
template <> inline const point *mma_k16<__nv_bfloat16> = &at_mma_bf16_k16;
void copy_start(void *shared, const void *global, bool valid);
void copies_commit();
void needs(int arch, const char *what); // ends the program where the emulated GPU is older
} // namespace emulator

// Kernels run one after another here, so what one reads too early goes unseen; that each thread awaits the others does
// not.
inline void cuda_await_earlier() {
    emulator::self->awaited = true;
}
inline void cuda_let_next_start() {}

inline float cuda_exp2(float x) {
    float y = exp2f(x);
    return fabsf(y) < 0x1p-126f ? 0.0f : y;
}

inline float cuda_reciprocal(float x) {
    return 1 / x;
}

template <typename T> void cuda_mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2], PLACE) {
    emulator::product p = {d, a, b};
    emulator::needs(80, "mma.m16n8k16");
    emulator::meet_warp(*emulator::mma_k16<T>, 0xffffffffu, &p, file, line);
}
inline void cuda_mma_m16n8k8(float d[4], const uint32_t a[2], uint32_t b, PLACE) {
    emulator::product p = {d, a, &b};
    emulator::meet_warp(emulator::at_mma_f16_k8, 0xffffffffu, &p, file, line);
}

#define LDMATRIX(name, count)                                                                                          \
    inline void cuda_##name(uint32_t r[count], const void *row, PLACE) {                                               \
        emulator::matrix_rows m = {row, r};                                                                            \
        emulator::meet_warp(emulator::at_##name, 0xffffffffu, &m, file, line);                                         \
    }
LDMATRIX(ldmatrix_x4, 4)
LDMATRIX(ldmatrix_x4_trans, 4)
LDMATRIX(ldmatrix_x2, 2)
LDMATRIX(ldmatrix_x2_trans, 2)
#undef LDMATRIX

inline void cuda_cp_async_16(void *shared, const void *global, bool valid) {
    emulator::copy_start(shared, global, valid);
}
inline void cuda_cp_async_commit() {
    emulator::copies_commit();
}
template <int N> void cuda_cp_async_wait() {
    emulator::copies_wait(N);
}

#undef PLACE
#endif
