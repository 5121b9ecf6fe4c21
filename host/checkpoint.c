// checkpoint.c: checkpoints of a run, written whole or not at all, and found again. A checkpoint appears by one rename; until then, and
// if anything fails, the run's directory is as it was.
#include "host/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 4096 };

// Tensors of one kind, read from the backend into one buffer.
static pa_status gather(pa_tensor *out, const char *prefix, char (*names)[80], float *buffer, pa_kind kind, const pa_params *p,
                        const pa_backend *backend, pa_context *ctx, pa_err *err) {
    for (int t = 0; t < p->count; t++) {
        const pa_param *row = &p->row[t];
        snprintf(names[t], sizeof names[t], "%s%s", prefix, row->name);
        float *data = buffer + row->offset;
        out[t] = (pa_tensor){names[t], PA_F32, row->rank, {row->shape[0], row->shape[1]}, data, row->size * 4};
        pa_status s = backend->read(ctx, kind, t, data, err);
        if (s) return s;
    }
    return PA_OK;
}

static pa_status write_model(const char *folder, const pa_config *c, pa_encoding encoding, const pa_run_state *state, const pa_params *p,
                             const pa_backend *backend, pa_context *ctx, pa_err *err) {
    char path[PATH + 256], step[32];
    size_t count = (size_t)p->count;
    pa_tensor *tensors = calloc(count + 1, sizeof *tensors);
    char(*names)[80] = calloc(count, sizeof *names);
    float *buffer = malloc(p->floats * 4), frequency[128]; // dim_head is at most 256
    char *text = pa_config_model_text(&c->model);
    pa_status s = PA_OK;
    if (!tensors || !names || !buffer || !text) {
        s = pa_error(err, PA_FAIL, "%s: no memory for %.1f MB of weights", folder, (double)p->floats * 4e-6);
        goto done;
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(step, sizeof step, "%lld", (long long)state->step);
    pa_meta meta[] = {{"format", "patrain-checkpoint-1"}, {"model", text}, {"encoding", pa_encoding_name(encoding)}, {"step", step}};
    if ((s = gather(tensors, "", names, buffer, PA_PARAM, p, backend, ctx, err))) goto done;
    // A buffer of perceiver_ar_pytorch, so that its load_state_dict finds all it asks for; nothing here reads it.
    int half = pa_rotary_dims(&p->model) / 2;
    for (int j = 0; j < half; j++) frequency[j] = (float)pow(10000, -(double)j / half);
    tensors[count++] = (pa_tensor){"rotary_pos_emb.inv_freq", PA_F32, 1, {half}, frequency, (size_t)half * 4};
    s = pa_st_write(path, tensors, count, meta, sizeof meta / sizeof *meta, err);
done:
    free(tensors), free(names), free(buffer), free(text);
    return s;
}

static pa_status write_state(const char *folder, const pa_run_state *r, const pa_params *p, const pa_backend *backend, pa_context *ctx,
                             pa_err *err) {
    char path[PATH + 256], value[8][32];
    size_t count = (size_t)p->count;
    pa_tensor *tensors = calloc(2 * count, sizeof *tensors);
    char(*names)[80] = calloc(2 * count, sizeof *names);
    float *buffer = malloc(2 * p->floats * 4);
    pa_status s = PA_OK;
    if (!tensors || !names || !buffer) {
        s = pa_error(err, PA_FAIL, "%s: no memory for %.1f MB of moments", folder, (double)p->floats * 8e-6);
        goto done;
    }
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    snprintf(value[0], 32, "%lld", (long long)r->step), snprintf(value[1], 32, "%lld", (long long)r->updates);
    snprintf(value[2], 32, "%.17g", r->seconds), snprintf(value[3], 32, "%lld", (long long)r->skips);
    snprintf(value[4], 32, "%.17g", r->best), snprintf(value[5], 32, "%lld", (long long)r->best_step);
    snprintf(value[6], 32, "%llu", (unsigned long long)r->seed), snprintf(value[7], 32, "%lld", (long long)r->evaluated);
    pa_meta meta[] = {{"format", "patrain-state-1"}, {"step", value[0]},  {"updates", value[1]},
                      {"seconds", value[2]},         {"skips", value[3]}, {"best", value[4]},
                      {"best_step", value[5]},       {"seed", value[6]},  {"evaluated", value[7]}};
    if ((s = gather(tensors, "moment1.", names, buffer, PA_MOMENT1, p, backend, ctx, err))) goto done;
    if ((s = gather(tensors + count, "moment2.", names + count, buffer + p->floats, PA_MOMENT2, p, backend, ctx, err))) goto done;
    s = pa_st_write(path, tensors, 2 * count, meta, sizeof meta / sizeof *meta, err);
done:
    free(tensors), free(names), free(buffer);
    return s;
}

// RUN/name -> target, replaced in one step.
static pa_status point(const char *run, const char *name, const char *target, pa_err *err) {
    char link[PATH], temporary[PATH + 32];
    snprintf(link, sizeof link, "%s/%s", run, name);
    snprintf(temporary, sizeof temporary, "%s.tmp.%d", link, (int)getpid());
    unlink(temporary);
    if (symlink(target, temporary) || rename(temporary, link)) {
        int e = errno;
        unlink(temporary);
        return pa_error(err, PA_FAIL, "%s: cannot link to %s: %s", link, target, strerror(e));
    }
    return pa_sync_dir(run, err);
}

// Step of a checkpoint's folder name, -1 for any other name.
static int64_t step_of(const char *name) {
    char *end;
    if (strncmp(name, "step-", 5) || name[5] < '0' || name[5] > '9') return -1;
    long long step = strtoll(name + 5, &end, 10);
    return *end ? -1 : step;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

// Steps of all checkpoints of a run, newest first; leavings of interrupted saves are removed on the way.
static pa_status list_steps(const char *run, int64_t **steps, size_t *count, pa_err *err) {
    char folder[PATH], path[PATH + 300];
    *steps = NULL, *count = 0;
    snprintf(folder, sizeof folder, "%s/checkpoints", run);
    DIR *d = opendir(folder);
    if (!d) return errno == ENOENT ? PA_OK : pa_error(err, PA_FAIL, "%s: cannot be read: %s", folder, strerror(errno));
    pa_status s = PA_OK;
    for (struct dirent *e; !s && (e = readdir(d));) {
        int64_t step = step_of(e->d_name);
        if (step < 0) {
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            if (!strncmp(e->d_name, "step-", 5) && strstr(e->d_name, ".tmp.")) s = pa_remove_tree(path, err);
            continue;
        }
        int64_t *grown = realloc(*steps, (*count + 1) * sizeof *grown);
        if (!grown) {
            s = pa_error(err, PA_FAIL, "%s: no memory", folder);
            break;
        }
        *steps = grown, grown[(*count)++] = step;
    }
    closedir(d);
    if (s) free(*steps), *steps = NULL, *count = 0;
    if (*count) qsort(*steps, *count, sizeof **steps, newest_first);
    return s;
}

// Removes all but the `keep` newest checkpoints, never what latest or best point at.
static pa_status prune(const char *run, int keep, pa_err *err) {
    int64_t *steps;
    size_t count;
    char path[PATH + 64], target[2][256] = {"", ""};
    const char *links[] = {"latest", "best"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", run, links[i]);
        ssize_t n = readlink(path, target[i], sizeof target[i] - 1);
        target[i][n > 0 ? n : 0] = 0;
    }
    pa_status s = list_steps(run, &steps, &count, err);
    for (size_t i = (size_t)(keep > 1 ? keep : 1); !s && i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)steps[i]);
        if (!strcmp(name, target[0]) || !strcmp(name, target[1])) continue;
        snprintf(path, sizeof path, "%s/%s", run, name);
        s = pa_remove_tree(path, err);
    }
    free(steps);
    return s;
}

