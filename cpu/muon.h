// muon.h: Muon's operations beside products on a CPU, which wait for memory on every instruction set.
#ifndef PA_CPU_MUON_H
#define PA_CPU_MUON_H

#include "host/model/ops.h"

void cpu_momentum(pa_device *d, const pa_momentum *a);
void cpu_normalise(pa_device *d, const pa_normalise *a);
void cpu_polynomial(pa_device *d, const pa_polynomial *a);
void cpu_muon(pa_device *d, const pa_muon *a);

#endif
