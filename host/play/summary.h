// summary.h: what pagen prints of its takes: on stdout a table, or JSON (docs/metrics.md), on stderr a remark a take.
#ifndef PA_SUMMARY_H
#define PA_SUMMARY_H

#include "host/play/appraisal.h"
#include "host/play/output.h"

typedef struct {
    const pa_output *output;
    const pa_appraisals *appraisals;
    const patrain_model_info *model;
    const patrain_options *options; // resolved
    const patrain_sampling *sampling;
    size_t tokens, kept; // generated; of these, in the takes
    double took;         // seconds
} pa_summary;

pa_status pa_summary_print(const pa_summary *x, pa_err *err);
pa_status pa_summary_print_json(const pa_summary *x, pa_err *err);

#endif
