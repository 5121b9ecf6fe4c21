// device.cu: which architecture's code the loaded kernels are. Knows nothing of the model.
#include "cuda/device.cuh"

static __global__ void probe_kernel(int *out) {
    *out = 0;
}

int cuda_arch(void) {
    static int arch = 0;
    cudaFuncAttributes a;
    if (arch) return arch;
    if (cudaFuncGetAttributes(&a, probe_kernel)) {
        cudaGetLastError();
        return 0;
    }
    // ptxVersion is the compute capability that the code was compiled for, be it machine code or PTX that the driver
    // compiled.
    return arch = a.ptxVersion >= 90 && a.binaryVersion == 90 ? 90 : a.ptxVersion >= 80 ? 80 : 75;
}
