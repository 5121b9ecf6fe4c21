// checkpoint_list.c: see checkpoint_list.h.
#include "host/files/checkpoint_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"

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

// Cleans up after a save that was killed: removes an unfinished folder, and restores one that was moved aside unless
// its replacement exists.
static pa_status tidy_each(void *user, const char *folder, const char *name, pa_err *err) {
    const char *word = user, *ending = strchr(name, '.');
    char path[PATH + 300], place[PATH + 300];
    if (!ending || strlen(ending) != 5 + strlen(word) || strcmp(ending + 5, word)) return PA_OK;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(place, sizeof place, "%s/%.*s", folder, (int)(ending - name), name);
    if (!strncmp(ending, ".tmp.", 5) || !access(place, F_OK)) return pa_remove_tree(path, err);
    return rename(path, place) ? pa_error(err, PA_FAIL, "cannot rename %s to %s: %s", path, place, strerror(errno))
                               : PA_OK;
}

// Calls `each` for every name in RUN/checkpoints that begins with "step-".
static pa_status walk(const char *run, pa_status (*each)(void *user, const char *folder, const char *name, pa_err *err),
                      void *user, pa_err *err) {
    char folder[PATH];
    snprintf(folder, sizeof folder, "%s/checkpoints", run);
    DIR *d = opendir(folder);
    if (!d)
        return errno == ENOENT ? PA_OK : pa_error(err, PA_FAIL, "cannot read folder %s: %s", folder, strerror(errno));
    pa_status s = PA_OK;
    for (const struct dirent *e; !s && (e = pa_next_entry(d, folder, &s, err));)
        if (!strncmp(e->d_name, "step-", 5)) s = each(user, folder, e->d_name, err);
    closedir(d);
    return s;
}

pa_status pa_checkpoint_tidy(const char *run, const char *word, pa_err *err) {
    return walk(run, tidy_each, (char *)word, err);
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
    l->step = grown;
    grown[l->count++] = step;
    return PA_OK;
}

pa_status pa_checkpoint_list(const char *run, int64_t **step, size_t *count, pa_err *err) {
    steps l = {0};
    pa_status s = walk(run, list_each, &l, err);
    if (s) {
        free(l.step);
        l = (steps){0};
    }
    if (l.count) qsort(l.step, l.count, sizeof *l.step, newest_first);
    *step = l.step;
    *count = l.count;
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
