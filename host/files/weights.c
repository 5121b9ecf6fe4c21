// weights.c: see weights.h.
#include <stdlib.h>
#include <string.h>

#include "host/files/weights.h"

#include "host/base/format.h"
#include "host/files/config_read.h"
#include "host/files/half.h"
#include "host/files/model_path.h"
#include "host/files/safetensors_write.h"

// The tensor's name in our table: a wrapper's prefixes are taken off.
static const char *plain_name(const char *name) {
    for (;;) {
        if (!strncmp(name, "module.", 7))
            name += 7;
        else if (!strncmp(name, "net.", 4))
            name += 4;
        else
            return name;
    }
}

static const pa_tensor *find_plain(const pa_st *st, const char *name) {
    for (size_t i = 0; i < pa_st_count(st); i++)
        if (!strcmp(plain_name(pa_st_at(st, i)->name), name)) return pa_st_at(st, i);
    return NULL;
}

// "(390, 512)", "(512)".
static const char *shape_text(char text[static 64], int rank, int64_t rows, int64_t columns) {
    if (rank == 1)
        snprintf(text, 64, "(%lld)", (long long)rows);
    else if (rank == 2)
        snprintf(text, 64, "(%lld, %lld)", (long long)rows, (long long)columns);
    else
        snprintf(text, 64, "one of %d dimensions", rank);
    return text;
}

static bool is_float(pa_dtype t) {
    return t == PA_F32 || t == PA_F64 || t == PA_BF16 || t == PA_F16;
}

// Element i as float32: exact, but for F64, which is rounded.
static float element(const pa_tensor *t, size_t i) {
    switch (t->dtype) {
    case PA_F64:
        return (float)((const double *)t->data)[i];
    case PA_BF16:
        return pa_float_of_bf16(((const uint16_t *)t->data)[i]);
    case PA_F16:
        return pa_float_of_f16(((const uint16_t *)t->data)[i]);
    default:
        return ((const float *)t->data)[i];
    }
}

static size_t elements(const pa_tensor *t) {
    return t->bytes / pa_dtype_size(t->dtype);
}

static pa_status check_tensor(const pa_weights *w, const pa_param *row, pa_err *err) {
    const pa_tensor *have = find_plain(w->file, row->name);
    char expected[64], found[64];
    if (!have) return pa_error(err, PA_DATA, "%s: expected a tensor %s, found none", w->path, row->name);
    for (size_t i = pa_st_count(w->file); i-- > 0;) {
        const pa_tensor *other = pa_st_at(w->file, i);
        if (other != have && !strcmp(plain_name(other->name), row->name))
            return pa_error(err, PA_DATA, "%s: expected %s once, found %s and %s", w->path, row->name, have->name,
                            other->name);
    }
    if (!is_float(have->dtype))
        return pa_error(err, PA_DATA, "%s: %s: expected F32, F64, BF16 or F16, found %s", w->path, row->name,
                        pa_dtype_name(have->dtype));
    if (have->rank == row->rank && have->shape[0] == row->shape[0] &&
        (row->rank == 1 || have->shape[1] == row->shape[1]))
        return PA_OK;
    return pa_error(err, PA_DATA, "%s: %s: expected shape %s, found %s", w->path, row->name,
                    shape_text(expected, row->rank, row->shape[0], row->shape[1]),
                    shape_text(found, have->rank, have->shape[0], have->shape[1]));
}

// perceiver_ar_pytorch always has a table of positions; a rotary model of ours has zeros there.
static pa_status check_no_positions(const pa_weights *w, const pa_tensor *t, pa_err *err) {
    bool zero = is_float(t->dtype);
    for (size_t i = 0; zero && i < elements(t); i++) zero = element(t, i) == 0;
    if (zero) return PA_OK;
    return pa_error(err, PA_DATA,
                    "%s: %s: expected zeros with model.position = rotary, found others: is it learned+rotary?", w->path,
                    t->name);
}

