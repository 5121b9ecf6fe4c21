// run_log.h: a run's records of its steps: metrics.jsonl (an object a step and an evaluation), TensorBoard events,
// progress lines.
#ifndef PA_RUNLOG_H
#define PA_RUNLOG_H

#include "host/base/base.h"

typedef struct {
    FILE *out;    // progress lines
    bool opened;  // false: no files (--dry-run)
    int metrics;  // descriptor, appended to
    FILE *events; // NULL: not written
    bool torn;    // the last line of metrics was not written whole
    bool warned;  // that metrics can't be written
} pa_runlog;

typedef struct {
    int64_t step;
    double epoch, loss, lr, grad_norm, tokens_per_s;
    double mfu;          // share of the measured peak, at most 1
    double seconds, eta; // of the step; of the rest of the run, NAN without a limit
    size_t memory;
    bool skipped;
    double loss_bound, norm_bound; // a loss or norm above is a spike; INFINITY: none is
    int64_t spikes;                // in the whole run
    int ranks;                     // 1 also if the ranks' gradients don't go through host/ranks/comm.h
    uint64_t sent;                 // bytes this rank sent in the step
    double waited;                 // seconds this rank waited for others in the step
} pa_step_log;

typedef struct {
    int64_t step;
    double loss, loss_seed, accuracy, seconds;
    bool averages; // and
    double loss_ema;
} pa_eval_log;

// Opens RUN's logs. Drops the metrics of steps after `resumed` (-1: a new run) and of evaluations after `evaluated`,
// which will be repeated, and makes TensorBoard do the same. Reads only the end of metrics.jsonl. Prints which steps
// before `resumed` are missing at its end.
pa_status pa_runlog_open(pa_runlog *l, const char *run, int64_t resumed, int64_t evaluated, pa_err *err);
bool pa_runlog_spike(const pa_step_log *s);
// Writes a step's metrics and, with `show`, its progress line. The run does not depend on its metrics: where they can't
// be written, prints a warning.
void pa_runlog_step(pa_runlog *l, const pa_step_log *s, bool show);
void pa_runlog_eval(pa_runlog *l, const pa_eval_log *e);
void pa_runlog_sync(pa_runlog *l); // metrics to disk, before a checkpoint that stands for their steps
void pa_runlog_close(pa_runlog *l);

void pa_time_text(char out[static 32]); // the time, UTC: "2026-01-31T09:30:00.125Z"

#endif
