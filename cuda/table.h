// table.h: host/model/ops.h on an NVIDIA GPU.
#ifndef PA_CUDA_TABLE_H
#define PA_CUDA_TABLE_H

#include "host/model/ops.h"

extern const pa_ops cuda_table;

#endif
