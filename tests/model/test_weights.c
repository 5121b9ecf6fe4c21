// test_weights.c: files of weights: ours with our metadata, and those that perceiver_ar_pytorch's users write, under their names and
// wrappers; and how each that does not fit is refused.
#include "host/files/safetensors_write.h"
#include "host/files/weights.h"
#include "host/train/checkpoint.h"

#include <math.h>

#include "tests/support/fixture.h"
#include "tests/support/scratch.h"

enum { MOST_ROWS = 64 };

// The tensors of a small model, to be changed one by one before they are written.
typedef struct {
    pa_model model;
    pa_params params;
    int count;
    char name[MOST_ROWS][96];
    pa_tensor tensor[MOST_ROWS];
    float *data;
} draft;

static void begin(draft *d) {
    pa_err err;
    *d = (draft){.model = fixture_model()};
    fixture_ok(pa_params_init(&d->params, &d->model, &err), &err);
    d->data = calloc(d->params.floats, sizeof *d->data);
    assert_non_null(d->data);
    for (int t = 0; t < d->params.count; t++) {
        const pa_param *row = &d->params.row[t];
        float *at = d->data + row->offset;
        for (size_t i = 0; i < row->size; i++) at[i] = (float)(row->offset + i);
        snprintf(d->name[t], sizeof d->name[t], "%s", row->name);
        d->tensor[t] = (pa_tensor){d->name[t], PA_F32, row->rank, {row->shape[0], row->shape[1]}, at, row->size * 4};
    }
    d->count = d->params.count;
}

static void end(draft *d) {
    pa_params_clear(&d->params);
    free(d->data);
}

// As safetensors.torch writes it; as a checkpoint of ours with `own`.
static void put(const draft *d, const char *name, bool own) {
    pa_err err;
    char *text = pa_config_model_text(&d->model);
    pa_meta torch[] = {{"format", "pt"}};
    pa_meta ours[] = {{"format", "patrain-checkpoint-1"}, {"model", text}, {"encoding", "midi-neural"}, {"step", "17"}};
    fixture_ok(pa_st_write(scratch(name), d->tensor, (size_t)d->count, own ? ours : torch, own ? 4 : 1, &err), &err);
    free(text);
}

// An INI file of this model's settings.
static const char *put_config(const pa_model *m, const char *name) {
    static char path[SCRATCH_PATH];
    char *text = pa_config_model_text(m);
    scratch_put(name, text);
    free(text);
    snprintf(path, sizeof path, "%s", scratch(name));
    return path;
}

static void expect_loaded(const draft *d, const pa_weights *w) {
    const pa_backend *be = fixture_backend();
    pa_comm alone = pa_comm_single();
    pa_err err;
    pa_context *c;
    fixture_ok(be->open(&c, &(pa_open){.params = &d->params, .max_batch = 1, .comm = &alone}, &err), &err);
    fixture_ok(pa_weights_load(w, &d->params, be, c, &err), &err);
    double *have = fixture_read(be, c, &d->params, PA_PARAM);
    for (int t = 0; t < d->params.count; t++)
        for (size_t i = d->params.row[t].offset; i < d->params.row[t].offset + d->params.row[t].size; i++)
            assert_true(have[i] == (double)d->data[i]);
    free(have);
    be->close(c);
}

static void refuse(const char *from, const char *config, const pa_model *m, pa_status status, const char *message) {
    pa_weights w;
    pa_err err = {""};
    char expected[1024];
    assert_int_equal(pa_weights_open(&w, from, config, m, &err), status);
    assert_null(w.file);
    snprintf(expected, sizeof expected, "%s%s", *message == ':' ? from : "", message);
    assert_string_equal(err.text, expected);
}

// ---- ours

static void ours_says_all_of_itself(void **state) {
    (void)state;
    draft d;
    pa_weights w;
    pa_err err;
    begin(&d);
    put(&d, "model.safetensors", true);
    const char *const from[] = {"model.safetensors", "."}; // the file, and the checkpoint directory around it
    for (int i = 0; i < 2; i++) {
        fixture_ok(pa_weights_open(&w, scratch(from[i]), NULL, NULL, &err), &err);
        assert_true(!w.foreign && w.step == 17 && w.encoding == PA_MIDI_NEURAL);
        fixture_ok(pa_config_same_model(&w.model, &d.model, &err), &err);
        expect_loaded(&d, &w);
        pa_weights_close(&w);
    }
    const char *config = put_config(&d.model, "same.ini");
    fixture_ok(pa_weights_open(&w, scratch("model.safetensors"), config, &d.model, &err), &err);
    pa_weights_close(&w);
    end(&d);
}