// Puts a finished folder in its place in one step, also over an older one of the same name.
static pa_status place(const char *temporary, const char *folder, pa_err *err) {
    if (!rename(temporary, folder)) return PA_OK;
    if (errno == EEXIST || errno == ENOTEMPTY) {
        if (!renameat2(AT_FDCWD, temporary, AT_FDCWD, folder, RENAME_EXCHANGE)) return pa_remove_tree(temporary, err);
        // A file system that can't exchange two folders, such as NFS.
        if (!pa_remove_tree(folder, NULL) && !rename(temporary, folder)) return PA_OK;
    }
    return pa_error(err, PA_FAIL, "%s: cannot be renamed to %s: %s", temporary, folder, strerror(errno));
}

pa_status pa_checkpoint_save(const char *run, const pa_config *c, pa_encoding encoding, const pa_run_state *state, const pa_params *params,
                             const pa_backend *backend, pa_context *ctx, bool best, pa_err *err) {
    char parent[PATH], name[64], folder[PATH + 64], temporary[PATH + 128];
    snprintf(parent, sizeof parent, "%s/checkpoints", run);
    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)state->step);
    snprintf(folder, sizeof folder, "%s/%s", run, name);
    snprintf(temporary, sizeof temporary, "%s.tmp.%d", folder, (int)getpid());
    pa_status s = pa_make_dirs(temporary, err);
    if (s) return s;
    if ((s = write_model(temporary, c, encoding, state, params, backend, ctx, err))) goto failed;
    if ((s = write_state(temporary, state, params, backend, ctx, err))) goto failed;
    if ((s = pa_sync_dir(temporary, err)) || (s = place(temporary, folder, err))) goto failed;
    if ((s = pa_sync_dir(parent, err)) || (s = point(run, "latest", name, err))) return s;
    if (best && (s = point(run, "best", name, err))) return s;
    return prune(run, c->checkpoint.keep, err);
