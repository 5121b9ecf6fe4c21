// tensorboard.h: scalars in TensorBoard event files: TFRecord-framed protobuf messages of three fields, small enough to
// encode by hand.
#ifndef PA_TENSORBOARD_H
#define PA_TENSORBOARD_H

#include "host/base/base.h"

// Creates events.out.tfevents.SECONDS.patrain.WORD-N in folder; NULL on failure. TensorBoard drops steps from `from` on
// of earlier files.
FILE *pa_tensorboard_open(const char *folder, int64_t from, pa_err *err);
void pa_tensorboard_scalar(FILE *f, int64_t step, const char *tag, float value);

#endif
