// comm.h: ranks of one run: one process alone, or as many as mpirun or srun started. The backends see nothing else of them.
#ifndef PA_COMM_H
#define PA_COMM_H

#include "host/base.h"

typedef struct {
    int rank, size;
} pa_comm;

pa_comm pa_comm_single(void);
// Joins the ranks of this run. A process that was started alone is rank 0 of 1, and MPI is not touched. Without OMP_NUM_THREADS the cores
// of a node are divided among its ranks. PA_USAGE where this build has no MPI and was started as one of several.
pa_status pa_comm_start(pa_comm *c, pa_err *err);
// Leaves them, after all have come here.
void pa_comm_end(pa_comm *c);
// Ends every rank of a run of several at once with exit code `code`; returns only where the process is alone.
void pa_comm_abort(const pa_comm *c, int code);
// Sums `count` numbers over all ranks, in place, the same on every rank. Same ranks, same bits.
pa_status pa_comm_sum_f32(pa_comm *c, float *data, size_t count, pa_err *err);
pa_status pa_comm_sum_f64(pa_comm *c, double *data, size_t count, pa_err *err);

#endif
