// starts.h: records each start of a run as a line of RUN/run.jsonl: program, machine, device, ranks, data, command
// line.
#ifndef PA_STARTS_H
#define PA_STARTS_H

#include "host/base/base.h"
#include "host/model/backend.h"

typedef struct {
    const char *command;   // the command line
    const char *backend;   // "cpu", "cuda"
    pa_hardware device;    // of rank 0
    const char *precision; // as resolved: "bf16"
    int ranks;
    bool deterministic;
    uint32_t corpus; // CRC-32C of the training data
    int64_t step;    // that the run starts or resumes from
} pa_start;

// Appends a line. If the file already has one that differs in what changes rounding (device, instruction set, threads,
// ranks, precision), prints one line about it to `out`.
pa_status pa_starts_add(const char *run, const pa_start *start, FILE *out, pa_err *err);

#endif
