// nccl.cpp: NCCL of the emulator: collectives of streams as MPI's non-blocking ones, on the ranks that mpirun started.
// A stream whose turn has come begins one and is not done before MPI is. A communicator that does not block answers
// ncclInProgress now and then, as NCCL may. Stricter than NCCL: no collective may be captured (cuda/nccl.h).
#ifdef PA_WITH_MPI
#define OMPI_SKIP_MPICXX
#define MPICH_SKIP_MPICXX
#include <mpi.h>

#include <cuda_bf16.h>
#include <nccl.h>

#include "tests/emulator/emulator.h"

#include <memory>
#include <string.h>

struct ncclComm {
    MPI_Comm mpi;
    int rank, ranks, asked;
    bool single, blocking, failed, aborted, own_mpi;
};

static ncclComm *grouped; // that had a call since the group began
static int group;

static ncclResult_t taken(ncclComm *c) {
    if (group) {
        grouped = c;
        return c->blocking ? ncclSuccess : ncclInProgress;
    }
    return c->blocking || ++c->asked % 3 ? ncclSuccess : ncclInProgress;
}

// `begin` starts the collective, once what it reads is there.
static ncclResult_t collective(ncclComm *c, cudaStream_t stream, const std::function<int(MPI_Request *)> &begin) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (!c || c->aborted) return ncclInvalidArgument;
    if (cudaStreamIsCapturing(stream, &capture) || capture != cudaStreamCaptureStatusNone) return ncclInvalidUsage;
    auto request = std::make_shared<MPI_Request>(MPI_REQUEST_NULL);
    emulator::enqueue(stream, [=] {
        if (!c->aborted && begin(request.get())) c->failed = true;
    });
    emulator::enqueue_waiting(stream, [=] {
        int done = 0;
        if (c->single || c->failed || c->aborted) return true;
        if (MPI_Test(request.get(), &done, MPI_STATUS_IGNORE)) c->failed = true;
        return done || c->failed;
    });
    return taken(c);
}

static MPI_Datatype kind(ncclDataType_t type) {
    return type == ncclDouble ? MPI_DOUBLE : type == ncclBfloat16 ? MPI_UINT16_T : MPI_FLOAT;
}
static size_t width(ncclDataType_t type) {
    return type == ncclDouble ? 8 : type == ncclBfloat16 ? 2 : 4;
}

// Rounds after each sum, as NCCL does.
static void add_bf16(void *in, void *sum, int *count, MPI_Datatype *) {
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)in;
    __nv_bfloat16 *y = (__nv_bfloat16 *)sum;
    for (int i = 0; i < *count; i++) y[i] = __float2bfloat16(__bfloat162float(x[i]) + __bfloat162float(y[i]));
}
static MPI_Op sum_of(ncclDataType_t type) {
    static MPI_Op bf16 = MPI_OP_NULL;
    if (type != ncclBfloat16) return MPI_SUM;
    if (bf16 == MPI_OP_NULL) MPI_Op_create(add_bf16, 1, &bf16);
    return bf16;
}

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 42, sizeof *id);
    return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
    int started = 0, size = 0;
    MPI_Initialized(&started);
    if (id.internal[0] != 42 || id.internal[127] != 42) return ncclInvalidArgument;
    const bool own_mpi = ranks > 1 && !started && !MPI_Init(nullptr, nullptr); // ranks found each other by a file
    if (started || own_mpi) MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (ranks > 1 && size != ranks) return ncclSystemError;
    ncclComm *c = *comm =
        new ncclComm{MPI_COMM_SELF, rank, ranks, 0, ranks == 1, config->blocking != 0, false, false, own_mpi};
    if (!c->single && MPI_Comm_dup(MPI_COMM_WORLD, &c->mpi)) return ncclSystemError;
    return c->blocking ? ncclSuccess : ncclInProgress;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *result) {
    *result = c->failed ? ncclRemoteError : ++c->asked % 3 == 0 ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t c) {
    return taken(c);
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
    if (!c->single) MPI_Comm_free(&c->mpi);
    if (c->own_mpi) MPI_Finalize();
    delete c;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) {
    c->aborted = true; // streams still hold it
    return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclRemoteError ? "remote process exited or there was a network error"
                                     : "an error of the emulator's NCCL";
}
ncclResult_t ncclGroupStart(void) {
    group++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    if (!group) return ncclInvalidUsage;
    ncclComm *c = grouped;
    if (--group) return ncclSuccess;
    grouped = nullptr;
    return c ? taken(c) : ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t c,
                           cudaStream_t stream) {
    return collective(c, stream, [=](MPI_Request *r) {
        if (c->single) return memmove(to, from, count * width(type)), 0;
        return MPI_Iallreduce(from == to ? MPI_IN_PLACE : from, to, (int)count, kind(type), sum_of(type), c->mpi, r);
    });
}
ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t c,
                               cudaStream_t stream) {
    return collective(c, stream, [=](MPI_Request *r) {
        if (c->single) return memmove(to, from, count * width(type)), 0;
        return MPI_Ireduce_scatter_block(from, to, (int)count, kind(type), sum_of(type), c->mpi, r);
    });
}
ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream) {
    const bool in_place = from == (char *)to + (size_t)c->rank * count * width(type);
    return collective(c, stream, [=](MPI_Request *r) {
        if (c->single) return memmove(to, from, count * width(type)), 0;
        return MPI_Iallgather(in_place ? MPI_IN_PLACE : from, (int)count, kind(type), to, (int)count, kind(type),
                              c->mpi, r);
    });
}
ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t c,
                           cudaStream_t stream) {
    return collective(c, stream, [=](MPI_Request *r) {
        if (c->single || c->rank == root) memmove(to, from, count * width(type));
        return c->single ? 0 : MPI_Ibcast(to, (int)count, kind(type), root, c->mpi, r);
    });
}
}
#endif
