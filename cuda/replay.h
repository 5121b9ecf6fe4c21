// replay.h: steps as CUDA graphs.
#ifndef PA_CUDA_REPLAY_H
#define PA_CUDA_REPLAY_H

#include "cuda/device.h"

// Runs what `work` enqueues. The first time a step runs uncaptured, because kernels are loaded, plans built and timed;
// the second time it is captured as a graph, which runs from then on. A step with sums over ranks is never captured:
// NCCL wants an operation captured on all ranks or on none, and ranks differ in their shapes (nccl.h).
pa_status cuda_replay(pa_device *d, const pa_step *step, pa_status (*work)(void *, pa_err *), void *what, pa_err *err);
void cuda_replay_clear(pa_device *d);

#endif
