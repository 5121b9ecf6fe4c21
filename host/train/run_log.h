// run_log.h: what a run says of itself: metrics.jsonl (an object a step and an evaluation), TensorBoard events, lines on stderr.
#ifndef PA_RUNLOG_H
#define PA_RUNLOG_H

#include "host/base/base.h"

typedef struct {
    FILE *metrics, *events; // NULL: not written (--dry-run)
} pa_runlog;

typedef struct {
    int64_t step;
    double epoch, loss, lr, grad_norm, tokens_per_s, mfu, seconds, eta;
    size_t memory;
    bool skipped;
    double loss_bound, norm_bound; // beyond these they are spikes; infinite: none
    int64_t spikes;                // in all
    int ranks;                     // of several whose gradients host/ranks/comm.h sums, of this one's step:
    uint64_t sent;                 // bytes to the others
    double waited;                 // seconds for them, with nothing else to do
} pa_step_log;

// Opens RUN's logs. Metrics of steps after `resumed` and of evaluations after `evaluated` (written after the checkpoint that the run goes
// on from, and made again; -1: it starts) are taken out. TensorBoard, whose files only grow, is told where the run goes on.
pa_status pa_runlog_open(pa_runlog *l, const char *run, int64_t resumed, int64_t evaluated, pa_err *err);
bool pa_runlog_spike(const pa_step_log *s);
// Writes a step's metrics, and the line on stderr where `show`.
pa_status pa_runlog_step(pa_runlog *l, const pa_step_log *s, bool show, pa_err *err);
pa_status pa_runlog_eval(pa_runlog *l, int64_t step, double loss, double loss_seed, double accuracy, double seconds, pa_err *err);
void pa_runlog_close(pa_runlog *l);

#endif
