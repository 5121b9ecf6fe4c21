// sample.c: see sample.h.
#include "host/train/sample.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/lib/generate.h"
#include "host/play/score.h"
#include "host/train/average.h"
#include "host/train/preview.h"
#include "host/train/tensorboard.h"
#include "tokenizer/encode.h"
#include "tokenizer/write.h"

enum { LENGTH = 1024, PATH = 4096 + 64 }; // tokens

static void sample_path(const pa_trainer *t, const char *end, char *path) {
    snprintf(path, PATH, "%s/samples/step-%08lld.%s", t->run.dir, (long long)t->state.step, end);
}

bool pa_sample_exists(const pa_trainer *t) {
    char path[PATH];
    sample_path(t, "mid", path);
    return !access(path, F_OK);
}

static pa_status write_file(const char *path, const char *bytes, size_t count, pa_err *err) {
    pa_file file;
    pa_status s = pa_file_create(&file, path, err);
    if (s) return s;
    fwrite(bytes, 1, count, file.stream);
    return pa_file_commit(&file, err);
}

static pa_status write_preview(pa_trainer *t, const pa_preview *p, pa_err *err) {
    char path[PATH];
    if (t->log.events) {
        pa_tensorboard_image(t->log.events, t->state.step, "sample/roll",
                             &(pa_png){p->png, p->png_size, PA_PREVIEW_WIDTH, PA_PREVIEW_HEIGHT});
        pa_tensorboard_audio(t->log.events, t->state.step, "sample/sound",
                             &(pa_wav){p->wav, p->wav_size, PA_PREVIEW_RATE, PA_PREVIEW_FRAMES});
    }
    sample_path(t, "png", path);
    pa_status s = write_file(path, p->png, p->png_size, err);
    sample_path(t, "wav", path);
    return s ? s : write_file(path, p->wav, p->wav_size, err);
}

// begins: second where the continuation begins.
static void write_files(pa_trainer *t, const pa_note *notes, size_t count, double begins) {
    char path[PATH];
    pa_err why;
    pa_preview preview;
    pa_status s = pa_preview_make(&preview, notes, count, begins, &why);
    if (!s) s = write_preview(t, &preview, &why);
    pa_preview_clear(&preview);
    if (s) fprintf(t->out, "warning: no picture and sound of the sample: %s\n", why.text);
    sample_path(t, "mid", path); // the last one: a sample without it is written again
    if (pa_midi_write(path, notes, count, &why)) fprintf(t->out, "warning: no sample: %s\n", why.text);
}

static pa_status play(pa_trainer *t, uint16_t *out, size_t primer, pa_err *err) {
    pa_encoding encoding = t->validation.encoding;
    pa_sampling_options o = pa_sampling_default();
    pa_note *notes = NULL;
    size_t generated = 0, count = 0;
    o.seed = (uint64_t)t->state.step;
    o.keys = encoding == PA_PERFORMANCE;
    o.releases = o.steady = true;
    const pa_generation g = {.backend = t->run.backend,
                             .ctx = t->run.ctx,
                             .model = &t->run.config->model,
                             .options = &o,
                             .primer = out,
                             .primer_count = primer,
                             .streams = 1,
                             .length = LENGTH,
                             .out = out + primer,
                             .count = &generated};
    pa_status s = pa_generate(&g, err);
    if (!s) s = pa_decode(out, primer + generated, encoding, &notes, &count, err);
    if (!s) write_files(t, notes, count, pa_token_seconds(out, primer));
    free(notes);
    return s;
}

static pa_status continue_piece(pa_trainer *t, pa_err *err) {
    const pa_token_piece v = pa_token_set_piece(&t->validation, 0);
    const pa_model *m = &t->run.config->model;
    size_t primer = (size_t)v.count;
    pa_status s = PA_OK;
    uint16_t *out = malloc(((size_t)m->context + LENGTH) * sizeof *out);
    if (!out) return pa_error(err, PA_FAIL, "no memory for a sample");
    if (primer > (size_t)m->prefix + 1) primer = (size_t)m->prefix + 1;
    memcpy(out, v.token, primer * sizeof *out);
    if (pa_greatest(out, primer) < PA_VOCAB) s = play(t, out, primer, err); // else the next step will report the file
    free(out);
    return s;
}

pa_status pa_sample_write(pa_trainer *t, pa_err *err) {
    if (!t->run.average) return continue_piece(t, err);
    pa_status s = pa_average_swap(&t->run, err);
    if (!s) s = continue_piece(t, err);
    return s ? s : pa_average_swap(&t->run, err);
}
