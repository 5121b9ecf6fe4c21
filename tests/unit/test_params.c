// test_params.c: the table of tensors against perceiver_ar_pytorch's names and shapes, first values, flop against
// counting one by one, and what is refused of a model's settings.
#include "host/model/params.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/rows.h"

static void init(pa_params *p, const pa_model *m) {
    pa_err err;
    if (pa_params_init(p, m, &err)) fail_msg("%s", err.text);
}

static pa_model tiny(void) {
    pa_model m = pa_model_default();
    m.context = 48;
    m.prefix = 16;
    m.dim = 24;
    m.heads = 2;
    m.dim_head = 8;
    m.depth = 2;
    m.perceive_depth = 2;
    m.ff_mult = 3;
    m.vocab = 30;
    return m;
}

// The table's next row must be this one.
typedef struct {
    const pa_params *params;
    int row;
    size_t numbers;
} cursor;

static void next(cursor *c, const char *layer, const char *name, int rows, int columns, bool decays) {
    char full[64];
    assert_true(c->row < c->params->count);
    const pa_param *have = &c->params->row[c->row];
    snprintf(full, sizeof full, "%s%s", layer, name);
    assert_string_equal(have->name, full);
    assert_int_equal(have->rank, columns ? 2 : 1);
    assert_int_equal(have->shape[0], rows);
    assert_int_equal(have->shape[1], columns ? columns : 1);
    assert_int_equal(have->decays, decays);
    assert_int_equal(pa_params_find(c->params, full), c->row);
    c->numbers += (size_t)rows * (size_t)(columns ? columns : 1);
    c->row++;
}

static void next_feed_forward(cursor *c, const char *layer, int C, int F) {
    next(c, layer, "0.weight", C, 0, false);
    next(c, layer, "0.bias", C, 0, false);
    next(c, layer, "1.weight", F, C, true);
    next(c, layer, "4.weight", C, F, true);
}

// Names and shapes as `state_dict()` of perceiver_ar_pytorch 0.0.10 lists them for v1.
static void the_table_is_perceiver_ar_pytorchs(void **state) {
    (void)state;
    enum { V = 390, C = 512, I = 512, F = 2048 };
    char layer[32];
    pa_params p;
    pa_model v1 = pa_model_default();
    init(&p, &v1);
    cursor c = {.params = &p};
    next(&c, "", "token_emb.weight", V, C, false);
    next(&c, "", "pos_emb.weight", 2048, C, false);
    const char *cross = "perceive_layers.0.0.";
    next(&c, cross, "norm.weight", C, 0, false);
    next(&c, cross, "norm.bias", C, 0, false);
    next(&c, cross, "context_norm.weight", C, 0, false);
    next(&c, cross, "context_norm.bias", C, 0, false);
    next(&c, cross, "to_q.weight", I, C, true);
    next(&c, cross, "to_kv.weight", 2 * I, C, true);
    next(&c, cross, "to_out.weight", C, I, true);
    next(&c, cross, "to_out.bias", C, 0, false);
    next_feed_forward(&c, "perceive_layers.0.1.", C, F);
    for (int i = 0; i < 8; i++) {
        snprintf(layer, sizeof layer, "layers.%d.0.", i);
        next(&c, layer, "norm.weight", C, 0, false);
        next(&c, layer, "norm.bias", C, 0, false);
        next(&c, layer, "to_qkv.weight", 3 * I, C, true);
        next(&c, layer, "to_out.weight", C, I, true);
        snprintf(layer, sizeof layer, "layers.%d.1.", i);
        next_feed_forward(&c, layer, C, F);
    }
    next(&c, "", "to_logits.weight", V, C, true);
    assert_int_equal(c.row, p.count);
    assert_int_equal(c.numbers, p.parameters);
    assert_int_equal(p.parameters, 29779456);
    pa_params_clear(&p);
}

// Inner width and dim apart, as in v4; several cross-attention blocks.
static void parameters_are_counted(void **state) {
    (void)state;
    pa_params p;
    pa_model m = pa_model_default();
    m.context = 16384;
    m.prefix = 512;
    m.heads = 4;
    init(&p, &m);
    assert_int_equal(p.parameters, 32400896);
    pa_params_clear(&p);
    for (int X = 1; X < 4; X++) {
        m = tiny();
        m.perceive_depth = X;
        size_t V = 30, C = 24, I = 16, F = 72, L = 2, ff = 2 * C + 2 * F * C;
        size_t cross = 2 * C + 2 * C + I * C + 2 * I * C + C * I + C + ff, self = 2 * C + 3 * I * C + C * I + ff;
        init(&p, &m);
        assert_int_equal(p.parameters, 2 * V * C + 48 * C + (size_t)X * cross + L * self);
        pa_params_clear(&p);
    }
}

