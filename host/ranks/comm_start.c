// comm_start.c: see comm_start.h.
#include "host/ranks/comm_start.h"

#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#include "host/ranks/comm_mpi.h"
#include "host/ranks/comm_tcp.h"

// Set by mpirun or srun for each process: Open MPI, MPICH, and Slurm through PMI or PMIx.
static bool launched(void) {
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_RANK") || getenv("PMIX_RANK");
}

static void share_cores(const pa_comm *c) {
    int cores = omp_get_num_procs();
    if (getenv("OMP_NUM_THREADS") || cores < sysconf(_SC_NPROCESSORS_ONLN)) return; // already bound to cores of its own
    omp_set_num_threads(cores / c->local_size > 1 ? cores / c->local_size : 1);
}

pa_status pa_comm_start(pa_comm *c, const pa_comm_options *o, pa_err *err) {
    pa_status s = PA_OK;
    *c = pa_comm_single();
    if (o->rendezvous)
        s = pa_tcp_start(c, o->rendezvous, o->rank, o->world, o->timeout, err);
    else if (launched())
        s = pa_mpi_start(c, o->timeout, err);
    if (!s && c->peers) share_cores(c);
    return s;
}
