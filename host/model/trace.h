// trace.h: PATRAIN_TRACE=NAME measures the operations of one training step, the fifth, or of the fifth generated token:
// NAME-step.txt or NAME-token.txt has a table by operation and shape, NAME-step.json or NAME-token.json the same in
// Chrome's trace format.
#ifndef PA_TRACE_H
#define PA_TRACE_H

#include "host/model/context.h"

// Where PATRAIN_TRACE is set, *ops and *d become a table and a device that pass every call on and note when each
// operation of that step is done; closing that device closes the other. Otherwise they stay.
pa_status pa_trace_wrap(const pa_ops **ops, pa_device **d, const pa_device_info *info, pa_err *err);

#endif
