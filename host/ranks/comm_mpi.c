// comm_mpi.c: see comm_mpi.h. All calls come from the thread that started MPI.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/ranks/comm_mpi.h"

#ifdef PA_WITH_MPI
#include <mpi.h>
#include <sched.h>

static pa_status failed(int peer, int code, pa_err *err) {
    char why[MPI_MAX_ERROR_STRING] = "?";
    int length;
    MPI_Error_string(code, why, &length);
    return pa_rank_lost(peer, why, err);
}

static pa_status mpi_begin(pa_peers *l, int peer, int way, pa_move *m, pa_err *err) {
    MPI_Request request;
    _Static_assert(sizeof request <= sizeof m->request, "a request fits");
    (void)l;
    if (m->left > 1u << 30)
        return pa_error(err, PA_FAIL, "communication: expected messages up to 1 GiB, found one of %zu bytes", m->left);
    int code = way == PA_SEND ? MPI_Isend(m->at, (int)m->left, MPI_BYTE, peer, 0, MPI_COMM_WORLD, &request)
                              : MPI_Irecv(m->at, (int)m->left, MPI_BYTE, peer, 0, MPI_COMM_WORLD, &request);
    memcpy(&m->request, &request, sizeof request);
    return code ? failed(peer, code, err) : PA_OK;
}

static pa_status mpi_advance(pa_peers *l, int peer, int way, pa_move *m, bool *moved, pa_err *err) {
    MPI_Request request;
    int done = 0;
    (void)l;
    (void)way;
    memcpy(&request, &m->request, sizeof request);
    int code = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    memcpy(&m->request, &request, sizeof request);
    if (code) return failed(peer, code, err);
    if (done) {
        m->left = 0;
        *moved = true;
    }
    return PA_OK;
}

// MPI has no call that sleeps until a message arrives.
static void mpi_idle(pa_peers *l, double waited) {
    (void)l;
    if (waited < 1e-3)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void mpi_end(pa_peers *l) {
    (void)l;
    MPI_Finalize();
}

static void mpi_abort(pa_peers *l, int code) {
    (void)l;
    MPI_Abort(MPI_COMM_WORLD, code);
}

pa_status pa_mpi_start(pa_comm *c, double timeout, pa_err *err) {
    static const pa_carrier mpi = {
        .begin = mpi_begin, .advance = mpi_advance, .idle = mpi_idle, .end = mpi_end, .abort = mpi_abort};
    MPI_Comm here;
    int level;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level))
        return pa_error(err, PA_FAIL, "communication: cannot start MPI");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &c->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &c->size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_rank(here, &c->local_rank);
    MPI_Comm_size(here, &c->local_size);
    MPI_Comm_free(&here);
    return pa_comm_carry(c, &mpi, NULL, timeout, err);
}

#else

pa_status pa_mpi_start(pa_comm *c, double timeout, pa_err *err) {
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    (void)c;
    (void)timeout;
    if (!size) size = getenv("PMI_SIZE");
    if (size && atoi(size) == 1) return PA_OK;
    return pa_error(
        err, PA_USAGE,
        "communication: started as one of several ranks, but this build has no MPI (use --rendezvous FILE)");
}

#endif
