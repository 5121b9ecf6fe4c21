// simd_norm.h: what cpu/simd_norm.c gives the table of cpu/simd_ops.c. See cpu/ops.h for what each computes.
#ifndef PA_CPU_SIMD_NORM_H
#define PA_CPU_SIMD_NORM_H

#include "cpu/ops.h"

void CPU_ISA(layernorm_fwd)(pa_type type, float *z, void *y, float *mean, float *rstd, const float *x, const float *r, const float *bias,
                            const float *w, const float *b, int rows, int C);
void CPU_ISA(layernorm_bwd)(pa_type type, float *dx, void *dx_copy, float *dw, float *db, const void *dy, const float *x, const float *mean,
                            const float *rstd, const float *w, int rows, int C, float *work);
void CPU_ISA(head_norm_fwd)(pa_type type, void *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D);
void CPU_ISA(head_norm_bwd)(pa_type type, void *dy, ptrdiff_t ld_dy, float *dw, const void *x, ptrdiff_t ld_x, const float *rstd,
                            const float *w, int rows, int H, int D, float *work);
void CPU_ISA(cross_entropy)(pa_type type, void *dlogits, float *nats, uint16_t *best, const float *logits, const uint16_t *target,
                            float scale, float z_loss, int rows, int V);

#endif
