// simd_norm.h: what cpu/simd_norm.c gives the table of cpu/simd_ops.c. See host/model/ops.h for what each computes.
#ifndef PA_CPU_SIMD_NORM_H
#define PA_CPU_SIMD_NORM_H

#include "cpu/ops.h"

void CPU_ISA(layernorm_fwd)(pa_device *d, const pa_layernorm *a);
void CPU_ISA(layernorm_bwd)(pa_device *d, const pa_layernorm_grads *a);
void CPU_ISA(head_norm_fwd)(pa_device *d, const pa_head_norm *a);
void CPU_ISA(head_norm_bwd)(pa_device *d, const pa_head_norm_grads *a);
size_t CPU_ISA(norm_work)(pa_device *d, int width);
void CPU_ISA(cross_entropy)(pa_device *d, const pa_cross_entropy *a);

#endif
