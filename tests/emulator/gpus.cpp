// gpus.cpp: see gpus.h: the calls of the runtime that ask which GPUs there are, and the names of errors.
//
//   PA_EMULATOR_GPUS      how many GPUs there are; default 1. They differ in nothing but their number
//   PA_EMULATOR_SEED      order of threads and of streams' work; default 1; 0: the natural order, at once
//   PA_EMULATOR_SM        75, 80 (default) or 90: which GPU this is; 0: none
//   PA_EMULATOR_MEMORY    bytes of device memory; default 16e9
//   PA_EMULATOR_DRIVER    newest CUDA that the driver knows, 12040 for 12.4; default this build's; 0: no driver
//   PA_EMULATOR_ERROR     C@N: the N-th wait for a stream, and whatever follows it, fails with error code C
#include "tests/emulator/gpus.h"
#include "tests/emulator/emulator.h"

#include <stdio.h>
#include <stdlib.h>

namespace emulator {

gpu_settings settings;

static uint64_t setting(const char *name, uint64_t otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 10) : otherwise;
}
void read_settings() {
    settings.seed = setting("PA_EMULATOR_SEED", 1);
    settings.arch = setting("PA_EMULATOR_SM", 80);
    settings.gpus = setting("PA_EMULATOR_GPUS", 1);
    settings.memory = setting("PA_EMULATOR_MEMORY", 16000000000u);
    settings.driver = setting("PA_EMULATOR_DRIVER", CUDART_VERSION);
    const char *error = getenv("PA_EMULATOR_ERROR"), *at = error ? strchr(error, '@') : nullptr;
    settings.error = setting("PA_EMULATOR_ERROR", 0);
    settings.error_at = at ? strtoull(at + 1, nullptr, 10) : 0;
}
static const bool settings_were_read = (read_settings(), true);
int architecture() {
    return settings.driver < CUDART_VERSION ? 0 : (int)settings.arch;
}
uint64_t seed() {
    return settings.seed;
}
// A process computes on one GPU, which it has to choose before anything makes a context, as the calls do that begin
// with this.
static int chosen, context_on = -1;
bool usable() {
    if (architecture() && context_on < 0) context_on = chosen;
    return architecture() != 0;
}
size_t memory() {
    return settings.memory;
}

cudaError_t absent() {
    return settings.driver < CUDART_VERSION ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
}

int most_shared() {
    return architecture() >= 90 ? 227 << 10 : architecture() >= 80 ? 163 << 10 : 64 << 10;
}

} // namespace emulator

using namespace emulator;

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
};

extern "C" {

const char *cudaGetErrorName(cudaError_t e) {
    for (const auto &row : errors)
        if (row.code == e) return row.name;
    return "unrecognized error code";
}
const char *cudaGetErrorString(cudaError_t e) {
    for (const auto &row : errors)
        if (row.code == e) return row.text;
    return "unrecognized error code";
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = (int)settings.driver;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count) {
    *count = architecture() ? (int)settings.gpus : 0;
    return architecture() ? cudaSuccess : failed(absent());
}
cudaError_t cudaGetDevice(int *device_number) {
    *device_number = chosen;
    return architecture() ? cudaSuccess : failed(absent());
}
cudaError_t cudaSetDevice(int device_number) {
    if (!architecture()) return failed(absent());
    if (device_number < 0 || device_number >= (int)settings.gpus) return failed(cudaErrorInvalidDevice);
    if (context_on >= 0 && context_on != device_number)
        return failed(cudaErrorIllegalState); // a GPU does that, and has two contexts
    chosen = device_number;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device_number) {
    if (!architecture()) return failed(absent());
    if (device_number < 0 || device_number >= (int)settings.gpus) return failed(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated sm_%d", architecture());
    p->major = architecture() / 10, p->minor = architecture() % 10;
    p->totalGlobalMem = memory(), p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = (size_t)most_shared();
    p->sharedMemPerMultiprocessor = (size_t)most_shared() + (architecture() >= 80 ? 1024 : 0);
    p->multiProcessorCount = 4, p->warpSize = 32, p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
    p->regsPerBlock = 65536, p->l2CacheSize = 4 << 20;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr a, int device_number) {
    cudaDeviceProp p;
    const cudaError_t e = cudaGetDeviceProperties(&p, device_number);
    if (e) return e;
    switch (a) {
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = most_shared();
        break;
    default:
        return failed(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
}
