// table.h: host/model/ops.h on a CPU.
#ifndef PA_CPU_TABLE_H
#define PA_CPU_TABLE_H

#include "host/model/ops.h"

// The whole table, with the operations of an instruction set (cpu/ops.h).
pa_ops cpu_table(const pa_ops *isa);

#endif
