// library.c: see library.h.
#include "tests/support/library.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "host/files/config.h"
#include "host/files/safetensors_write.h"
#include "host/files/weights.h"
#include "tests/support/fixture.h"

void library_ok(patrain_status status, const patrain_error *error) {
    if (status) fail_msg("status %d: %s", (int)status, error->text);
}

void library_refused(patrain_status found, const patrain_error *error, patrain_status status, const char *text) {
    assert_int_equal(found, status);
    assert_int_equal(error->status, status);
    assert_string_equal(error->text, text);
}

// A model of random weights, large enough to prefer some tokens.
void library_put_model(const char *path, const char *encoding) {
    fixture f;
    pa_model m = fixture_model();
    pa_err err;
    pa_tensor tensor[64];
    m.vocab = PA_VOCAB;
    m.lags = 1;
    m.keyboard = m.value_emb = true;
    fixture_init(&f, &m, 7);
    float *w = malloc(f.params.floats * sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < f.params.floats; i++) w[i] = (float)f.w[i];
    for (int t = 0; t < f.params.count; t++) {
        const pa_param *row = &f.params.row[t];
        tensor[t] = (pa_tensor){.name = row->name,
                                .dtype = PA_F32,
                                .rank = row->rank,
                                .shape = {row->shape[0], row->shape[1]},
                                .data = w + row->offset,
                                .bytes = row->size * 4};
    }
    char *text = pa_config_model_text(&m);
    const pa_meta meta[] = {
        {"format", "patrain-checkpoint-1"}, {"model", text}, {"encoding", encoding}, {"step", "17"}};
    fixture_ok(pa_st_write(path, tensor, (size_t)f.params.count, meta, 4, &err), &err);
    free(text);
    free(w);
    fixture_clear(&f);
}

const char *library_device(void) {
    const char *name = getenv("PA_DEVICE");
    return name ? name : "cpu";
}

patrain_options library_options(void) {
    return (patrain_options){.size = sizeof(patrain_options), .device = library_device(), .precision = "fp32"};
}

patrain_sampling library_sampling(void) {
    patrain_sampling s;
    patrain_sampling_default(&s, sizeof s);
    return s;
}

library_player library_open_some(const char *path, const char *encoding, int sequences, int batch) {
    library_player p;
    patrain_error error;
    patrain_options o = library_options();
    o.sequences = sequences;
    o.batch = batch;
    library_put_model(path, encoding);
    library_ok(patrain_model_open(&p.model, path, NULL, &error), &error);
    library_ok(patrain_stream_open(&p.stream, p.model, &o, &error), &error);
    library_ok(patrain_scorer_open(&p.scorer, p.model, &o, &error), &error);
    return p;
}

library_player library_open(const char *path, const char *encoding) {
    return library_open_some(path, encoding, 0, 0);
}

void library_close(library_player p) {
    patrain_stream_close(p.stream);
    patrain_scorer_close(p.scorer);
    patrain_model_close(p.model);
}
