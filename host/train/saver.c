// saver.c: see saver.h. Training waits while weights and moments are copied; a thread writes the copy. A checkpoint
// appears by one rename, once it has been read back; until then, or if anything fails, the run directory is unchanged.
#include "host/train/saver.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/files/checkpoint_list.h"
#include "host/files/safetensors_write.h"

enum { PATH = 4096 };

// From pa_saver_save until `thread` ends, the thread owns everything but `written`.
struct pa_saver {
    const pa_run *run;
    pa_run_state state;
    bool best;
    bool muon;   // matrices have no second moment
    float *copy; // parameters, first moments, average if any (floats each), second moments (those that are), padded as
                 // in the table
    char *model; // its settings as text
    bool started;
    pthread_t thread;
    atomic_bool written; // or failed
    pa_status status;
    pa_err err;
};

size_t pa_saver_floats(const pa_params *p, bool muon, bool average) {
    return (2 + (size_t)average) * p->floats + pa_params_adam(p, muon, 0, p->floats);
}

pa_status pa_saver_open(pa_saver **out, const pa_run *run, pa_err *err) {
    pa_saver *s = *out = calloc(1, sizeof *s);
    bool muon = run->config->optimizer.name == PA_MUON;
    size_t bytes = pa_saver_floats(run->params, muon, run->average != NULL) * sizeof(float);
    if (s)
        *s = (pa_saver){
            .run = run, .muon = muon, .copy = malloc(bytes), .model = pa_config_model_text(&run->config->model)};
    if (s && s->copy && s->model) return PA_OK;
    pa_saver_close(s);
    *out = NULL;
    return pa_error(err, PA_FAIL, "%s: no memory for a copy of weights and moments, %.1f MB", run->dir,
                    (double)bytes * 1e-6);
}

void pa_saver_close(pa_saver *s) {
    if (!s) return;
    pa_saver_wait(s, NULL);
    free(s->copy);
    free(s->model);
    free(s);
}

// ---- the copy

enum { AVERAGE = PA_MOMENT2 + 1 }; // a kind of tensors beside pa_kind's

// Where tensor t of a kind is in the copy; NULL: it has none.
static float *place_of(const pa_saver *s, int kind, int t) {
    const pa_params *p = s->run->params;
    size_t offset = p->row[t].offset, average = s->run->average ? p->floats : 0;
    if (kind == PA_PARAM) return s->copy + offset;
    if (kind == PA_MOMENT1) return s->copy + p->floats + offset;
    if (kind == AVERAGE) return s->copy + 2 * p->floats + offset;
    if (s->muon && p->row[t].group == PA_GROUP_MATRIX) return NULL;
    return s->copy + 2 * p->floats + average + pa_params_adam(p, s->muon, 0, offset);
}

static const struct {
    pa_kind kind;
    const char *name;
} trained[] = {{PA_PARAM, "weights"}, {PA_MOMENT1, "first moments"}, {PA_MOMENT2, "second moments"}};
enum { TRAINED = sizeof trained / sizeof *trained };

static pa_status copy_all(pa_saver *s, pa_err *err) {
    const pa_run *r = s->run;
    for (size_t k = 0; k < TRAINED; k++)
        for (int t = 0; t < r->params->count; t++) {
            float *to = place_of(s, trained[k].kind, t);
            pa_status status = to ? r->backend->read(r->ctx, trained[k].kind, t, to, err) : PA_OK;
            if (status) return status;
        }
    if (r->average) memcpy(s->copy + 2 * r->params->floats, r->average, r->params->floats * sizeof *s->copy);
    return PA_OK;
}

pa_status pa_saver_lend(const pa_run *r, pa_err *err) {
    float *buffer = malloc(r->params->floats * 4);
    pa_status status =
        buffer ? PA_OK
               : pa_error(err, PA_FAIL, "%s: no memory for moments, %.1f MB", r->dir, (double)r->params->floats * 4e-6);
    for (int k = 0; k < 2; k++) // in the order of copy_all
        for (int t = 0; t < r->params->count && !status; t++) {
            const pa_param *row = &r->params->row[t];
            if (k && row->group == PA_GROUP_MATRIX && r->config->optimizer.name == PA_MUON) continue;
            status = r->backend->read(r->ctx, k ? PA_MOMENT2 : PA_MOMENT1, t, buffer + row->offset, err);
        }
    free(buffer);
    return status;
}

// Describes the tensors of one kind in the copy; returns how many.
static size_t view(const pa_saver *s, int kind, const char *prefix, pa_tensor *out, char (*names)[80]) {
    const pa_params *p = s->run->params;
    size_t n = 0;
    for (int t = 0; t < p->count; t++) {
        const pa_param *row = &p->row[t];
        const float *from = place_of(s, kind, t);
        if (!from) continue;
        snprintf(names[n], sizeof names[n], "%s%s", prefix, row->name);
        out[n] = (pa_tensor){names[n], PA_F32, row->rank, {row->shape[0], row->shape[1]}, from, row->size * 4};
        n++;
    }
    return n;
}

