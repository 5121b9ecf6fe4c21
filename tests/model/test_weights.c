// test_weights.c: files of weights: ours with our metadata, and those that perceiver_ar_pytorch's users write, under
// their names and wrappers; and how each that does not fit is refused.
#include "host/files/half.h"
#include "host/files/safetensors_write.h"
#include "host/files/weights.h"
#include "host/train/checkpoint.h"

#include <math.h>

#include "tests/support/fixture.h"
#include "tests/support/rows.h"
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
    pa_comm single = pa_comm_single();
    pa_err err;
    pa_context *c;
    fixture_ok(be->open(&c, &(pa_open){.params = &d->params, .max_batch = 1, .comm = &single}, &err), &err);
    fixture_ok(pa_weights_load(w, &d->params, be, c, &err), &err);
    double *have = fixture_read(be, c, &d->params, PA_PARAM);
    for (int t = 0; t < d->params.count; t++)
        for (size_t i = d->params.row[t].offset; i < d->params.row[t].offset + d->params.row[t].size; i++)
            assert_true(have[i] == (double)d->data[i]);
    free(have);
    be->close(c);
}

static void refuse(const char *name, const char *config, const pa_model *m, pa_status status, const char *message) {
    pa_weights w;
    pa_err err = {""};
    char from[SCRATCH_PATH], expected[1024];
    snprintf(from, sizeof from, "%s", scratch(name));
    assert_int_equal(pa_weights_open(&w, from, config, m, &err), status);
    assert_null(w.file);
    snprintf(expected, sizeof expected, "%s%s", *message == ':' ? from : "", message);
    assert_string_equal(err.text, expected);
}

// The first `count` numbers of row t as loaded, to the bit.
static void expect_bits(const pa_weights *w, const pa_params *p, int t, const float *expected, size_t count) {
    const pa_backend *be = fixture_backend();
    pa_comm single = pa_comm_single();
    pa_err err;
    pa_context *c;
    fixture_ok(be->open(&c, &(pa_open){.params = p, .max_batch = 1, .comm = &single}, &err), &err);
    fixture_ok(pa_weights_load(w, p, be, c, &err), &err);
    float *have = malloc(p->row[t].size * sizeof *have);
    assert_non_null(have);
    fixture_ok(be->read(c, PA_PARAM, t, have, &err), &err);
    for (size_t i = 0; i < count; i++)
        if (memcmp(&have[i], &expected[i], 4))
            fail_msg("number %zu: %a, expected %a", i, (double)have[i], (double)expected[i]);
    free(have);
    be->close(c);
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
    begin(&d);
    put(&d, "model.safetensors", true);
    pa_model other = d.model;
    other.depth = 3;
    refuse("model.safetensors", NULL, &other, PA_USAGE, "model.depth: checkpoint 2, configuration 3");
    refuse("model.safetensors", put_config(&other, "other.ini"), NULL, PA_USAGE,
           "model.depth: checkpoint 2, configuration 3");
    end(&d);
}

static void no_model_is_said(void **state) {
    (void)state;
    refuse("none", NULL, NULL, PA_USAGE,
           ": expected a model file, a checkpoint or a run directory, found nothing there");
    refuse(".", NULL, NULL, PA_USAGE, ": expected a run directory or a checkpoint, found no checkpoint in it");
    scratch_put("a.mid", "Mhd\n\x1b[2J");
    refuse("a.mid", NULL, NULL, PA_DATA,
           ": expected a safetensors file, found one that begins with \"Mhd\\x0a\\x1b[2J\"");
    for (int cut = 4; cut <= 12; cut += 8) {
        char message[SCRATCH_PATH + 128];
        snprintf(message, sizeof message,
                 ": expected a model, found a MIDI file; the model comes first: pagen MODEL --primer %s",
                 scratch("a.mid"));
        scratch_put_bytes("a.mid", "MThd\0\0\0\6\0\0\0\1", (size_t)cut);
        refuse("a.mid", NULL, NULL, PA_DATA, message);
    }
    scratch_put_bytes("a.mid", "RIFF\1\1\1\1WAVE", 12);
    refuse("a.mid", NULL, NULL, PA_DATA, ": expected a model, found audio");
    scratch_put_bytes("a.pt", "PK\3\4\0\0\0\0\0\0\0\0a/data.pkl", 22);
    refuse("a.pt", NULL, NULL, PA_DATA,
           ": expected a safetensors file, found a PyTorch checkpoint; convert it with scripts/import_checkpoint.py");
}

