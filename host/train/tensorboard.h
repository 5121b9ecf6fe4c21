// tensorboard.h: scalars in TensorBoard's event files. Its records are TFRecord-framed protobuf messages of three fields, small enough
// to write by hand. Knows nothing of training.
#ifndef PA_TENSORBOARD_H
#define PA_TENSORBOARD_H

#include "host/base/base.h"

// A new file events.out.tfevents.SECONDS.patrain.PID in folder; NULL and err where it can't be made. TensorBoard no longer shows what
// earlier files have of step `from` and later ones.
FILE *pa_tensorboard_open(const char *folder, int64_t from, pa_err *err);
void pa_tensorboard_scalar(FILE *f, int64_t step, const char *tag, float value);

#endif
