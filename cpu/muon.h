// muon.h: Muon's operations on a CPU, except products: limited by memory on every instruction set, so compiled once.
// And how all optimizers clip.
#ifndef PA_CPU_MUON_H
#define PA_CPU_MUON_H

#include <math.h>

#include "host/model/ops.h"

// What an optimizer multiplies gradients by, clipping included; 0 where their norm is not finite.
static inline float cpu_gradient_scale(const pa_scalars *s, double squares) {
    const double norm = (double)s->grad_scale * sqrt(squares);
    if (!isfinite(norm)) return 0;
    return s->grad_scale * (s->clip > 0 && norm > s->clip ? (float)(s->clip / norm) : 1);
}

void cpu_momentum(pa_device *d, const pa_momentum *a);
void cpu_normalise(pa_device *d, const pa_normalise *a);
void cpu_polynomial(pa_device *d, const pa_polynomial *a);
void cpu_muon(pa_device *d, const pa_muon *a);

#endif