static void switches_add_and_take_away_tensors(void **state) {
    (void)state;
    pa_params bare, p;
    pa_model m = tiny();
    init(&bare, &m);
    m.position = PA_POSITION_ROTARY;
    m.tie_embeddings = true;
    init(&p, &m);
    assert_int_equal(p.count, bare.count - 2);
    assert_int_equal(pa_params_find(&p, "pos_emb.weight"), -1);
    assert_int_equal(pa_params_find(&p, "to_logits.weight"), -1);
    assert_true(p.pos_emb == -1 && p.logits == p.token_emb);
    pa_params_clear(&p);
    m = tiny();
    m.final_norm = m.qk_norm = true;
    init(&p, &m);
    assert_int_equal(p.count, bare.count + 2 + 2 * 4);
    assert_true(p.final_norm_w == pa_params_find(&p, "norm.weight") &&
                p.final_norm_b == pa_params_find(&p, "norm.bias"));
    int k = pa_params_find(&p, "layers.1.0.k_norm.weight");
    assert_true(k >= 0 && p.row[k].rank == 1 && p.row[k].shape[0] == 8 && !p.row[k].decays);
    assert_int_equal(pa_params_find(&p, "layers.1.0.r_norm.weight"), -1);
    pa_params_clear(&p);
    m = tiny();
    m.lags = 2;
    init(&p, &m);
    assert_int_equal(p.count, bare.count + 1);
    assert_int_equal(p.parameters, bare.parameters + 2 * 30 * 24);
    const pa_param *lags = &p.row[p.lag_emb];
    assert_string_equal(lags->name, "lag_emb.weight");
    assert_true(lags->shape[0] == 60 && lags->shape[1] == 24 && !lags->decays && lags->group == PA_GROUP_EMBEDDING);
    pa_params_clear(&p);
    m.keyboard = true;
    pa_err err;
    assert_int_equal(pa_params_init(&p, &m, &err), PA_USAGE);
    assert_string_equal(err.text, "model.keyboard: expected a vocabulary of 390, found 30");
    m.vocab = 390;
    m.dim = 19;
    init(&p, &m);
    const pa_param *keyboard = &p.row[p.keyboard_emb];
    lags = &p.row[p.lag_emb];
    assert_string_equal(keyboard->name, "keyboard_emb.weight");
    assert_true(keyboard->shape[0] == 2176 && !keyboard->decays && keyboard->group == PA_GROUP_EMBEDDING);
    assert_int_equal(p.bag_emb, p.keyboard_emb);
    assert_int_equal(lags->offset, keyboard->offset + keyboard->size); // one table
    pa_params_clear(&p);
    pa_params_clear(&bare);
}

static void rows_lie_apart_and_aligned(void **state) {
    (void)state;
    pa_params p;
    pa_model m = tiny();
    m.dim = 19;
    init(&p, &m);
    size_t end = 0;
    for (int t = 0; t < p.count; t++) {
        const pa_param *row = &p.row[t];
        assert_int_equal(row->offset % 16, 0);
        assert_true(row->offset >= end && row->offset < end + 16);
        assert_int_equal(row->size, (size_t)row->shape[0] * (size_t)row->shape[1]);
        end = row->offset + row->size;
    }
    assert_true(p.floats >= end && p.floats < end + 16);
    pa_params_clear(&p);
}

static void rotary_dims_are_resolved(void **state) {
    (void)state;
    const int kase[][3] = {{0, 64, 32}, {0, 128, 64}, {0, 32, 32},  {0, 24, 24},
                           {0, 9, 8},   {16, 64, 16}, {64, 64, 64}, {0, 96, 48}};
    EACH_ROW (i, kase, NULL) {
        pa_model m = tiny();
        m.rotary_dims = kase[i][0];
        m.dim_head = kase[i][1];
        assert_int_equal(pa_rotary_dims(&m), kase[i][2]);
    }
}

// ---- first values

typedef struct {
    double mean, deviation, least, most;
    float *x;
} drawn;

static drawn draw(const pa_params *p, const char *name, uint64_t seed) {
    int t = pa_params_find(p, name);
    assert_true(t >= 0);
    size_t n = p->row[t].size;
    drawn d = {.least = INFINITY, .most = -INFINITY, .x = malloc(n * sizeof *d.x)};
    assert_non_null(d.x);
    pa_params_draw(p, t, seed, d.x);
    for (size_t i = 0; i < n; i++) {
        double x = (double)d.x[i];
        d.mean += x / (double)n;
        d.deviation += x * x / (double)n;
        d.least = fmin(d.least, x);
        d.most = fmax(d.most, x);
    }
    d.deviation = sqrt(d.deviation - d.mean * d.mean);
    return d;
}

