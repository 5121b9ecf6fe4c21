// weights.c: see weights.h.
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/files/weights.h"

#include "host/files/checkpoint_list.h"
#include "host/files/config_read.h"

static bool is_folder(const char *path) {
    struct stat s;
    return !stat(path, &s) && S_ISDIR(s.st_mode);
}
static bool is_there(const char *path) {
    struct stat s;
    return !stat(path, &s);
}

// The model file that `from` means.
static pa_status find_file(const char *from, char *path, size_t size, pa_err *err) {
    const char *inside[] = {"best/model.safetensors", "latest/model.safetensors", "model.safetensors"};
    if (!is_there(from))
        return pa_error(err, PA_USAGE, "%s: expected a model file, a checkpoint or a run directory, found nothing there", from);
    if (!is_folder(from)) return snprintf(path, size, "%s", from), PA_OK;
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        snprintf(path, size, "%s/%s", from, inside[i]);
        if (is_there(path)) return PA_OK;
    }
    int64_t newest = pa_checkpoint_newest(from);
    snprintf(path, size, "%s/checkpoints/step-%08lld/model.safetensors", from, (long long)newest);
    if (newest >= 0 && is_there(path)) return PA_OK;
    return pa_error(err, PA_USAGE, "%s: expected a run directory or a checkpoint, found no checkpoint in it", from);
}

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

static pa_status check_tensor(const pa_weights *w, const pa_param *row, pa_err *err) {
    const pa_tensor *have = find_plain(w->file, row->name);
    char expected[64], found[64];
    if (!have) return pa_error(err, PA_DATA, "%s: expected a tensor %s, found none", w->path, row->name);
    for (size_t i = pa_st_count(w->file); i-- > 0;) {
        const pa_tensor *other = pa_st_at(w->file, i);
        if (other != have && !strcmp(plain_name(other->name), row->name))
            return pa_error(err, PA_DATA, "%s: expected %s once, found %s and %s", w->path, row->name, have->name, other->name);
    }
    if (have->dtype != PA_F32)
        return pa_error(err, PA_DATA, "%s: %s: expected F32, found %s", w->path, row->name, pa_dtype_name(have->dtype));
    if (have->rank == row->rank && have->shape[0] == row->shape[0] && (row->rank == 1 || have->shape[1] == row->shape[1])) return PA_OK;
    return pa_error(err, PA_DATA, "%s: %s: expected shape %s, found %s", w->path, row->name,
                    shape_text(expected, row->rank, row->shape[0], row->shape[1]),
                    shape_text(found, have->rank, have->shape[0], have->shape[1]));
}

static pa_status check_tensors(const pa_weights *w, const pa_params *p, pa_err *err) {
    for (int t = 0; t < p->count; t++) {
        pa_status s = check_tensor(w, &p->row[t], err);
        if (s) return s;
    }
    for (size_t i = 0; i < pa_st_count(w->file); i++) {
        const char *name = plain_name(pa_st_at(w->file, i)->name);
        if (strcmp(name, "rotary_pos_emb.inv_freq") && pa_params_find(p, name) < 0)
            return pa_error(err, PA_DATA, "%s: expected only this model's tensors, found %s", w->path, pa_st_at(w->file, i)->name);
    }
    return PA_OK;
}

static pa_status read_own_metadata(pa_weights *w, const char *config, pa_err *err) {
    const char *format = pa_st_meta(w->file, "format"), *text = pa_st_meta(w->file, "model"), *encoding = pa_st_meta(w->file, "encoding");
    if (strcmp(format, "patrain-checkpoint-1"))
        return pa_error(err, PA_DATA, "%s: expected format patrain-checkpoint-1, found %s", w->path, format);
    if (!text || !encoding)
        return pa_error(err, PA_DATA, "%s: expected metadata model and encoding, found %s", w->path, text ? "no encoding" : "no model");
    pa_config c = pa_config_default(), given = c;
    pa_status s = pa_config_parse(&c, w->path, text, strlen(text), err);
    if (s || (s = pa_encoding_parse(encoding, &w->encoding, err))) return PA_DATA;
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
        return pa_error(err, PA_USAGE, "%s: has no settings of its own; expected --config FILE.ini, whose [model] describes it", w->path);
    pa_status s = pa_config_read(&c, config, err);
    w->model = c.model;
    return s;
}

pa_status pa_weights_open(pa_weights *w, const char *from, const char *config, const pa_model *model, pa_err *err) {
    *w = (pa_weights){0};
    pa_params p = {0};
    pa_status s = find_file(from, w->path, sizeof w->path, err);
    if (s || (s = pa_st_open(&w->file, w->path, err))) return s;
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

pa_status pa_weights_load(const pa_weights *w, const pa_params *params, const pa_backend *backend, pa_context *ctx, pa_err *err) {
    for (int t = 0; t < params->count; t++) {
        const pa_tensor *have = find_plain(w->file, params->row[t].name);
        pa_status s = have ? backend->write(ctx, PA_PARAM, t, have->data, err)
                           : pa_error(err, PA_DATA, "%s: expected a tensor %s, found none", w->path, params->row[t].name);
        if (s) return s;
    }
    return PA_OK;
}
