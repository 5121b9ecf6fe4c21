// checkpoint.c: see checkpoint.h.
#include "host/train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/files/checkpoint_list.h"
#include "host/files/weights.h"
#include "host/train/average.h"

enum { PATH = 4096 };

static void read_running(const char *text, pa_running *r) {
    long long count;
    if (text && sscanf(text, "%lf %lf %lld", &r->mean, &r->variance, &count) == 3) r->count = count;
}

static pa_status read_state(const pa_st *st, pa_run_state *r, pa_err *err) {
    const char *key[] = {"step", "updates", "seconds", "skips", "best", "best_step", "seed", "evaluated"}, *value[8];
    for (int i = 0; i < 8; i++)
        if (!(value[i] = pa_st_meta(st, key[i])))
            return pa_error(err, PA_DATA, "%s: expected metadata %s, found none", pa_st_path(st), key[i]);
    *r = (pa_run_state){.step = atoll(value[0]),
                        .updates = atoll(value[1]),
                        .seconds = atof(value[2]),
                        .skips = atoll(value[3]),
                        .best = atof(value[4]),
                        .best_step = atoll(value[5]),
                        .seed = strtoull(value[6], NULL, 10),
                        .evaluated = atoll(value[7])};
    const char *spikes = pa_st_meta(st, "spikes"); // older checkpoints lack it
    r->spikes = spikes ? atoll(spikes) : 0;
    read_running(pa_st_meta(st, "loss_running"), &r->loss);
    read_running(pa_st_meta(st, "norm_running"), &r->norm);
    const char *validation = pa_st_meta(st, "validation"); // likewise
    r->validation = validation ? (uint32_t)strtoul(validation, NULL, 16) : 0;
    const char *scaling = pa_st_meta(st, "loss_scaling");
    if (scaling && sscanf(scaling, "%lf %" SCNd64, &r->scaling.factor, &r->scaling.steps) != 2)
        r->scaling = (pa_scaling){0};
    return PA_OK;
}

static pa_status load_kind(const pa_st *st, const pa_run *run, pa_kind kind, const char *prefix, pa_err *err) {
    bool muon = run->config->optimizer.name == PA_MUON;
    for (int t = 0; t < run->params->count; t++) {
        char name[80];
        const pa_tensor *have;
        const pa_param *row = &run->params->row[t];
        if (kind == PA_MOMENT2 && muon && row->group == PA_GROUP_MATRIX) continue;
        int64_t shape[] = {row->shape[0], row->shape[1]};
        snprintf(name, sizeof name, "%s%s", prefix, row->name);
        pa_status s = pa_st_need(st, name, PA_F32, row->rank, shape, &have, err);
        if (s || (s = run->backend->write(run->ctx, kind, t, have->data, err))) return s;
    }
    return PA_OK;
}

static pa_status check_finite(const pa_st *st, pa_err *err) {
    for (size_t i = 0; i < pa_st_count(st); i++) {
        const pa_tensor *t = pa_st_at(st, i);
        if (t->dtype == PA_F32 && !pa_all_finite(t->data, t->bytes / sizeof(float)))
            return pa_error(err, PA_DATA, "%s: %s: expected finite numbers, found others", pa_st_path(st), t->name);
    }
    return PA_OK;
}

// Whether a checkpoint's files belong together and to its name.
static pa_status check_parts(const pa_weights *w, const pa_st *st, int64_t state_step, int64_t name_step, pa_err *err) {
    const char *model = pa_st_meta(st, "model_crc32c"), *path = pa_st_path(st); // older checkpoints lack it
    char found[16];
    snprintf(found, sizeof found, "%08x", pa_st_crc(w->file));
    if (state_step != w->step)
        return pa_error(err, PA_DATA, "%s: expected step %lld, of model.safetensors, found %lld", path,
                        (long long)w->step, (long long)state_step);
    if (state_step != name_step)
        return pa_error(err, PA_DATA, "%s: expected step %lld, of the folder's name, found %lld", path,
                        (long long)name_step, (long long)state_step);
    if (model && strcmp(model, found))
        return pa_error(err, PA_DATA, "%s: expected the state of a model with CRC-32C %s, found that of %s", path,
                        found, model);
    return PA_OK;
}

static pa_status load_moments(const pa_st *st, const pa_run *run, pa_err *err) {
    pa_status s = load_kind(st, run, PA_MOMENT1, "moment1.", err);
    return s ? s : load_kind(st, run, PA_MOMENT2, "moment2.", err);
}

// A checkpoint with an average has it as the model, and the weights in the state.
static pa_status load_weights(const pa_weights *w, const pa_st *st, const pa_run *run, pa_err *err) {
    pa_status s = pa_weights_load(w, run->params, run->backend, run->ctx, err);
    if (!s && run->average) s = pa_average_begin(run, err);
    if (!s && pa_st_meta(st, "ema")) s = load_kind(st, run, PA_PARAM, "weight.", err);
    return s;
}

