// nccl.c: see nccl.h. The communicator does not block: each call is followed until NCCL has taken it, and a rank that
// is gone or silent ends in ncclCommAbort, not in a wait for ever. NCCL is loaded when a run has several ranks, so that
// one GPU needs none.
#include "cuda/nccl.h"

#include "cuda/kernels.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

bool cuda_ranks_wanted(const pa_comm *c) {
    return c->size > 1 || getenv("PATRAIN_NCCL");
}

#ifdef PA_WITH_NCCL
#include <dlfcn.h>
#include <nccl.h>

#define FUNCTIONS(X)                                                                                                   \
    X(ncclGetUniqueId)                                                                                                 \
    X(ncclCommInitRankConfig)                                                                                          \
    X(ncclCommGetAsyncError)                                                                                           \
    X(ncclCommFinalize)                                                                                                \
    X(ncclCommDestroy)                                                                                                 \
    X(ncclCommAbort)                                                                                                   \
    X(ncclGetErrorString)                                                                                              \
    X(ncclGroupStart)                                                                                                  \
    X(ncclGroupEnd)                                                                                                    \
    X(ncclAllReduce)                                                                                                   \
    X(ncclReduceScatter)                                                                                               \
    X(ncclAllGather)                                                                                                   \
    X(ncclBroadcast)

struct cuda_ranks {
    pa_comm *ranks;
    ncclComm_t comm; // NULL: given up
    cudaStream_t side;
    cudaEvent_t computed, summed;
    size_t bucket, at; // the next to sum; where its share goes in `own`
    uint16_t *half;    // (2, bucket) a bucket in bf16, and its sum; NULL: float32
#define POINTER(name) __typeof__(&name) name;
    FUNCTIONS(POINTER)
};

static pa_status load(cuda_ranks *r, pa_err *err) {
#ifdef PA_EMULATOR
#define FIND(name) r->name = name;
    (void)err;
    FUNCTIONS(FIND)
#else
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL), *found;
    if (!library)
        return pa_error(err, PA_FAIL, "NCCL: libnccl.so.2 cannot be loaded, which several GPUs need: %s", dlerror());
