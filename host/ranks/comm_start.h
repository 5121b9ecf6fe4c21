// comm_start.h: how a process joins the ranks of its run. Apart from comm.h, so that sums need neither MPI nor sockets.
#ifndef PA_COMM_START_H
#define PA_COMM_START_H

#include "host/ranks/comm.h"

typedef struct {
    const char *rendezvous; // file or folder by which ranks started one by one find each other; NULL: mpirun, srun or a
                            // single process
    int rank, world;        // with rendezvous; below 0: $RANK and $WORLD_SIZE, or Slurm's variables
    double timeout;         // seconds that a rank waits for the others
} pa_comm_options;

// Joins the ranks of this run. A process started by itself is rank 0 of 1 and doesn't initialise MPI. Divides a
// machine's cores among its ranks, unless OMP_NUM_THREADS is set. PA_USAGE if mpirun started several processes of a
// build without MPI.
pa_status pa_comm_start(pa_comm *c, const pa_comm_options *o, pa_err *err);

#endif