// Refuses links among a run's checkpoints: their targets may be another run's, and may change.
static pa_status refuse_link(const char *path, pa_err *err) {
    struct stat info;
    if (lstat(path, &info) || !S_ISLNK(info.st_mode)) return PA_OK;
    return pa_error(err, PA_DATA, "%s: expected a file or folder of the run, found a link", path);
}

// Muon's moments are not Adam's. Older checkpoints don't name the optimizer, which was adam or adamw.
static pa_status check_optimizer(const pa_run *run, const pa_st *st, pa_err *err) {
    const char *theirs = pa_st_meta(st, "optimizer");
    bool muon = run->config->optimizer.name == PA_MUON;
    if ((theirs && !strcmp(theirs, "muon")) == muon) return PA_OK;
    return pa_error(
        err, PA_USAGE,
        "optimizer.name: checkpoint %s; to train its weights with another optimizer, use --init and another --run-dir",
        muon ? "adam or adamw, configuration muon" : "muon, configuration adam or adamw");
}

// Checks what may not change when a run resumes, besides the model.
static pa_status check_same_run(const pa_run *run, const pa_run_state *state, pa_encoding encoding, const char *corpus,
                                pa_err *err) {
    const pa_config *c = run->config;
    char mine[16];
    snprintf(mine, sizeof mine, "%08x", run->corpus);
    if (state->seed != (uint64_t)c->train.seed)
        return pa_error(err, PA_USAGE, "train.seed: checkpoint %llu, configuration %lld",
                        (unsigned long long)state->seed, (long long)c->train.seed);
    if (encoding != run->encoding)
        return pa_error(err, PA_USAGE, "data.train: expected the checkpoint's encoding, %s, found %s",
                        pa_encoding_name(encoding), pa_encoding_name(run->encoding));
    if (corpus && strcmp(corpus, mine)) // older checkpoints lack it
        return pa_error(err, PA_USAGE,
                        "%s: expected the run's training data, CRC-32C %s, found %s; to train its weights on other "
                        "data, use --init and "
                        "another --run-dir",
                        c->data.train, corpus, mine);
    if (state->validation && run->validation && state->validation != run->validation)
        return pa_error(err, PA_USAGE,
                        "%s: expected the run's validation data, CRC-32C %08x, found %08x; its best checkpoint was "
                        "measured on the former",
                        c->data.validation, state->validation, run->validation);
    return PA_OK;
}

static pa_status load(const char *folder, int64_t step, const pa_run *run, pa_run_state *state, pa_err *err) {
    char path[PATH + 96];
    pa_weights w;
    pa_st *st = NULL;
    const pa_config *c = run->config;
    pa_status s = refuse_link(folder, err);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (s || (s = refuse_link(path, err))) return s;
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    if ((s = refuse_link(path, err))) return s;
    if ((s = pa_weights_open(&w, folder, NULL, NULL, err))) return s == PA_FAIL ? s : PA_DATA;
    if ((s = pa_config_same_model(&w.model, &c->model, err))) goto done; // an error of the user, not damage
    if (access(path, F_OK) && errno == ENOENT) {
        s = pa_error(err, PA_DATA, "%s: expected the state that belongs to model.safetensors, found none", path);
        goto done;
    }
    if ((s = pa_st_open(&st, path, err)) || (s = read_state(st, state, err))) goto done;
    if ((s = check_parts(&w, st, state->step, step, err))) goto done;
    if ((s = check_finite(w.file, err)) || (s = check_finite(st, err))) goto done;
    if ((s = check_same_run(run, state, w.encoding, pa_st_meta(st, "corpus"), err))) goto done;
    if ((s = check_optimizer(run, st, err)) || (s = load_moments(st, run, err))) goto done;
    s = load_weights(&w, st, run, err);
    if (!s && run->backend->scaling && state->scaling.factor > 0) run->backend->scaling(run->ctx, &state->scaling);
done:
    pa_st_close(st);
    pa_weights_close(&w);
    return s;
}

pa_status pa_checkpoint_resume(const pa_run *run, pa_run_state *state, bool *found, pa_err *err) {
    int64_t *step;
    size_t count;
    *found = false;
    pa_status s = pa_checkpoint_list(run->dir, &step, &count, err);
    if (s) return s;
    for (size_t i = 0; i < count && !*found; i++) {
        char folder[PATH];
        pa_err why = {""};
        snprintf(folder, sizeof folder, "%s/checkpoints/step-%08lld", run->dir, (long long)step[i]);
        s = load(folder, step[i], run, state, &why);
        *found = s == PA_OK;
        if (s == PA_DATA) fprintf(run->out ? run->out : stderr, "skipping a damaged checkpoint: %s\n", why.text);
        if (s && s != PA_DATA) {
            if (err) *err = why;
            break;
        }
    }
    if (s == PA_DATA)
        pa_error(err, PA_DATA,
                 "%s/checkpoints: expected an intact checkpoint, found %zu damaged; --fresh starts over and keeps them "
                 "aside",
                 run->dir, count);
    free(step);
    return s;
}
