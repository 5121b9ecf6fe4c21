// vectors.h: CUDA's built-in vector types, for a host compiler.
#ifndef PA_EMULATOR_VECTORS_H
#define PA_EMULATOR_VECTORS_H

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define VECTORS(T, name, align2, align4)                                                                               \
    struct alignas(align2) name##2 {                                                                                   \
        T x, y;                                                                                                        \
    };                                                                                                                 \
    struct name##3 {                                                                                                   \
        T x, y, z;                                                                                                     \
    };                                                                                                                 \
    struct alignas(align4) name##4 {                                                                                   \
        T x, y, z, w;                                                                                                  \
    };                                                                                                                 \
    inline name##2 make_##name##2(T x, T y) {                                                                          \
        return {x, y};                                                                                                 \
    }                                                                                                                  \
    inline name##4 make_##name##4(T x, T y, T z, T w) {                                                                \
        return {x, y, z, w};                                                                                           \
    }
VECTORS(float, float, 8, 16)
VECTORS(int, int, 8, 16)
VECTORS(unsigned, uint, 8, 16)
VECTORS(unsigned short, ushort, 4, 8)
VECTORS(unsigned char, uchar, 2, 4)
#undef VECTORS
struct alignas(16) double2 {
    double x, y;
};

#endif
