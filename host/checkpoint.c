// checkpoint.c: checkpoints of a run, found again: the newest one that is whole. Writing them is in checkpoint_write.c.
#include "host/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 4096 };

// Step of a checkpoint's folder name, -1 for any other name.
static int64_t step_of(const char *name) {
    char own[32];
    if (strncmp(name, "step-", 5)) return -1;
    long long step = strtoll(name + 5, NULL, 10);
    snprintf(own, sizeof own, "step-%08lld", step);
    return step >= 0 && !strcmp(name, own) ? step : -1;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

// What an interrupted save left: a folder that was not finished goes, one that stood aside for another comes back unless that one is there.
static pa_status tidy(const char *folder, const char *name, pa_err *err) {
    char path[PATH + 300], place[PATH + 300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (strstr(name, ".tmp.")) return pa_remove_tree(path, err);
    size_t length = strlen(path);
    if (length < 4 || strcmp(path + length - 4, ".old")) return PA_OK;
    snprintf(place, sizeof place, "%.*s", (int)length - 4, path);
    if (!access(place, F_OK)) return pa_remove_tree(path, err);
    return rename(path, place) ? pa_error(err, PA_FAIL, "%s: cannot be renamed to %s: %s", path, place, strerror(errno)) : PA_OK;
}

// Calls `each` for every name in RUN/checkpoints that begins with "step-".
static pa_status walk(const char *run, pa_status (*each)(void *user, const char *folder, const char *name, pa_err *err), void *user,
                      pa_err *err) {
    char folder[PATH];
    snprintf(folder, sizeof folder, "%s/checkpoints", run);
    DIR *d = opendir(folder);
    if (!d) return errno == ENOENT ? PA_OK : pa_error(err, PA_FAIL, "%s: cannot be read: %s", folder, strerror(errno));
    pa_status s = PA_OK;
    for (struct dirent *e; !s && (errno = 0, e = readdir(d));)
        if (!strncmp(e->d_name, "step-", 5)) s = each(user, folder, e->d_name, err);
    if (!s && errno) s = pa_error(err, PA_FAIL, "%s: cannot be read: %s", folder, strerror(errno)); // not a run without checkpoints
    closedir(d);
    return s;
}

static pa_status tidy_each(void *user, const char *folder, const char *name, pa_err *err) {
    (void)user;
    return tidy(folder, name, err);
}

typedef struct {
    int64_t *step;
    size_t count;
} steps;

static pa_status list_each(void *user, const char *folder, const char *name, pa_err *err) {
    steps *l = user;
    int64_t step = step_of(name);
    if (step < 0) return PA_OK;
    int64_t *grown = realloc(l->step, (l->count + 1) * sizeof *grown);
    if (!grown) return pa_error(err, PA_FAIL, "%s: no memory", folder);
    l->step = grown, grown[l->count++] = step;
    return PA_OK;
}

pa_status pa_checkpoint_list(const char *run, int64_t **step, size_t *count, pa_err *err) {
    steps l = {0};
    pa_status s = walk(run, tidy_each, NULL, err);
    if (!s) s = walk(run, list_each, &l, err);
    if (s) free(l.step), l = (steps){0};
    if (l.count) qsort(l.step, l.count, sizeof *l.step, newest_first);
    *step = l.step, *count = l.count;
    return s;
}

int64_t pa_checkpoint_newest(const char *run) {
    steps l = {0};
    int64_t newest = -1;
    if (walk(run, list_each, &l, NULL)) l.count = 0;
    for (size_t i = 0; i < l.count; i++)
        if (l.step[i] > newest) newest = l.step[i];
    free(l.step);
    return newest;
}

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
    const char *spikes = pa_st_meta(st, "spikes"); // older ones have not counted them
    r->spikes = spikes ? atoll(spikes) : 0;
    read_running(pa_st_meta(st, "loss_running"), &r->loss), read_running(pa_st_meta(st, "norm_running"), &r->norm);
    const char *scaling = pa_st_meta(st, "loss_scaling");
    if (scaling && sscanf(scaling, "%lf %" SCNd64, &r->scaling.factor, &r->scaling.steps) != 2) r->scaling = (pa_scaling){0};
    return PA_OK;
}

static pa_status load_moments(const pa_st *st, const pa_run *run, pa_err *err) {
    const char *prefix[] = {"moment1.", "moment2."};
    for (int k = 0; k < 2; k++)
        for (int t = 0; t < run->params->count; t++) {
            char name[80];
            const pa_tensor *have;
            const pa_param *row = &run->params->row[t];
            int64_t shape[] = {row->shape[0], row->shape[1]};
            snprintf(name, sizeof name, "%s%s", prefix[k], row->name);
            pa_status s = pa_st_need(st, name, PA_F32, row->rank, shape, &have, err);
            if (s || (s = run->backend->write(run->ctx, k ? PA_MOMENT2 : PA_MOMENT1, t, have->data, err))) return s;
        }
    return PA_OK;
}

// A run's checkpoints are folders and files of its own: what a link leads to may be another's, and may change.
static pa_status refuse_link(const char *path, pa_err *err) {
    struct stat info;
    if (lstat(path, &info) || !S_ISLNK(info.st_mode)) return PA_OK;
    return pa_error(err, PA_DATA, "%s: expected the run's own, found a link", path);
}

// What a run can't change on its way; the model's shapes apart.
static pa_status check_same_run(const pa_run *run, const pa_run_state *state, pa_encoding encoding, const char *corpus, pa_err *err) {
    const pa_config *c = run->config;
    char mine[16];
    snprintf(mine, sizeof mine, "%08x", run->corpus);
    if (state->seed != (uint64_t)c->train.seed)
        return pa_error(err, PA_USAGE, "train.seed: checkpoint %llu, configuration %lld", (unsigned long long)state->seed,
                        (long long)c->train.seed);
    if (encoding != run->encoding)
        return pa_error(err, PA_USAGE, "data.train: expected the checkpoint's encoding, %s, found %s", pa_encoding_name(encoding),
                        pa_encoding_name(run->encoding));
    if (corpus && strcmp(corpus, mine)) // older ones don't say
        return pa_error(err, PA_USAGE,
                        "%s: expected the corpus that the run began with, CRC-32C %s, found %s; --init takes its weights to another",
                        c->data.train, corpus, mine);
    return PA_OK;
}

static pa_status load(const char *folder, const pa_run *run, pa_run_state *state, pa_err *err) {
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
    if ((s = pa_config_same_model(&w.model, &c->model, err))) goto done; // the user's to mend: not passed over
    if (access(path, F_OK) && errno == ENOENT) {
        s = pa_error(err, PA_DATA, "%s: expected the run's state beside model.safetensors, found none", path);
        goto done;
    }
    if ((s = pa_st_open(&st, path, err)) || (s = read_state(st, state, err))) goto done;
    if (state->step != w.step) {
        s = pa_error(err, PA_DATA, "%s: expected step %lld, of model.safetensors, found %lld", path, (long long)w.step,
                     (long long)state->step);
        goto done;
    }
    if ((s = check_same_run(run, state, w.encoding, pa_st_meta(st, "corpus"), err))) goto done;
    if ((s = load_moments(st, run, err))) goto done;
    s = pa_weights_load(&w, run->params, run->backend, run->ctx, err);
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
        s = load(folder, run, state, &why);
        *found = s == PA_OK;
        if (s == PA_DATA) fprintf(stderr, "damaged checkpoint passed over: %s\n", why.text);
        if (s && s != PA_DATA) {
            if (err) *err = why;
            break;
        }
    }
    if (s == PA_DATA)
        pa_error(err, PA_DATA, "%s/checkpoints: expected a whole checkpoint, found %zu damaged; --fresh starts anew beside them", run->dir,
                 count);
    free(step);
    return s;
}