// ---- the thread

static pa_status check_finite(const pa_saver *s, pa_err *err) {
    for (size_t k = 0; k < TRAINED; k++)
        for (int t = 0; t < s->run->params->count; t++) {
            const pa_param *row = &s->run->params->row[t];
            const float *x = place_of(s, trained[k].kind, t);
            if (x && !pa_all_finite(x, row->size))
                return pa_error(err, PA_FAIL, "step %lld is not saved: %s of %s are not finite",
                                (long long)s->state.step, trained[k].name, row->name);
        }
    return PA_OK;
}

// Reads the file back: if the file system lost or changed a byte, the previous checkpoint is still there.
static pa_status write_file(const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta,
                            size_t meta_count, uint32_t *crc, pa_err *err) {
    pa_st *back;
    pa_err why;
    pa_status status = pa_st_write(path, tensors, count, meta, meta_count, err);
    if (status) return status;
    if (pa_st_open(&back, path, &why)) return pa_error(err, PA_FAIL, "%s; it was just written", why.text);
    if (crc) *crc = pa_st_crc(back);
    pa_st_close(back);
    return PA_OK;
}

static pa_status write_model(const pa_saver *s, const char *folder, pa_tensor *tensors, char (*names)[80],
                             uint32_t *crc, pa_err *err) {
    char path[PATH + 256], step[32];
    float frequency[128], *positions = NULL; // half of dim_head, at most 256
    const pa_params *p = s->run->params;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(step, sizeof step, "%lld", (long long)s->state.step);
    size_t count = view(s, s->run->average ? AVERAGE : PA_PARAM, "", tensors, names);
    // Tensors that perceiver_ar_pytorch's load_state_dict also requires; nothing here reads them. Without a learned
    // embedding it is zeros.
    int half = pa_rotary_dims(&p->model) / 2;
    for (int j = 0; j < half; j++) frequency[j] = (float)pow(10000, -(double)j / half);
    tensors[count++] = (pa_tensor){"rotary_pos_emb.inv_freq", PA_F32, 1, {half}, frequency, (size_t)half * 4};
    if (p->pos_emb < 0) {
        const pa_model *m = &p->model;
        size_t size = (size_t)m->context * (size_t)m->dim;
        if (!(positions = calloc(size, sizeof *positions)))
            return pa_error(err, PA_FAIL, "%s: no memory for %zu zeros", path, size);
        tensors[count++] = (pa_tensor){"pos_emb.weight", PA_F32, 2, {m->context, m->dim}, positions, size * 4};
    }
    const pa_meta meta[] = {{"format", "patrain-checkpoint-1"},
                            {"model", s->model},
                            {"encoding", pa_encoding_name(s->run->encoding)},
                            {"step", step}};
    pa_status status = write_file(path, tensors, count, meta, sizeof meta / sizeof *meta, crc, err);
    free(positions);
    return status;
}

enum { FACTS = 20 };

typedef struct {
    pa_meta meta[FACTS];
    char value[FACTS][80];
    size_t count;
} facts;

__attribute__((format(printf, 3, 4))) static void add_fact(facts *f, const char *key, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f->value[f->count], sizeof f->value[0], format, arguments);
    va_end(arguments);
    f->meta[f->count] = (pa_meta){key, f->value[f->count]};
    f->count++;
}

static void add_running(facts *f, const char *key, const pa_running *r) {
    add_fact(f, key, "%.17g %.17g %lld", r->mean, r->variance, (long long)r->count);
}

static pa_status write_state(const pa_saver *s, const char *folder, pa_tensor *tensors, char (*names)[80],
                             uint32_t model, pa_err *err) {
    char path[PATH + 256];
    const pa_run_state *r = &s->state;
    facts f = {.count = 0};
    add_fact(&f, "format", "patrain-state-1");
    add_fact(&f, "step", "%lld", (long long)r->step);
    add_fact(&f, "updates", "%lld", (long long)r->updates);
    add_fact(&f, "seconds", "%.17g", r->seconds);
    add_fact(&f, "skips", "%lld", (long long)r->skips);
    add_fact(&f, "best", "%.17g", r->best);
    add_fact(&f, "best_step", "%lld", (long long)r->best_step);
    add_fact(&f, "seed", "%llu", (unsigned long long)r->seed);
    add_fact(&f, "evaluated", "%lld", (long long)r->evaluated);
    add_fact(&f, "optimizer", "%s", s->muon ? "muon" : "adam");
    add_fact(&f, "corpus", "%08x", s->run->corpus);
    if (r->validation) add_fact(&f, "validation", "%08x", r->validation);
    add_fact(&f, "model_crc32c", "%08x", model);
    add_fact(&f, "spikes", "%lld", (long long)r->spikes);
    add_running(&f, "loss_running", &r->loss);
    add_running(&f, "norm_running", &r->norm);
    if (r->scaling.factor > 0)
        add_fact(&f, "loss_scaling", "%.17g %lld", r->scaling.factor, (long long)r->scaling.steps);
    if (s->run->average) add_fact(&f, "ema", "%.17g", s->run->config->train.ema);
    size_t count = view(s, PA_MOMENT1, "moment1.", tensors, names);
    count += view(s, PA_MOMENT2, "moment2.", tensors + count, names + count);
    if (s->run->average) count += view(s, PA_PARAM, "weight.", tensors + count, names + count);
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    return write_file(path, tensors, count, f.meta, f.count, NULL, err);
}