#define FIND(name)                                                                                                     \
    if (!(found = dlsym(library, #name))) return pa_error(err, PA_FAIL, "NCCL: %s is not in libnccl.so.2", #name);     \
    memcpy(&r->name, &found, sizeof found);
    FUNCTIONS(FIND)
#endif
    return PA_OK;
}

static pa_status give_up(cuda_ranks *r, pa_err *err, const char *why) {
    if (r->comm) r->ncclCommAbort(r->comm);
    r->comm = NULL;
    return pa_error(err, PA_FAIL, "communication: NCCL: %s; the same command resumes from the last checkpoint", why);
}

static void pause_a_moment(int turn) {
    if (turn > 100) nanosleep(&(struct timespec){.tv_nsec = turn > 10000 ? 1000000 : 20000}, NULL);
}

// Whether the run's timeout has passed. At most a second per call counts, so that time in which this process was
// stopped doesn't.
static bool too_long(const cuda_ranks *r, double *last, double *waited) {
    double now = pa_clock(), passed = now - *last;
    *last = now, *waited += passed < 1 ? passed : 1;
    return *waited > r->ranks->timeout;
}

enum { ANSWER = 10 }; // seconds

// NCCL does not report which rank is awaited. Ranks that time out do so at about the same time, so a few seconds
// suffice to hear of each other.
static pa_status silent(cuda_ranks *r, pa_err *err) {
    char why[PA_COMM_NAMES + 128], names[PA_COMM_NAMES];
    pa_comm_silent(r->ranks, r->ranks->timeout < ANSWER ? r->ranks->timeout : ANSWER, names);
    snprintf(why, sizeof why, "nothing for %g s (train.timeout); %s%s", r->ranks->timeout,
             *names ? "no answer from rank " : "all ranks answer", names);
    return give_up(r, err, why);
}

// Follows a call that may still be under way until it is taken.
static pa_status follow(cuda_ranks *r, ncclResult_t result, pa_err *err) {
    double last = pa_clock(), waited = 0;
    for (int turn = 0; result == ncclInProgress; turn++) {
        if (!r->comm) break;
        ncclResult_t asked = r->ncclCommGetAsyncError(r->comm, &result);
        if (asked) result = asked;
        if (result == ncclInProgress && too_long(r, &last, &waited)) return silent(r, err);
        pause_a_moment(turn);
    }
    return result ? give_up(r, err, r->ncclGetErrorString(result)) : PA_OK;
}

static pa_status begin(cuda_ranks *r, pa_err *err) {
    if (!r->comm) return pa_error(err, PA_FAIL, "communication: NCCL was given up");
    return follow(r, r->ncclGroupStart(), err);
}

pa_status cuda_ranks_create(cuda_ranks **out, pa_comm *c, void *half, pa_err *err) {
    cuda_ranks *r = *out = calloc(1, sizeof *r);
    pa_span *of = calloc((size_t)c->size, sizeof *of);
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (!r || !of) return free(of), pa_error(err, PA_FAIL, "no memory");
    r->ranks = c;
    r->half = half;
    config.blocking = 0;
    pa_status s = load(r, err);
    memset(&id, 0, sizeof id);
    if (!s && !c->rank && r->ncclGetUniqueId(&id)) s = pa_error(err, PA_FAIL, "NCCL: could not make a run's id");
    of[0] = (pa_span){0, sizeof id};
    if (!s) s = pa_comm_gather(c, &id, of, err);
    if (!s) s = follow(r, r->ncclCommInitRankConfig(&r->comm, c->size, id, c->rank, &config), err);
    cudaError_t e = s ? cudaSuccess : cudaStreamCreateWithFlags(&r->side, cudaStreamNonBlocking);
    if (!s && !e) e = cudaEventCreateWithFlags(&r->computed, cudaEventDisableTiming);
    if (!s && !e) e = cudaEventCreateWithFlags(&r->summed, cudaEventDisableTiming);
    if (!s && e) s = pa_error(err, PA_FAIL, "CUDA: %s while making a stream for NCCL", cudaGetErrorString(e));
    free(of);
    return s;
}

void cuda_ranks_destroy(cuda_ranks *r) {
    if (!r) return;
    if (r->comm && !follow(r, r->ncclCommFinalize(r->comm), NULL)) r->ncclCommDestroy(r->comm);
    if (r->side) cudaStreamDestroy(r->side);
    if (r->computed) cudaEventDestroy(r->computed);
    if (r->summed) cudaEventDestroy(r->summed);
    free(r);
}

static pa_status cuda_failed(cudaError_t e, pa_err *err) {
    return e ? pa_error(err, PA_FAIL, "CUDA: %s while gradients were handed to NCCL", cudaGetErrorString(e)) : PA_OK;
}

// A bucket of r->ranks->size shares of `floats` each. to NULL: the sum is everyone's, in place; else this rank's share
// of it goes there.
static pa_status sum_bucket(cuda_ranks *r, float *bucket, float *to, size_t floats, pa_err *err) {
    const size_t all = floats * (size_t)r->ranks->size;
    const ncclDataType_t type = r->half ? ncclBfloat16 : ncclFloat;
    void *from = r->half ? (void *)r->half : bucket;
    void *sum = r->half ? (void *)(r->half + all) : to ? to : bucket;
    if (r->half) cuda_cast_bf16(r->side, from, bucket, all);
    pa_status s = begin(r, err);
    if (s) return s;
    ncclResult_t asked = to ? r->ncclReduceScatter(from, sum, floats, type, ncclSum, r->comm, r->side)
                            : r->ncclAllReduce(from, sum, all, type, ncclSum, r->comm, r->side);
    ncclResult_t ended = r->ncclGroupEnd();
    s = follow(r, asked && asked != ncclInProgress ? asked : ended, err);
    if (!s && r->half) cuda_widen_bf16(r->side, to ? to : bucket, sum, to ? floats : all);
    return s;
}

pa_status cuda_ranks_sum(cuda_ranks *r, cudaStream_t stream, float *grad, float *own, size_t count, size_t from,
                         pa_err *err) {
    size_t buckets = pa_comm_buckets(r->ranks, count), first = r->bucket;
    pa_status s = PA_OK;
    for (; r->bucket < buckets && !s; r->bucket++) {
        pa_span mine = pa_comm_share(r->ranks, count, r->bucket, r->ranks->rank);
        size_t floats = mine.to - mine.from;
        float *begins = grad + mine.from - floats * (size_t)r->ranks->rank;
        if (begins < grad + from) break;
        if (r->bucket == first) {
            cudaError_t e = cudaEventRecord(r->computed, stream);
            if (!e) e = cudaStreamWaitEvent(r->side, r->computed, 0);
            if ((s = cuda_failed(e, err))) return s;
        }
        s = sum_bucket(r, begins, own ? own + r->at : NULL, floats, err);
        r->at += floats;
    }
    return s;
}

pa_status cuda_ranks_join(cuda_ranks *r, cudaStream_t stream, pa_err *err) {
    r->bucket = r->at = 0;
    cudaError_t e = cudaEventRecord(r->summed, r->side);
    if (!e) e = cudaStreamWaitEvent(stream, r->summed, 0);
    return cuda_failed(e, err);
}

pa_status cuda_ranks_gather(cuda_ranks *r, cudaStream_t stream, float *data, size_t count, pa_err *err) {
    size_t buckets = pa_comm_buckets(r->ranks, count);
    ncclResult_t asked = ncclSuccess;
    pa_status s = begin(r, err);
    if (s) return s;
    for (size_t b = 0; b < buckets && (!asked || asked == ncclInProgress); b++) {
        pa_span mine = pa_comm_share(r->ranks, count, b, r->ranks->rank);
        size_t floats = mine.to - mine.from;
        float *own = data + mine.from;
        asked = r->ncclAllGather(own, own - floats * (size_t)r->ranks->rank, floats, ncclFloat, r->comm, stream);
    }
    ncclResult_t ended = r->ncclGroupEnd();
    return follow(r, asked && asked != ncclInProgress ? asked : ended, err);
}

pa_status cuda_ranks_gather_spans(cuda_ranks *r, cudaStream_t stream, float *data, const pa_span *of, pa_err *err) {
    ncclResult_t asked = ncclSuccess;
    pa_status s = begin(r, err);
    if (s) return s;
    for (int rank = 0; rank < r->ranks->size && (!asked || asked == ncclInProgress); rank++) {
        float *at = data + of[rank].from / sizeof *data;
        size_t floats = (of[rank].to - of[rank].from) / sizeof *data;
        if (floats) asked = r->ncclBroadcast(at, at, floats, ncclFloat, rank, r->comm, stream);
    }
    ncclResult_t ended = r->ncclGroupEnd();
    return follow(r, asked && asked != ncclInProgress ? asked : ended, err);
}

pa_status cuda_ranks_sum_f64(cuda_ranks *r, cudaStream_t stream, double *x, pa_err *err) {
    pa_status s = begin(r, err);
    if (s) return s;
    ncclResult_t asked = r->ncclAllReduce(x, x, 1, ncclDouble, ncclSum, r->comm, stream), ended = r->ncclGroupEnd();
    return follow(r, asked && asked != ncclInProgress ? asked : ended, err);
}

pa_status cuda_ranks_wait(cuda_ranks *r, cudaStream_t stream, cudaError_t *status, pa_err *err) {
    double last = pa_clock(), waited = 0;
    for (int turn = 0; (*status = cudaStreamQuery(stream)) == cudaErrorNotReady; turn++) {
        ncclResult_t result = ncclSuccess,
                     asked = r->comm ? r->ncclCommGetAsyncError(r->comm, &result) : ncclInvalidUsage;
        if (asked) result = asked;
        if (result && result != ncclInProgress) return give_up(r, err, r->ncclGetErrorString(result));
        if (too_long(r, &last, &waited)) return silent(r, err);
        cudaGetLastError(); // the runtime keeps that it is not ready for the next who asks
        pause_a_moment(turn);
    }
    return PA_OK;
}

#else

pa_status cuda_ranks_create(cuda_ranks **r, pa_comm *c, void *half, pa_err *err) {
    *r = NULL;
    (void)half;
    return pa_error(err, PA_USAGE, "NCCL: expected a build with it to compute on the GPUs of %d ranks, found none",
                    c->size);
}
void cuda_ranks_destroy(cuda_ranks *r) {
    (void)r;
}
pa_status cuda_ranks_sum(cuda_ranks *r, cudaStream_t stream, float *grad, float *own, size_t count, size_t from,
                         pa_err *err) {
    (void)r, (void)stream, (void)grad, (void)own, (void)count, (void)from, (void)err;
    return PA_FAIL;
}
pa_status cuda_ranks_join(cuda_ranks *r, cudaStream_t stream, pa_err *err) {
    (void)r, (void)stream, (void)err;
    return PA_FAIL;
}
pa_status cuda_ranks_gather(cuda_ranks *r, cudaStream_t stream, float *data, size_t count, pa_err *err) {
    (void)r, (void)stream, (void)data, (void)count, (void)err;
    return PA_FAIL;
}
pa_status cuda_ranks_gather_spans(cuda_ranks *r, cudaStream_t stream, float *data, const pa_span *of, pa_err *err) {
    (void)r, (void)stream, (void)data, (void)of, (void)err;
    return PA_FAIL;
}
pa_status cuda_ranks_sum_f64(cuda_ranks *r, cudaStream_t stream, double *x, pa_err *err) {
    (void)r, (void)stream, (void)x, (void)err;
    return PA_FAIL;
}
pa_status cuda_ranks_wait(cuda_ranks *r, cudaStream_t stream, cudaError_t *status, pa_err *err) {
    (void)r, (void)stream, (void)status, (void)err;
    return PA_FAIL;
}

#endif