// Five deviations of a mean of n draws, and of their deviation: sqrt((kurtosis - 1) / 4n) of it, with 3 for a
// normal, 1.8 for a uniform.
static void check_draw(const pa_params *p, const char *name, double deviation, double kurtosis) {
    drawn d = draw(p, name, 7);
    double n = (double)p->row[pa_params_find(p, name)].size;
    assert_true(fabs(d.mean) < 5 * deviation / sqrt(n));
    assert_true(fabs(d.deviation / deviation - 1) < 5 * sqrt((kurtosis - 1) / 4 / n));
    free(d.x);
}

static void first_values_are_pytorchs(void **state) {
    (void)state;
    pa_params p;
    pa_model m = tiny();
    m.dim = 200, m.context = 300, m.prefix = 100, m.qk_norm = true; // I = 16, F = 600
    init(&p, &m);
    check_draw(&p, "token_emb.weight", 1, 3);
    check_draw(&p, "pos_emb.weight", 1, 3);
    const struct {
        const char *name;
        double inputs; // nn.Linear's, and its bias: uniform within 1 / sqrt of them
    } linear[] = {{"perceive_layers.0.0.to_kv.weight", 200},
                  {"perceive_layers.1.0.to_out.bias", 16},
                  {"layers.0.0.to_qkv.weight", 200},
                  {"layers.1.0.to_out.weight", 16},
                  {"layers.1.1.1.weight", 200},
                  {"layers.1.1.4.weight", 600},
                  {"to_logits.weight", 200}};
    EACH_ROW (i, linear, linear[i].name) {
        double bound = 1 / sqrt(linear[i].inputs);
        check_draw(&p, linear[i].name, bound / sqrt(3), 1.8);
        drawn d = draw(&p, linear[i].name, 7);
        assert_true(d.least >= -bound * (1 + 1e-6) && d.most <= bound * (1 + 1e-6) && d.most > 0.9 * bound &&
                    d.least < -0.9 * bound);
        free(d.x);
    }
    const char *const norm[] = {"layers.0.0.norm", "perceive_layers.0.0.context_norm", "layers.1.1.0",
                                "layers.1.0.q_norm"};
    EACH_ROW (i, norm, norm[i]) {
        char name[64];
        snprintf(name, sizeof name, "%s.weight", norm[i]);
        drawn one = draw(&p, name, 7);
        assert_true(one.least == 1 && one.most == 1);
        free(one.x);
        if (strstr(name, "q_norm")) continue;
        snprintf(name, sizeof name, "%s.bias", norm[i]);
        drawn zero = draw(&p, name, 7);
        assert_true(zero.least == 0 && zero.most == 0);
        free(zero.x);
    }
    pa_params_clear(&p);
}

static double correlation(const drawn *a, const drawn *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((double)a->x[i] - a->mean) * ((double)b->x[i] - b->mean);
    return sum / (double)n / a->deviation / b->deviation;
}

static void a_draw_depends_on_seed_and_tensor_alone(void **state) {
    (void)state;
    pa_params p;
    pa_model m = tiny();
    init(&p, &m);
    size_t n = 48 * 24; // layers.*.0.to_qkv.weight
    drawn a = draw(&p, "layers.0.0.to_qkv.weight", 1), b = draw(&p, "layers.1.0.to_qkv.weight", 1);
    drawn other = draw(&p, "layers.0.0.to_qkv.weight", 2), again = draw(&p, "layers.0.0.to_qkv.weight", 1);
    assert_memory_equal(a.x, again.x, n * sizeof *a.x);
    assert_true(fabs(correlation(&a, &b, n)) < 5 / sqrt((double)n));
    assert_true(fabs(correlation(&a, &other, n)) < 5 / sqrt((double)n));
    free(a.x);
    free(b.x);
    free(other.x);
    free(again.x);
    pa_params_clear(&p);
}

// ---- flop

typedef struct {
    double weight_rows, pairs;
} work;

// `rows` rows through a matrix, one multiplication after the other.
static void count_product(work *w, int rows, int out, int in) {
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++) w->weight_rows++;
}

static work count_one_by_one(const pa_model *m, int kept, int latents) {
    work w = {0, 0};
    int C = m->dim, I = pa_inner(m), F = pa_ff(m), rows = kept + latents;
    for (int x = 0; x < m->perceive_depth + m->depth; x++) {
        bool cross = x < m->perceive_depth;
        count_product(&w, latents, I, C);                    // queries
        count_product(&w, cross ? rows : latents, 2 * I, C); // keys and values
        count_product(&w, latents, C, I);
        count_product(&w, latents, F, C);
        count_product(&w, latents, C, F);
        for (int n = 0; n < latents; n++)
            for (int seen = cross ? -kept : 0; seen <= n; seen++) w.pairs++;
    }
    count_product(&w, latents, m->vocab, C);
    return w;
}

