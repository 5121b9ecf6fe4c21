// comm.c: the ranks of one run, over MPI where the build has it; alone, every sum is its own result. Knows nothing of what is summed.
#include "host/comm.h"

#include <stdlib.h>
#ifdef PA_WITH_MPI
#include <mpi.h>
#include <omp.h>
#include <unistd.h>
#endif

static bool joined; // MPI runs, and this process is one of several

pa_comm pa_comm_single(void) {
    return (pa_comm){.rank = 0, .size = 1};
}

// What mpirun or srun tells a process it starts: OpenMPI, MPICH and Slurm through PMI, PMIx.
static bool launched(void) {
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_RANK") || getenv("PMIX_RANK");
}

#ifdef PA_WITH_MPI

static void share_cores(void) {
    MPI_Comm node;
    int here = 1, cores = omp_get_num_procs();
    if (getenv("OMP_NUM_THREADS")) return;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &here);
    MPI_Comm_free(&node);
    if (cores < sysconf(_SC_NPROCESSORS_ONLN)) return; // bound to cores of its own already
    omp_set_num_threads(cores / here > 1 ? cores / here : 1);
}

pa_status pa_comm_start(pa_comm *c, pa_err *err) {
    int level;
    *c = pa_comm_single();
    if (!launched()) return PA_OK;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level)) return pa_error(err, PA_FAIL, "communication: MPI could not be started");
    MPI_Comm_rank(MPI_COMM_WORLD, &c->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &c->size);
    joined = true;
    share_cores();
    return PA_OK;
}

void pa_comm_end(pa_comm *c) {
    if (joined) MPI_Finalize();
    joined = false;
    *c = pa_comm_single();
}

void pa_comm_abort(const pa_comm *c, int code) {
    if (joined && c->size > 1) MPI_Abort(MPI_COMM_WORLD, code);
}

static pa_status sum(const pa_comm *c, char *data, size_t count, size_t width, MPI_Datatype type, pa_err *err) {
    enum { most = 1 << 28 }; // MPI counts in int
    if (c->size == 1) return PA_OK;
    if (!joined) return pa_error(err, PA_FAIL, "communication: expected a single process, found a run of %d ranks", c->size);
    for (size_t at = 0; at < count; at += most) {
        int n = (int)(count - at < most ? count - at : most);
        if (MPI_Allreduce(MPI_IN_PLACE, data + at * width, n, type, MPI_SUM, MPI_COMM_WORLD))
            return pa_error(err, PA_FAIL, "communication: a sum over %d ranks failed", c->size);
    }
    return PA_OK;
}

pa_status pa_comm_sum_f32(pa_comm *c, float *data, size_t count, pa_err *err) {
    return sum(c, (char *)data, count, sizeof *data, MPI_FLOAT, err);
}

pa_status pa_comm_sum_f64(pa_comm *c, double *data, size_t count, pa_err *err) {
    return sum(c, (char *)data, count, sizeof *data, MPI_DOUBLE, err);
}

#else

pa_status pa_comm_start(pa_comm *c, pa_err *err) {
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    *c = pa_comm_single();
    if (!size) size = getenv("PMI_SIZE");
    if (launched() && (!size || atoi(size) > 1))
        return pa_error(err, PA_USAGE, "communication: started as one of several ranks, but this build has no MPI");
    return PA_OK;
}

void pa_comm_end(pa_comm *c) {
    joined = false;
    *c = pa_comm_single();
}

void pa_comm_abort(const pa_comm *c, int code) {
    (void)c, (void)code;
}

static pa_status check_single(const pa_comm *c, pa_err *err) {
    if (c->size == 1) return PA_OK;
    return pa_error(err, PA_FAIL, "communication: expected a single process, found a run of %d ranks", c->size);
}

pa_status pa_comm_sum_f32(pa_comm *c, float *data, size_t count, pa_err *err) {
    (void)data, (void)count;
    return check_single(c, err);
}

pa_status pa_comm_sum_f64(pa_comm *c, double *data, size_t count, pa_err *err) {
    (void)data, (void)count;
    return check_single(c, err);
}

#endif
