// copies_report.h: what paeval --copies prints of the stretches that pieces share with a corpus, for people or as JSON
// (docs/metrics.md).
#ifndef PA_COPIES_REPORT_H
#define PA_COPIES_REPORT_H

#include "host/base/base.h"

// pieces and corpus: token files or lists of them.
pa_status pa_copies_report(const char *pieces, const char *corpus, bool json, pa_err *err);

#endif
