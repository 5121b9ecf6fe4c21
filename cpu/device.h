// device.h: what a CPU context keeps for its operations. Private to cpu/.
#ifndef PA_CPU_DEVICE_H
#define PA_CPU_DEVICE_H

#include "cpu/matmul.h"
#include "cpu/ops.h"
#include "host/model/backend.h"
#include "host/model/ops.h"

struct pa_device {
    const pa_ops *isa; // operations of the instruction set that was chosen
    pa_ops table;      // all of them
    cpu_matmul *mm;
    size_t row, matrix; // numbers of the longest row and the largest matrix of a product
    pa_comm *comm;
    bool summing; // gradients are being summed over ranks
    size_t final; // then: gradients from here on are final
    pa_type type; // of activations
    double peak;
};

#endif