static void damaged_metadata_is_refused(void **state) {
    (void)state;
    const struct {
        pa_meta meta[3];
        const char *message;
    } kase[] = {
        {{{"format", "patrain-checkpoint-9"}}, ": expected format patrain-checkpoint-1, found patrain-checkpoint-9"},
        {{{"format", "patrain-checkpoint-1"}}, ": expected metadata model and encoding, found no model"},
        {{{"format", "patrain-checkpoint-1"}, {"model", "[model]"}},
         ": expected metadata model and encoding, found no encoding"},
        {{{"format", "patrain-checkpoint-1"}, {"model", "[model]\ndim = 0"}, {"encoding", "performance"}},
         ":2: model.dim: expected a whole number from 1 to 65536, found \"0\""},
    };
    EACH_ROW (i, kase, kase[i].message) {
        size_t count = 0;
        while (count < 3 && kase[i].meta[count].key) count++;
        fixture_ok(pa_st_write(scratch("model.safetensors"), NULL, 0, kase[i].meta, count, NULL), &(pa_err){""});
        refuse("model.safetensors", NULL, NULL, PA_DATA, kase[i].message);
    }
}

// ---- types

enum { NUMBERS = 16, ROW = 2 }; // perceive_layers.0.0.norm.weight has 16

// A file whose row ROW is of another type, opened. `bits` are NUMBERS of them.
static void open_typed(draft *d, pa_dtype type, const void *bits, pa_weights *w) {
    pa_err err;
    begin(d);
    assert_int_equal(d->params.row[ROW].size, NUMBERS);
    d->tensor[ROW].dtype = type;
    d->tensor[ROW].data = bits;
    d->tensor[ROW].bytes = NUMBERS * pa_dtype_size(type);
    put(d, "model.safetensors", true);
    fixture_ok(pa_weights_open(w, scratch("model.safetensors"), NULL, NULL, &err), &err);
}

static void each_type_loads_to_the_bit(void **state) {
    (void)state;
    static const uint16_t f16[NUMBERS] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400,
                                          0x3c00, 0x3555, 0x7bff, 0xfbff, 0x3c01};
    static const uint16_t bf16[NUMBERS] = {0x0000, 0x8000, 0x0001, 0x7f7f, 0x3f80, 0x3eab, 0xc049};
    static const double f64[NUMBERS] = {0.1,   -0.0,     0x1p0 + 0x1p-24, 0x1p0 + 0x3p-24, 0x1p0 + 0x1p-24 + 0x1p-50,
                                        1e-46, 0x1p-149, -3.5e38 / 1.1};
    const struct {
        pa_dtype type;
        const void *bits;
        float expected[NUMBERS];
    } kase[] = {
        {PA_F16, f16, {0, -0.0f, 0x1p-24f, -0x3ffp-24f, 0x1p-14f, 1, 0x1.554p-2f, 65504, -65504, 0x1.004p0f}},
        {PA_BF16, bf16, {0, -0.0f, 0x1p-133f, 0x1.fep127f, 1, 0x1.56p-2f, -0x1.92p1f}},
        {PA_F64, f64, {0.1f, -0.0f, 1, 0x1.000004p0f, 0x1.000002p0f, 0, 0x1p-149f, (float)(-3.5e38 / 1.1)}},
    };
    EACH_ROW (i, kase, NULL) {
        draft d;
        pa_weights w;
        open_typed(&d, kase[i].type, kase[i].bits, &w);
        expect_bits(&w, &d.params, ROW, kase[i].expected, NUMBERS);
        pa_weights_close(&w);
        end(&d);
    }
}

