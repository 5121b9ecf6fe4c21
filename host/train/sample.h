// sample.h: what a run plays while it learns: a continuation of the first validation piece's opening, private to
// host/train.
#ifndef PA_SAMPLE_H
#define PA_SAMPLE_H

#include "host/train/trainer.h"

// Plays by what a checkpoint of this step would hold as the model. Writes samples/step-NNNNNNNN.mid and beside it a
// picture and a sound of 20 s, which TensorBoard gets too. The run does not depend on files: a warning if they can't be
// written.
pa_status pa_sample_write(pa_trainer *t, pa_err *err);
bool pa_sample_exists(const pa_trainer *t); // this step's

#endif