static void a_run_directory_means_its_best_or_latest(void **state) {
    (void)state;
    draft d;
    pa_weights w;
    pa_err err;
    begin(&d);
    const char *const folder[] = {"run/latest", "run/best"};
    for (int i = 0; i < 2; i++) {
        char name[64];
        fixture_ok(pa_make_dirs(scratch(folder[i]), &err), &err);
        snprintf(name, sizeof name, "%s/model.safetensors", folder[i]);
        put(&d, name, true);
        fixture_ok(pa_weights_open(&w, scratch("run"), NULL, NULL, &err), &err);
        assert_non_null(strstr(w.path, i ? "/best/" : "/latest/"));
        pa_weights_close(&w);
    }
    end(&d);
}

static void what_is_given_must_agree(void **state) {
    (void)state;
    draft d;
    char from[SCRATCH_PATH];
    begin(&d);
    put(&d, "model.safetensors", true);
    snprintf(from, sizeof from, "%s", scratch("model.safetensors"));
    pa_model other = d.model;
    other.depth = 3;
    refuse(from, NULL, &other, PA_USAGE, "model.depth: checkpoint 2, configuration 3");
    refuse(from, put_config(&other, "other.ini"), NULL, PA_USAGE, "model.depth: checkpoint 2, configuration 3");
    end(&d);
}

static void no_model_is_said(void **state) {
    (void)state;
    char from[SCRATCH_PATH];
    snprintf(from, sizeof from, "%s", scratch("none"));
    refuse(from, NULL, NULL, PA_USAGE, ": expected a model file, a checkpoint or a run directory, found nothing there");
    refuse(scratch_folder, NULL, NULL, PA_USAGE, ": expected a run directory or a checkpoint, found no checkpoint in it");
    snprintf(from, sizeof from, "%s", scratch("a.mid"));
    scratch_put("a.mid", "MThd\n");
    refuse(from, NULL, NULL, PA_DATA, ": expected a safetensors file of at least 8 bytes, found 5");
    scratch_put("a.mid", "MThd\n\x1b[2J");
    refuse(from, NULL, NULL, PA_DATA, ": expected a safetensors file, found one that begins with \"MThd\\x0a\\x1b[2J\"");
}

static void damaged_metadata_is_refused(void **state) {
    (void)state;
    const struct {
        pa_meta meta[3];
        const char *message;
    } kase[] = {
        {{{"format", "patrain-checkpoint-9"}}, ": expected format patrain-checkpoint-1, found patrain-checkpoint-9"},
        {{{"format", "patrain-checkpoint-1"}}, ": expected metadata model and encoding, found no model"},
        {{{"format", "patrain-checkpoint-1"}, {"model", "[model]"}}, ": expected metadata model and encoding, found no encoding"},
        {{{"format", "patrain-checkpoint-1"}, {"model", "[model]\ndim = 0"}, {"encoding", "performance"}},
         ":2: model.dim: expected a whole number from 1 to 65536, found \"0\""},
    };
    for (size_t i = 0; i < sizeof kase / sizeof *kase; i++) {
        char from[SCRATCH_PATH];
        size_t count = 0;
        while (count < 3 && kase[i].meta[count].key) count++;
        snprintf(from, sizeof from, "%s", scratch("model.safetensors"));
        fixture_ok(pa_st_write(from, NULL, 0, kase[i].meta, count, NULL), &(pa_err){""});
        refuse(from, NULL, NULL, PA_DATA, kase[i].message);
    }
}

// ---- theirs

