// trace_report.h: what a trace (trace.h) writes.
#ifndef PA_TRACE_REPORT_H
#define PA_TRACE_REPORT_H

#include "host/base/base.h"

typedef struct {
    const char *name;
    char shape[48];
    double flop, bytes;     // 0: not counted
    double begins, returns; // of the call, by the host's clock
    double done;            // seconds since the first call began
} pa_trace_call;

// Writes NAME-WHAT.txt and NAME-WHAT.json; the calls are sorted afterwards.
pa_status pa_trace_report(const char *name, const char *device, const char *what, pa_trace_call *call, int calls,
                          pa_err *err);

#endif
