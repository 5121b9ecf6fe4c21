// gpus.h: which GPUs the emulator has, from PA_EMULATOR_*. For runtime.cpp.
#ifndef PA_EMULATOR_GPUS_H
#define PA_EMULATOR_GPUS_H

#include <cuda_runtime.h>

namespace emulator {

struct gpu_settings {
    uint64_t seed, arch, memory, driver, error, error_at, gpus;
};
extern gpu_settings settings;

bool usable();                     // false without a GPU; else the chosen one has a context from now on
size_t memory();                   // bytes of device memory
int most_shared();                 // bytes a block, where a kernel asks for it
cudaError_t absent();              // why there is no GPU
cudaError_t failed(cudaError_t e); // remembers e for cudaGetLastError and returns it; runtime.cpp

} // namespace emulator

#endif
