// tensorboard.h: scalars, pictures and sounds in TensorBoard event files: TFRecord-framed protobuf messages of a few
// fields, small enough to encode by hand.
#ifndef PA_TENSORBOARD_H
#define PA_TENSORBOARD_H

#include "host/base/base.h"

// Creates events.out.tfevents.SECONDS.patrain.WORD-N in folder; NULL on failure. TensorBoard drops steps from `from` on
// of earlier files.
FILE *pa_tensorboard_open(const char *folder, int64_t from, pa_err *err);
void pa_tensorboard_scalar(FILE *f, int64_t step, const char *tag, float value);

typedef struct {
    const void *bytes;
    size_t count;
    int width, height;
} pa_png;
void pa_tensorboard_image(FILE *f, int64_t step, const char *tag, const pa_png *png);

typedef struct {
    const void *bytes;
    size_t count;
    int rate, frames; // of one channel
} pa_wav;
void pa_tensorboard_audio(FILE *f, int64_t step, const char *tag, const pa_wav *wav);

#endif