static void numbers_beyond_float32_are_refused(void **state) {
    (void)state;
    const struct {
        double number;
        const char *message;
    } kase[] = {{1e39, "F32 holds, found 1e+39"},
                {-1e300, "F32 holds, found -1e+300"},
                {(double)INFINITY, "found inf"},
                {(double)NAN, "found"}};
    EACH_ROW (i, kase, kase[i].message) {
        const double f64[NUMBERS] = {[3] = kase[i].number};
        const pa_backend *be = fixture_backend();
        pa_comm single = pa_comm_single();
        draft d;
        pa_weights w;
        pa_err err;
        pa_context *c;
        open_typed(&d, PA_F64, f64, &w);
        fixture_ok(be->open(&c, &(pa_open){.params = &d.params, .max_batch = 1, .comm = &single}, &err), &err);
        assert_int_equal(pa_weights_load(&w, &d.params, be, c, &err), PA_DATA);
        if (!strstr(err.text, "norm.weight[3]: expected a number that") || !strstr(err.text, kase[i].message))
            fail_msg("%s", err.text);
        be->close(c);
        pa_weights_close(&w);
        end(&d);
    }
}

static void exports_hold_the_same_model(void **state) {
    (void)state;
    static const float frequencies[4] = {1, 0.1f, 0.01f, 0.001f};
    draft d;
    pa_err err;
    begin(&d);
    for (size_t i = 0; i < d.params.floats; i++) d.data[i] = 0.37f * (float)i / 64;
    d.tensor[d.count++] = (pa_tensor){"rotary_pos_emb.inv_freq", PA_F32, 1, {4}, frequencies, 16};
    put(&d, "model.safetensors", true);
    for (int half = 0; half < 2; half++) {
        pa_weights w, copy;
        fixture_ok(pa_weights_open(&w, scratch("model.safetensors"), NULL, NULL, &err), &err);
        fixture_ok(pa_weights_export(&w, scratch("copy.safetensors"), half, &err), &err);
        fixture_ok(pa_weights_open(&copy, scratch("copy.safetensors"), NULL, &d.model, &err), &err);
        assert_true(!copy.foreign && copy.step == 17 && copy.encoding == PA_MIDI_NEURAL);
        assert_int_equal(pa_st_find(copy.file, d.params.row[0].name)->dtype, half ? PA_F16 : PA_F32);
        const pa_tensor *kept = pa_st_find(copy.file, "rotary_pos_emb.inv_freq");
        assert_int_equal(kept->dtype, PA_F32);
        assert_memory_equal(kept->data, frequencies, sizeof frequencies);
        for (size_t i = 0; half && i < d.params.floats; i++) d.data[i] = pa_float_of_f16(pa_f16_of_float(d.data[i]));
        expect_loaded(&d, &copy);
        pa_weights_close(&copy);
        pa_weights_close(&w);
    }
    d.data[d.params.row[ROW].offset + 1] = 65520;
    put(&d, "model.safetensors", true);
    pa_weights w;
    fixture_ok(pa_weights_open(&w, scratch("model.safetensors"), NULL, NULL, &err), &err);
    assert_int_equal(pa_weights_export(&w, scratch("large.safetensors"), true, &err), PA_DATA);
    assert_non_null(strstr(err.text, "norm.weight[1]: expected a number that F16 holds, found 65520"));
    assert_int_equal(access(scratch("large.safetensors"), F_OK), -1);
    pa_weights_close(&w);
    end(&d);
}

// ---- theirs

// Their class has a table of positions always; where ours has none it holds zeros.
static void positions_of_a_rotary_model_are_zeros(void **state) {
    (void)state;
    for (int zero = 0; zero < 2; zero++) {
        draft d;
        pa_weights w;
        pa_err err;
        begin(&d); // learned+rotary: a table that is not zero
        float *positions = d.data + d.params.row[d.params.pos_emb].offset;
        if (zero) memset(positions, 0, d.tensor[d.params.pos_emb].bytes);
        d.model.position = PA_POSITION_ROTARY;
        put(&d, "model.safetensors", true);
        if (zero) {
            fixture_ok(pa_weights_open(&w, scratch("model.safetensors"), NULL, NULL, &err), &err);
            assert_int_equal(w.model.position, PA_POSITION_ROTARY);
            pa_weights_close(&w);
        } else {
            refuse(
                "model.safetensors", NULL, NULL, PA_DATA,
                ": pos_emb.weight: expected zeros with model.position = rotary, found others: is it learned+rotary?");
        }
        end(&d);
    }
}