failed:
    pa_remove_tree(temporary, NULL); // the first error is the one to tell
    return s;
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
    return PA_OK;
}

static pa_status load_moments(const pa_st *st, const pa_params *p, const pa_backend *backend, pa_context *ctx, pa_err *err) {
    const char *prefix[] = {"moment1.", "moment2."};
    for (int k = 0; k < 2; k++)
        for (int t = 0; t < p->count; t++) {
            char name[80];
            const pa_tensor *have;
            int64_t shape[] = {p->row[t].shape[0], p->row[t].shape[1]};
            snprintf(name, sizeof name, "%s%s", prefix[k], p->row[t].name);
            pa_status s = pa_st_need(st, name, PA_F32, p->row[t].rank, shape, &have, err);
            if (s || (s = backend->write(ctx, k ? PA_MOMENT2 : PA_MOMENT1, t, have->data, err))) return s;
        }
    return PA_OK;
}

static pa_status load(const char *folder, const pa_config *c, pa_run_state *state, const pa_params *p, const pa_backend *backend,
                      pa_context *ctx, pa_err *err) {
    char path[PATH + 96];
    pa_weights w;
    pa_st *st = NULL;
    pa_status s = pa_weights_open(&w, folder, NULL, NULL, err);
    if (s) return s == PA_FAIL ? s : PA_DATA;
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    if ((s = pa_config_same_model(&w.model, &c->model, err))) goto done; // the user's to mend: not passed over
    if (access(path, F_OK) && errno == ENOENT) {
        s = pa_error(err, PA_DATA, "%s: expected the run's state beside model.safetensors, found none", path);
        goto done;
    }
    if ((s = pa_st_open(&st, path, err)) || (s = read_state(st, state, err))) goto done;
    if (state->seed != (uint64_t)c->train.seed) {
        s = pa_error(err, PA_USAGE, "train.seed: checkpoint %llu, configuration %lld", (unsigned long long)state->seed,
                     (long long)c->train.seed);
        goto done;
    }
    if ((s = load_moments(st, p, backend, ctx, err))) goto done;
    s = pa_weights_load(&w, p, backend, ctx, err);
done:
    pa_st_close(st);
    pa_weights_close(&w);
    return s;
}

pa_status pa_checkpoint_resume(const char *run, const pa_config *c, pa_run_state *state, const pa_params *params, const pa_backend *backend,
                               pa_context *ctx, bool *found, pa_err *err) {
    int64_t *steps;
    size_t count;
    *found = false;
    pa_status s = list_steps(run, &steps, &count, err);
    if (s) return s;
    for (size_t i = 0; i < count && !*found; i++) {
        char folder[PATH];
        pa_err why = {""};
        snprintf(folder, sizeof folder, "%s/checkpoints/step-%08lld", run, (long long)steps[i]);
        s = load(folder, c, state, params, backend, ctx, &why);
        *found = s == PA_OK;
        if (s == PA_DATA) fprintf(stderr, "damaged checkpoint passed over: %s\n", why.text);
        if (s && s != PA_DATA) {
            if (err) *err = why;
            break;
        }
    }
    if (s == PA_DATA)
        pa_error(err, PA_DATA, "%s/checkpoints: expected a whole checkpoint, found %zu damaged; --fresh starts anew beside them", run,
                 count);
    free(steps);
    return s;
}
