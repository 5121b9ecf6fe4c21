// simd_gemv.h: what cpu/simd_gemv.c gives the table of cpu/simd_ops.c. See host/model/ops.h for what each computes.
#ifndef PA_CPU_SIMD_GEMV_H
#define PA_CPU_SIMD_GEMV_H

#include "cpu/ops.h"

void CPU_ISA(gemv)(pa_device *d, const pa_gemv *a);
void CPU_ISA(gemv_int8)(pa_device *d, const pa_gemv *a);

#endif
