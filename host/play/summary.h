// summary.h: what continuations are like, in numbers.
#ifndef PA_SUMMARY_H
#define PA_SUMMARY_H

#include "host/play/output.h"

// Prints a line for the primer and one for each take: notes, pace, range, loudness, and how much it repeats what was
// played before. Of a row's last 65536 notes, but for their number and pace, and runs begin at most PA_LOOK_BACK +
// PA_RUN notes ahead of those: each note costs PA_LOOK_BACK steps (repetition.h).
pa_status pa_summary_print(const pa_output *o, const pa_primer *p, const pa_takes *t, pa_err *err);

#endif