static void wrappers_are_taken_off_names(void **state) {
    (void)state;
    const char *const wrapper[] = {"", "module.", "net.", "module.net.", "net.module."};
    static const float frequencies[16] = {1};
    EACH_ROW (i, wrapper, wrapper[i]) {
        draft d;
        pa_weights w;
        pa_err err;
        begin(&d);
        for (int t = 0; t < d.count; t++)
            snprintf(d.name[t], sizeof d.name[t], "%s%s", wrapper[i], d.params.row[t].name);
        snprintf(d.name[d.count], sizeof d.name[0], "%srotary_pos_emb.inv_freq",
                 wrapper[i]); // a buffer of theirs; we compute it
        d.tensor[d.count] = (pa_tensor){d.name[d.count], PA_F32, 1, {16}, frequencies, 64};
        d.count++;
        put(&d, "theirs.safetensors", false);
        for (int by_model = 0; by_model < 2; by_model++) {
            const char *config = by_model ? NULL : put_config(&d.model, "theirs.ini");
            fixture_ok(pa_weights_open(&w, scratch("theirs.safetensors"), config, by_model ? &d.model : NULL, &err),
                       &err);
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
    char config[SCRATCH_PATH], message[SCRATCH_PATH + 128];
    begin(&d);
    put(&d, "theirs.safetensors", false);
    refuse("theirs.safetensors", NULL, NULL, PA_USAGE,
           ": has no settings of its own; expected --config FILE.ini, whose [model] describes it");
    snprintf(config, sizeof config, "%s", scratch("none.ini"));
    snprintf(message, sizeof message, "cannot open %s: No such file or directory", config);
    refuse("theirs.safetensors", config, NULL, PA_USAGE, message);
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
    d->tensor[0].shape[0] = 16;
    d->tensor[0].shape[1] = 40;
}
static void flatten_one(draft *d) {
    d->tensor[1].rank = 1;
    d->tensor[1].shape[0] = 24 * 16;
}
static void lengthen_a_vector(draft *d) {
    d->tensor[2].shape[0] = 8;
    d->tensor[2].bytes = 32;
}
static void make_one_whole_numbers(draft *d) {
    d->tensor[0].dtype = PA_I32;
}
static void name_twice(draft *d) { // with and without a wrapper: which of the two is meant?
    snprintf(d->name[d->count], sizeof d->name[0], "module.%.80s", d->name[0]);
    d->tensor[d->count] = d->tensor[0];
    d->tensor[d->count].name = d->name[d->count];
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
        {make_one_whole_numbers, ": token_emb.weight: expected F32, F64, BF16 or F16, found I32"},
        {name_twice, ": expected token_emb.weight once, found token_emb.weight and module.token_emb.weight"},
    };
    EACH_ROW (i, kase, kase[i].message) {
        draft d;
        begin(&d);
        kase[i].change(&d);
        put(&d, "theirs.safetensors", false);
        refuse("theirs.safetensors", NULL, &d.model, PA_DATA, kase[i].message);
        end(&d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(ours_says_all_of_itself),     SCRATCH_TEST(a_run_directory_means_its_best_or_latest),
        SCRATCH_TEST(what_is_given_must_agree),    SCRATCH_TEST(no_model_is_said),
        SCRATCH_TEST(damaged_metadata_is_refused), SCRATCH_TEST(wrappers_are_taken_off_names),
        SCRATCH_TEST(each_type_loads_to_the_bit),  SCRATCH_TEST(numbers_beyond_float32_are_refused),
        SCRATCH_TEST(exports_hold_the_same_model), SCRATCH_TEST(positions_of_a_rotary_model_are_zeros),
        SCRATCH_TEST(theirs_need_settings),        SCRATCH_TEST(each_tensor_must_be_there_once_with_its_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
