// table.h: host/model/ops.h on a CPU.
#ifndef PA_CPU_TABLE_H
#define PA_CPU_TABLE_H

#include "host/model/ops.h"

extern const pa_ops cpu_table;

#endif
