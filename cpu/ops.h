// ops.h: the operations of host/model/ops.h that are compiled once for each instruction set: plain C; x86-64 with AVX2
// + FMA, AVX-512, AVX-512 + bf16. One table each, chosen once at run time; cpu/table.c adds the rest. Knows nothing of
// files, configuration or training.
//
// Activations are float32 or bf16. The device is not used, and may be NULL. Every operation splits its work over OpenMP
// threads in a way that does not depend on timing: the same thread count gives the same bits. attn_work counts for
// omp_get_max_threads() threads.
#ifndef PA_CPU_OPS_H
#define PA_CPU_OPS_H

#include "host/base/base.h"
#include "host/model/ops.h"

// The best table for this processor, named "avx512_bf16", "avx512", "avx2" or "generic". name: a lesser one, NULL where
// that one is not built or not supported here. Entries that need a device are NULL: cpu/table.c.
const pa_ops *cpu_ops_select(const char *name);
bool cpu_ops_pair_bf16(const pa_ops *isa); // whether it has products of bf16

// Attention and the rest are compiled once an instruction set, each file's functions named by CPU_ISA(name).
#define CPU_PASTE_(a, b) a##_##b
#define CPU_PASTE(a, b) CPU_PASTE_(a, b)
#ifdef PA_ISA
#define CPU_ISA(name) CPU_PASTE(name, PA_ISA)
#endif

#endif
