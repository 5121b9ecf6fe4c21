// ops.c: chooses the operations for this processor.
#include "cpu/ops.h"

#include <string.h>

extern const pa_ops cpu_ops_generic;
#ifdef PA_X86
extern const pa_ops cpu_ops_avx2, cpu_ops_avx512, cpu_ops_avx512_bf16;
#endif

const pa_ops *cpu_ops_select(const char *name) {
    const pa_ops *table[4];
    int count = 0;
#ifdef PA_X86
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) table[count++] = &cpu_ops_avx512_bf16;
    if (avx512) table[count++] = &cpu_ops_avx512;
    if (avx2) table[count++] = &cpu_ops_avx2;
#endif
    table[count++] = &cpu_ops_generic;
    for (int i = 0; i < count; i++)
        if (!name || !strcmp(name, table[i]->name)) return table[i];
    return NULL;
}

bool cpu_ops_pair_bf16(const pa_ops *isa) {
#ifdef PA_X86
    return isa == &cpu_ops_avx512_bf16;
#else
    (void)isa;
    return false;
#endif
}