static pa_status check_tensors(const pa_weights *w, const pa_params *p, pa_err *err) {
    for (int t = 0; t < p->count; t++) {
        pa_status s = check_tensor(w, &p->row[t], err);
        if (s) return s;
    }
    for (size_t i = 0; i < pa_st_count(w->file); i++) {
        const pa_tensor *t = pa_st_at(w->file, i);
        const char *name = plain_name(t->name);
        if (!strcmp(name, "rotary_pos_emb.inv_freq") || pa_params_find(p, name) >= 0) continue;
        if (strcmp(name, "pos_emb.weight"))
            return pa_error(err, PA_DATA, "%s: expected only this model's tensors, found %s", w->path, t->name);
        pa_status s = check_no_positions(w, t, err);
        if (s) return s;
    }
    return PA_OK;
}

static pa_status read_own_metadata(pa_weights *w, const char *config, pa_err *err) {
    const char *format = pa_st_meta(w->file, "format"), *text = pa_st_meta(w->file, "model"),
               *encoding = pa_st_meta(w->file, "encoding");
    if (strcmp(format, "patrain-checkpoint-1"))
        return pa_error(err, PA_DATA, "%s: expected format patrain-checkpoint-1, found %s", w->path, format);
    if (!text || !encoding)
        return pa_error(err, PA_DATA, "%s: expected metadata model and encoding, found %s", w->path,
                        text ? "no encoding" : "no model");
    pa_config c = pa_config_default(), given = c;
    pa_status s = pa_config_parse(&c, w->path, text, strlen(text), err);
    if (s || (s = pa_encoding_parse(encoding, &w->encoding, err))) return s == PA_FAIL ? s : PA_DATA;
    w->model = c.model;
    const char *step = pa_st_meta(w->file, "step");
    w->step = step ? atoll(step) : 0;
    if (!config) return PA_OK;
    if ((s = pa_config_read(&given, config, err))) return s;
    return pa_config_same_model(&w->model, &given.model, err);
}

static pa_status read_foreign(pa_weights *w, const char *config, pa_err *err) {
    pa_config c = pa_config_default();
    if (!config)
        return pa_error(err, PA_USAGE,
                        "%s: has no settings of its own; expected --config FILE.ini, whose [model] describes it",
                        w->path);
    pa_status s = pa_config_read(&c, config, err);
    w->model = c.model;
    return s;
}

// Names a file that is no model for what it is. Leaves err as it is where that is unknown.
static pa_status refuse_format(const char *path, pa_err *err) {
    pa_format format = pa_format_of_file(path);
    if (format == PA_FORMAT_MIDI)
        return pa_error(err, PA_DATA,
                        "%s: expected a model, found a MIDI file; the model comes first: pagen MODEL --primer %s", path,
                        path);
    if (format == PA_FORMAT_AUDIO) return pa_error(err, PA_DATA, "%s: expected a model, found audio", path);
    if (format == PA_FORMAT_PYTORCH)
        return pa_error(
            err, PA_DATA,
            "%s: expected a safetensors file, found a PyTorch checkpoint; convert it with scripts/import_checkpoint.py",
            path);
    return PA_DATA;
}

pa_status pa_weights_open(pa_weights *w, const char *from, const char *config, const pa_model *model, pa_err *err) {
    *w = (pa_weights){0};
    pa_params p = {0};
    pa_status s = pa_model_path(from, w->path, sizeof w->path, err);
    if (s) return s;
    if ((s = pa_st_open(&w->file, w->path, err))) return s == PA_DATA ? refuse_format(w->path, err) : s;
    const char *format = pa_st_meta(w->file, "format");
    w->foreign = !format || strncmp(format, "patrain-", 8); // safetensors.torch writes "pt"
    if (!w->foreign)
        s = read_own_metadata(w, config, err);
    else if (model)
        w->model = *model;
    else
        s = read_foreign(w, config, err);
    if (!s && model) s = pa_config_same_model(&w->model, model, err);
    if (!s) s = pa_params_init(&p, &w->model, err);
    if (!s) s = check_tensors(w, &p, err);
    pa_params_clear(&p);
    if (s) pa_weights_close(w);
    return s;
}