static void flop_are_those_counted_one_by_one(void **state) {
    (void)state;
    const int kase[][3] = {{1, 5, 9}, {2, 0, 7}, {3, 16, 32}, {1, 16, 1}}; // batch, kept, latents
    EACH_ROW (i, kase, NULL) {
        pa_model m = tiny();
        int B = kase[i][0];
        work w = count_one_by_one(&m, kase[i][1], kase[i][2]);
        pa_flops f = pa_count_flops(&m, B, kase[i][1], kase[i][2]);
        double I = pa_inner(&m);
        assert_true(f.linear_forward == 2 * B * w.weight_rows);
        assert_true(f.linear_backward == 4 * B * w.weight_rows);
        assert_true(f.attention_forward == 4 * I * B * w.pairs);
        assert_true(f.attention_backward == 8 * I * B * w.pairs);
    }
}

// ---- what is refused

static void settings_out_of_range_are_named(void **state) {
    (void)state;
    const struct {
        size_t field;
        int value;
        const char *message;
    } kase[] = {
        {offsetof(pa_model, context), 1, "model.context: expected 2 to 1048576, found 1"},
        {offsetof(pa_model, prefix), 48, "model.prefix: expected 0 to 47, found 48"},
        {offsetof(pa_model, prefix), -1, "model.prefix: expected 0 to 47, found -1"},
        {offsetof(pa_model, dim), 0, "model.dim: expected 1 to 65536, found 0"},
        {offsetof(pa_model, heads), 0, "model.heads: expected 1 to 1024, found 0"},
        {offsetof(pa_model, dim_head), 257, "model.dim_head: expected 1 to 256, found 257"},
        {offsetof(pa_model, depth), -1, "model.depth: expected 0 to 1024, found -1"},
        {offsetof(pa_model, perceive_depth), 0, "model.perceive_depth: expected 1 to 64, found 0"},
        {offsetof(pa_model, ff_mult), 65, "model.ff_mult: expected 1 to 64, found 65"},
        {offsetof(pa_model, vocab), 1, "model.vocab: expected 2 to 65535, found 1"},
        {offsetof(pa_model, rotary_dims), 10, "model.rotary_dims: expected 0 to 8, found 10"},
        {offsetof(pa_model, rotary_dims), 5, "model.rotary_dims: expected an even number, found 5"},
    };
    EACH_ROW (i, kase, kase[i].message) {
        pa_model m = tiny();
        pa_params p;
        pa_err err = {""};
        memcpy((char *)&m + kase[i].field, &kase[i].value, sizeof(int));
        assert_int_equal(pa_model_check(&m, &err), PA_USAGE);
        assert_string_equal(err.text, kase[i].message);
        assert_int_equal(pa_params_init(&p, &m, &err), PA_USAGE);
    }
}

static void shares_out_of_range_are_named(void **state) {
    (void)state;
    const struct {
        size_t field;
        double value;
        const char *message;
    } kase[] = {
        {offsetof(pa_model, prefix_dropout), 1, "model.prefix_dropout: expected at least 0 and below 1, found 1"},
        {offsetof(pa_model, prefix_dropout), (double)NAN,
         "model.prefix_dropout: expected at least 0 and below 1, found nan"},
        {offsetof(pa_model, dropout), -0.5, "model.dropout: expected at least 0 and below 0.99, found -0.5"},
        {offsetof(pa_model, dropout), 0.999, "model.dropout: expected at least 0 and below 0.99, found 0.999"},
        {offsetof(pa_model, z_loss), 1e6, "model.z_loss: expected at least 0 and below 1e+06, found 1e+06"},
    };
    EACH_ROW (i, kase, kase[i].message) {
        pa_model m = tiny();
        pa_err err = {""};
        memcpy((char *)&m + kase[i].field, &kase[i].value, sizeof(double));
        assert_int_equal(pa_model_check(&m, &err), PA_USAGE);
        assert_string_equal(err.text, kase[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_perceiver_ar_pytorchs),
        cmocka_unit_test(parameters_are_counted),
        cmocka_unit_test(switches_add_and_take_away_tensors),
        cmocka_unit_test(rows_lie_apart_and_aligned),
        cmocka_unit_test(rotary_dims_are_resolved),
        cmocka_unit_test(first_values_are_pytorchs),
        cmocka_unit_test(a_draw_depends_on_seed_and_tensor_alone),
        cmocka_unit_test(flop_are_those_counted_one_by_one),
        cmocka_unit_test(settings_out_of_range_are_named),
        cmocka_unit_test(shares_out_of_range_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
