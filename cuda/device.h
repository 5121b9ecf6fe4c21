// device.h: what a CUDA context keeps for its operations: streams, graphs, slots. Private to cuda/.
#ifndef PA_CUDA_DEVICE_H
#define PA_CUDA_DEVICE_H

#include "cuda/attend.h"
#include "cuda/kernels.h"
#include "cuda/matmul.h"
#include "cuda/nccl.h"
#include "host/model/backend.h"
#include "host/model/ops.h"

// A captured step, replayed when it comes again.
typedef struct {
    pa_step step;
    bool seen;
    cudaGraphExec_t run; // NULL: not captured yet
} cuda_graph;
enum { CUDA_DECAYS = 1, CUDA_LINEAR = 2 };               // flags of parameters, as pa_param has them
enum { CUDA_SHAPES = 6, CUDA_GRAPHS = CUDA_SHAPES + 2 }; // shapes of gradients; an update's and a decoding step's

struct pa_device {
    cudaStream_t stream, copies;
    struct {
        cudaEvent_t sent, taken;
    } slot[2];
    cuda_graph graph[CUDA_GRAPHS];
    int graphs, shapes;
    cuda_matmul *mm;
    cuda_attend *attend; // NULL: our kernels only
    cuda_ranks *ranks;   // NULL: no others
    pa_comm *comm;
    bool wants_ranks, deterministic, sum_bf16;
    const pa_params *params;
    size_t flag_bytes;
    uint8_t *flags; // one for each 16 parameters
    pa_status missing;
    pa_err absent;
    float *grad, *own; // being summed over ranks
    size_t count;
    pa_type type;
    double peak;
    cudaEvent_t *mark; // of a trace
    int marks;
};

// PA_OK, or an error that says what failed, where, and that nothing saved is lost.
pa_status cuda_check(cudaError_t status, const char *what, pa_err *err);
// Waits for the stream; reports faults of launches too.
pa_status cuda_wait(pa_device *d, const char *what, pa_err *err);

#endif