void pa_weights_close(pa_weights *w) {
    pa_st_close(w->file);
    w->file = NULL;
}

// The tensor's numbers as F32 or F16, rounded to nearest and malloc'ed.
static pa_status convert(const pa_weights *w, const pa_tensor *t, pa_dtype to, void **out, pa_err *err) {
    size_t count = elements(t);
    void *data = *out = malloc((count + 1) * pa_dtype_size(to));
    if (!data) return pa_error(err, PA_FAIL, "%s: %s: no memory for %zu numbers", w->path, t->name, count);
    for (size_t i = 0; i < count; i++) {
        float x = element(t, i);
        uint16_t half = pa_f16_of_float(x);
        if (!isfinite(to == PA_F16 ? pa_float_of_f16(half) : x))
            return pa_error(err, PA_DATA, "%s: %s[%zu]: expected a number that %s holds, found %g", w->path, t->name, i,
                            pa_dtype_name(to), t->dtype == PA_F64 ? ((const double *)t->data)[i] : (double)x);
        if (to == PA_F16)
            ((uint16_t *)data)[i] = half;
        else
            ((float *)data)[i] = x;
    }
    return PA_OK;
}

static pa_status load_tensor(const pa_weights *w, const pa_tensor *t, int row, const pa_backend *backend,
                             pa_context *ctx, pa_err *err) {
    if (t->dtype == PA_F32) return backend->write(ctx, PA_PARAM, row, t->data, err);
    void *x = NULL;
    pa_status s = convert(w, t, PA_F32, &x, err);
    if (!s) s = backend->write(ctx, PA_PARAM, row, x, err);
    free(x);
    return s;
}

pa_status pa_weights_load(const pa_weights *w, const pa_params *params, const pa_backend *backend, pa_context *ctx,
                          pa_err *err) {
    for (int t = 0; t < params->count; t++) {
        const pa_tensor *have = find_plain(w->file, params->row[t].name);
        pa_status s =
            have ? load_tensor(w, have, t, backend, ctx, err)
                 : pa_error(err, PA_DATA, "%s: expected a tensor %s, found none", w->path, params->row[t].name);
        if (s) return s;
    }
    return pa_st_check(w->file, err);
}

// ---- export

// *out: t under its plain name with numbers of its own, to be freed. Frequencies stay F32: PyTorch would compute with
// rounded ones.
static pa_status export_tensor(const pa_weights *w, const pa_tensor *t, bool half, pa_tensor *out, pa_err *err) {
    void *data = NULL;
    *out = *t;
    out->name = plain_name(t->name);
    out->dtype = half && strcmp(out->name, "rotary_pos_emb.inv_freq") ? PA_F16 : PA_F32;
    out->bytes = elements(t) * pa_dtype_size(out->dtype);
    pa_status s = is_float(t->dtype) ? convert(w, t, out->dtype, &data, err)
                                     : pa_error(err, PA_DATA, "%s: %s: expected F32, F64, BF16 or F16, found %s",
                                                w->path, t->name, pa_dtype_name(t->dtype));
    out->data = data;
    return s;
}

pa_status pa_weights_export(const pa_weights *w, const char *path, bool half, pa_err *err) {
    static const char *const key[] = {"format", "model", "encoding", "step"};
    enum { KEYS = sizeof key / sizeof *key };
    size_t count = pa_st_count(w->file), done = 0, metas = 0;
    pa_meta meta[KEYS];
    pa_tensor *t = calloc(count + 1, sizeof *t);
    pa_status s = t ? PA_OK : pa_error(err, PA_FAIL, "%s: no memory for %zu tensors", path, count);
    for (size_t i = 0; i < KEYS; i++) {
        meta[metas] = (pa_meta){key[i], pa_st_meta(w->file, key[i])};
        metas += meta[metas].value != NULL;
    }
    for (; done < count && !s; done++) s = export_tensor(w, pa_st_at(w->file, done), half, &t[done], err);
    if (!s) s = pa_st_write(path, t, count, meta, metas, err);
    while (done--) free((void *)t[done].data);
    free(t);
    return s;
}
