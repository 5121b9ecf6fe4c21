// cuda_ops.h: the CUDA kernels as a table of cpu_ops over host memory, so that the CPU's tests serve them too.
#ifndef PA_TESTS_CUDA_OPS_H
#define PA_TESTS_CUDA_OPS_H

#include <stdbool.h>

#include "cpu/ops.h"

// Each call copies its operands to the device, runs the kernel, waits, and copies back; it ends the program where CUDA reports an error.
// half: what the table's user gives and takes as bf16 is fp16 on the device (bf16 numbers from 2^-14 to 65280 are fp16 numbers too).
// Operations that the table lacks are NULL.
const cpu_ops *cuda_ops_table(bool half);

#endif