static void wrappers_are_taken_off_names(void **state) {
    (void)state;
    const char *const wrapper[] = {"", "module.", "net.", "module.net.", "net.module."};
    static const float frequencies[16] = {1};
    for (size_t i = 0; i < sizeof wrapper / sizeof *wrapper; i++) {
        draft d;
        pa_weights w;
        pa_err err;
        begin(&d);
        for (int t = 0; t < d.count; t++) snprintf(d.name[t], sizeof d.name[t], "%s%s", wrapper[i], d.params.row[t].name);
        snprintf(d.name[d.count], sizeof d.name[0], "%srotary_pos_emb.inv_freq", wrapper[i]); // a buffer of theirs; we compute it
        d.tensor[d.count] = (pa_tensor){d.name[d.count], PA_F32, 1, {16}, frequencies, 64};
        d.count++;
        put(&d, "theirs.safetensors", false);
        for (int by_model = 0; by_model < 2; by_model++) {
            const char *config = by_model ? NULL : put_config(&d.model, "theirs.ini");
            fixture_ok(pa_weights_open(&w, scratch("theirs.safetensors"), config, by_model ? &d.model : NULL, &err), &err);
            assert_true(w.foreign && w.step == 0 && w.encoding == PA_PERFORMANCE);
            fixture_ok(pa_config_same_model(&w.model, &d.model, &err), &err);
            expect_loaded(&d, &w);
            pa_weights_close(&w);
        }
        end(&d);
    }
}

static void theirs_need_settings(void **state) {
    (void)state;
    draft d;
    char from[SCRATCH_PATH], config[SCRATCH_PATH], message[SCRATCH_PATH + 128];
    begin(&d);
    put(&d, "theirs.safetensors", false);
    snprintf(from, sizeof from, "%s", scratch("theirs.safetensors"));
    refuse(from, NULL, NULL, PA_USAGE, ": has no settings of its own; expected --config FILE.ini, whose [model] describes it");
    snprintf(config, sizeof config, "%s", scratch("none.ini"));
    snprintf(message, sizeof message, "%s: expected a file that can be read, found: No such file or directory", config);
    refuse(from, config, NULL, PA_USAGE, message);
    end(&d);
}

static void add_one(draft *d) {
    static const float x[2] = {0, 0};
    d->tensor[d->count++] = (pa_tensor){"layers.2.0.norm.weight", PA_F32, 1, {2}, x, 8};
}
static void take_one(draft *d) {
    d->tensor[5] = d->tensor[--d->count]; // to_out.weight
}
static void transpose_one(draft *d) {
    d->tensor[0].shape[0] = 16, d->tensor[0].shape[1] = 40;
}
static void flatten_one(draft *d) {
    d->tensor[1].rank = 1, d->tensor[1].shape[0] = 24 * 16;
}
static void lengthen_a_vector(draft *d) {
    d->tensor[2].shape[0] = 8, d->tensor[2].bytes = 32;
}
static void halve_one(draft *d) {
    d->tensor[0].dtype = PA_BF16, d->tensor[0].bytes /= 2;
}
static void name_twice(draft *d) { // with and without a wrapper: which of the two is meant?
    snprintf(d->name[d->count], sizeof d->name[0], "module.%.80s", d->name[0]);
    d->tensor[d->count] = d->tensor[0], d->tensor[d->count].name = d->name[d->count];
    d->count++;
}

static void each_tensor_must_be_there_once_with_its_shape(void **state) {
    (void)state;
    const struct {
        void (*change)(draft *d);
        const char *message;
    } kase[] = {
        {add_one, ": expected only this model's tensors, found layers.2.0.norm.weight"},
        {take_one, ": expected a tensor perceive_layers.0.0.context_norm.bias, found none"},
        {transpose_one, ": token_emb.weight: expected shape (40, 16), found (16, 40)"},
        {flatten_one, ": pos_emb.weight: expected shape (24, 16), found (384)"},
        {lengthen_a_vector, ": perceive_layers.0.0.norm.weight: expected shape (16), found (8)"},
        {halve_one, ": token_emb.weight: expected F32, found BF16"},
        {name_twice, ": expected token_emb.weight once, found token_emb.weight and module.token_emb.weight"},
    };
    for (size_t i = 0; i < sizeof kase / sizeof *kase; i++) {
        draft d;
        char from[SCRATCH_PATH];
        begin(&d);
        kase[i].change(&d);
        put(&d, "theirs.safetensors", false);
        snprintf(from, sizeof from, "%s", scratch("theirs.safetensors"));
        refuse(from, NULL, &d.model, PA_DATA, kase[i].message);
        end(&d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(ours_says_all_of_itself),     SCRATCH_TEST(a_run_directory_means_its_best_or_latest),
        SCRATCH_TEST(what_is_given_must_agree),    SCRATCH_TEST(no_model_is_said),
        SCRATCH_TEST(damaged_metadata_is_refused), SCRATCH_TEST(wrappers_are_taken_off_names),
        SCRATCH_TEST(theirs_need_settings),        SCRATCH_TEST(each_tensor_must_be_there_once_with_its_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
