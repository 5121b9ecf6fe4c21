// appraisal.h: the features of takes, and their order by distance from pianists' playing and from the primer.
#ifndef PA_APPRAISAL_H
#define PA_APPRAISAL_H

#include "host/play/pianists.h"
#include "host/play/takes.h"

typedef struct {
    size_t notes;
    double seconds;
    pa_features features;
    double distance; // pa_pianists_distance
    double part[PA_FEATURES];
    int rank;         // from 1, the nearest; of equals the earlier take
    char remark[600]; // rank and why, and what is outside pianists' range
} pa_appraisal;

typedef struct {
    pa_appraisal *take;
    size_t count;
    bool has_primer;
    pa_appraisal primer; // its last minute; no distance, rank and remark
} pa_appraisals;

// PA_FAIL without memory. Clear it also after a failure.
pa_status pa_appraise(pa_appraisals *a, const pa_primer *p, const pa_takes *t, pa_err *err);
void pa_appraisals_clear(pa_appraisals *a);

#endif