static pa_status write_folder(const pa_saver *s, const char *folder, pa_err *err) {
    size_t count = (size_t)s->run->params->count;
    uint32_t model = 0;
    pa_tensor *tensors = calloc(3 * count + 2, sizeof *tensors); // the model file has two more
    char(*names)[80] = calloc(3 * count, sizeof *names);
    pa_status status =
        tensors && names ? PA_OK : pa_error(err, PA_FAIL, "%s: no memory for %zu names", folder, 3 * count);
    pa_remove_tree(folder, NULL); // of a save that could not be finished here
    if (!status) status = pa_make_dirs(folder, err);
    if (!status) status = write_model(s, folder, tensors, names, &model, err);
    if (!status) status = write_state(s, folder, tensors, names, model, err);
    if (!status) status = pa_sync_dir(folder, err);
    free(tensors);
    free(names);
    return status;
}

// Renames a finished folder to its final name. An older one of that name is exchanged in one step if the file system
// can (NFS can't); otherwise pa_checkpoint_list finds one of the two whatever happens in between.
static pa_status place(const char *temporary, const char *folder, pa_err *err) {
    char old[PATH + 128];
    if (!rename(temporary, folder)) return PA_OK;
    if (errno == EEXIST || errno == ENOTEMPTY) {
        if (!renameat2(AT_FDCWD, temporary, AT_FDCWD, folder, RENAME_EXCHANGE)) return pa_remove_tree(temporary, err);
        snprintf(old, sizeof old, "%s.old.%s", folder, pa_process_word());
        if (!rename(folder, old)) {
            if (!rename(temporary, folder)) return pa_remove_tree(old, err);
            int why = errno;
            rename(old, folder);
            errno = why;
        }
    }
    return pa_error(err, PA_FAIL, "cannot rename %s to %s: %s", temporary, folder, strerror(errno));
}

// Some file systems have no symbolic links. Nothing depends on them: a run resumes from its newest checkpoint.
static bool has_no_links(int why) {
    return why == EPERM || why == ENOTSUP || why == EOPNOTSUPP || why == ENOSYS;
}

// Replaces the link RUN/name -> target in one step. In a copy of a run that followed its links, there is a folder
// instead.
static pa_status point(const char *run, const char *name, const char *target, pa_err *err) {
    char link[PATH], temporary[PATH + 32], found[256];
    snprintf(link, sizeof link, "%s/%s", run, name);
    ssize_t n = readlink(link, found, sizeof found - 1);
    found[n > 0 ? n : 0] = 0;
    if (!strcmp(found, target)) return PA_OK;
    pa_temporary_name(link, temporary, sizeof temporary);
    if (symlink(target, temporary)) {
        if (has_no_links(errno)) return PA_OK;
        return pa_error(err, PA_FAIL, "cannot link %s to %s: %s", link, target, strerror(errno));
    }
    int failed = rename(temporary, link);
    if (failed && errno == EISDIR && !pa_remove_tree(link, NULL)) failed = rename(temporary, link);
    if (failed) {
        int e = errno;
        unlink(temporary);
        return pa_error(err, PA_FAIL, "cannot link %s to %s: %s", link, target, strerror(e));
    }
    return pa_sync_dir(run, err);
}

pa_status pa_checkpoint_links(const char *run, const pa_run_state *state, pa_err *err) {
    char name[64], path[PATH + 64];
    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)state->step);
    pa_status s = point(run, "latest", name, err);
    if (s || !isfinite(state->best)) return s;
    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)state->best_step);
    snprintf(path, sizeof path, "%s/%s", run, name);
    return access(path, F_OK) ? PA_OK : point(run, "best", name, err);
}

