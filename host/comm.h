// comm.h: ranks of one run. A handful of calls over one process today; the backends see nothing else.
#ifndef PA_COMM_H
#define PA_COMM_H

#include "host/base.h"

typedef struct {
    int rank, size;
} pa_comm;

pa_comm pa_comm_single(void);
// Sums `count` numbers over all ranks, in place, the same on every rank.
pa_status pa_comm_sum_f32(pa_comm *c, float *data, size_t count, pa_err *err);
pa_status pa_comm_sum_f64(pa_comm *c, double *data, size_t count, pa_err *err);

#endif
