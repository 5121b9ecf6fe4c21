// cuda_ops.h: the CUDA kernels as a table of operations over host memory, so that the CPU's tests serve them too.
#ifndef PA_TESTS_CUDA_OPS_H
#define PA_TESTS_CUDA_OPS_H

#include "cpu/ops.h"

// Each call copies its operands to the device, runs the kernel, waits, and copies back; it ends the program where CUDA
// reports an error. What its user gives and takes as bf16 is that on the device too; or fp16 there, converted on the
// way (bf16 numbers from 2^-14 to 65280 are fp16 numbers too); or fp16 in truth. Operations that the table lacks are
// NULL.
typedef enum { CUDA_OPS_BF16, CUDA_OPS_CONVERTED, CUDA_OPS_HALF } cuda_ops_half;
const pa_ops *cuda_ops_table(cuda_ops_half half);

#endif