// Renames it first: a half-removed folder must not look like a checkpoint, after a power cut neither.
static pa_status remove_checkpoint(const char *run, const char *name, pa_err *err) {
    char path[PATH + 64], going[PATH + 128], parent[PATH];
    snprintf(parent, sizeof parent, "%s/checkpoints", run);
    snprintf(path, sizeof path, "%s/%s", run, name);
    pa_temporary_name(path, going, sizeof going);
    if (rename(path, going)) return pa_error(err, PA_FAIL, "cannot rename %s to %s: %s", path, going, strerror(errno));
    pa_status s = pa_sync_dir(parent, err);
    return s ? s : pa_remove_tree(going, err);
}

// Removes all but the `keep` newest checkpoints up to `step`, except what latest and best point at. Checkpoints after
// `step` were damaged when the run resumed; they stay until the run has passed them.
static pa_status prune(const char *run, int64_t step, int keep, pa_err *err) {
    int64_t *steps;
    size_t count, first = 0;
    char path[PATH + 64], target[2][256] = {"", ""};
    const char *links[] = {"latest", "best"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", run, links[i]);
        ssize_t n = readlink(path, target[i], sizeof target[i] - 1);
        target[i][n > 0 ? n : 0] = 0;
    }
    pa_status s = pa_checkpoint_list(run, &steps, &count, err);
    while (!s && first < count && steps[first] > step) first++;
    for (size_t i = first + (size_t)(keep > 1 ? keep : 1); !s && i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)steps[i]);
        if (!strcmp(name, target[0]) || !strcmp(name, target[1])) continue;
        s = remove_checkpoint(run, name, err);
    }
    free(steps);
    return s;
}

// Places it unless another run has the directory; one that has taken it just now shall not resume from it.
static pa_status place_own(const pa_saver *s, const char *temporary, const char *folder, pa_err *err) {
    char parent[PATH];
    struct stat own, there;
    snprintf(parent, sizeof parent, "%s/checkpoints", s->run->dir);
    bool known = !stat(temporary, &own);
    pa_status status = pa_lock_check(s->run->lock, err);
    if (!status) status = place(temporary, folder, err); // no other run has a folder of this name
    if (!status) status = pa_sync_dir(parent, err);
    if (status || !(status = pa_lock_check(s->run->lock, err))) return status;
    if (known && !stat(folder, &there) && own.st_ino == there.st_ino && own.st_dev == there.st_dev &&
        rename(folder, temporary)) {} // nothing can be done
    return status;
}

// Makes the folder's name the newest checkpoint's, and removes those that are not kept any more.
static pa_status make_newest(const pa_saver *s, const char *name, pa_err *err) {
    const char *run = s->run->dir;
    pa_status status = point(run, "latest", name, err);
    if (!status && s->best) status = point(run, "best", name, err);
    return status ? status : prune(run, s->state.step, s->run->config->checkpoint.keep, err);
}

static pa_status write_all(const pa_saver *s, pa_err *err) {
    char name[64], folder[PATH + 64], temporary[PATH + 128];
    pa_status status = pa_lock_check(s->run->lock, err);
    if (status) return status;
    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)s->state.step);
    snprintf(folder, sizeof folder, "%s/%s", s->run->dir, name);
    pa_temporary_name(folder, temporary, sizeof temporary);
    if ((status = check_finite(s, err))) return status;
    status = write_folder(s, temporary, err);
    if (!status) status = place_own(s, temporary, folder, err);
    if (!status) return make_newest(s, name, err);
    pa_remove_tree(temporary, NULL); // the first error is the one to report
    return status;
}

static void *write_in_thread(void *saver) {
    pa_saver *s = saver;
    s->status = write_all(s, &s->err);
    atomic_store(&s->written, true);
    return NULL;
}

// ---- between the two

pa_status pa_saver_wait(pa_saver *s, pa_err *err) {
    if (s->started) pthread_join(s->thread, NULL);
    s->started = false;
    if (s->status && err) *err = s->err;
    return s->status;
}

pa_status pa_saver_check(pa_saver *s, pa_err *err) {
    return s->started && atomic_load(&s->written) ? pa_saver_wait(s, err) : PA_OK;
}

void pa_saver_forget(pa_saver *s) {
    s->status = PA_OK;
}

pa_status pa_saver_save(pa_saver *s, const pa_run_state *state, bool best, pa_err *err) {
    pa_status status = pa_saver_wait(s, err);
    if (status || (status = copy_all(s, err))) return status;
    s->state = *state;
    s->best = best;
    s->status = PA_OK;
    pa_scaling now = s->run->backend->scaling ? s->run->backend->scaling(s->run->ctx, NULL) : (pa_scaling){0};
    if (now.factor > 0) s->state.scaling = now; // else as it was when the run was last on a GPU
    atomic_store(&s->written, false);
    sigset_t all, before; // signals go to the training thread
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    s->started = !pthread_create(&s->thread, NULL, write_in_thread, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (s->started) return PA_OK;
    write_in_thread(s); // no thread: training waits
    return pa_saver_wait(s, err);
}
