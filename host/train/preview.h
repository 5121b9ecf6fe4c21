// preview.h: what TensorBoard shows of a sample: a small piano roll and a plain sound, without any library, because
// training runs on machines that have none for either. Knows nothing of models and tokens.
#ifndef PA_PREVIEW_H
#define PA_PREVIEW_H

#include "tokenizer/tokens.h"

enum {
    PA_PREVIEW_SECONDS = 20, // at most five of the primer
    PA_PREVIEW_RATE = 22050, // frames a second, one channel of 16 bits
    PA_PREVIEW_FRAMES = PA_PREVIEW_SECONDS * PA_PREVIEW_RATE,
    PA_PREVIEW_WIDTH = 50 * PA_PREVIEW_SECONDS, // px
    PA_PREVIEW_HEIGHT = 2 * 88,
};

typedef struct {
    char *png, *wav;
    size_t png_size, wav_size;
} pa_preview;

// notes: in any order. begins: second where the continuation begins. Clear it also after a failure.
pa_status pa_preview_make(pa_preview *p, const pa_note *notes, size_t count, double begins, pa_err *err);
void pa_preview_clear(pa_preview *p);

#endif
