// model_path.c: see model_path.h.
#include "host/files/model_path.h"

#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/files/checkpoint_list.h"

enum { PATH = 4096 };

static bool is_folder(const char *path) {
    struct stat s;
    return !stat(path, &s) && S_ISDIR(s.st_mode);
}
static bool is_there(const char *path) {
    struct stat s;
    return !stat(path, &s);
}

// The model file that an existing path means; false: none.
static bool find_file(const char *from, char *path, size_t size) {
    const char *inside[] = {"best/model.safetensors", "latest/model.safetensors", "model.safetensors"};
    snprintf(path, size, "%s", from);
    if (!is_folder(from)) return is_there(from);
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        snprintf(path, size, "%s/%s", from, inside[i]);
        if (is_there(path)) return true;
    }
    int64_t newest = pa_checkpoint_newest(from);
    snprintf(path, size, "%s/checkpoints/step-%08lld/model.safetensors", from, (long long)newest);
    return newest >= 0 && is_there(path);
}

// ---- names

typedef struct {
    char name[5][PATH + 64];
    int count;
} folders;

// The folder of the program, or of the shared library, that holds this code; empty if unknown.
static void own_folder(char out[PATH]) {
    Dl_info info;
    struct link_map *map = NULL;
    const char *file = "/proc/self/exe"; // the name of the program's own link_map is empty
    if (dladdr1((void *)own_folder, &info, (void **)&map, RTLD_DL_LINKMAP) && map && *map->l_name) file = map->l_name;
    if (!realpath(file, out)) *out = 0;
    char *slash = strrchr(out, '/');
    if (slash) *slash = 0;
}

static void add_folder(folders *f, const char *parent, const char *name) {
    snprintf(f->name[f->count], sizeof f->name[0], "%s/%s", parent, name);
    f->count += is_folder(f->name[f->count]);
}

// The folders of models, in order: the user's, and of the others those that exist. Programs are in bin/, libraries in
// lib/ or lib/x86_64-linux-gnu/, or both in a build tree.
static void list_folders(folders *f) {
    const char *set = getenv("PATRAIN_MODELS");
    char at[PATH];
    *f = (folders){0};
    if (set && *set) snprintf(f->name[f->count++], sizeof f->name[0], "%s", set);
    own_folder(at);
    for (int up = 0; up < 3 && *at; up++) {
        if (up < 2) add_folder(f, at, "models");
        if (up > 0) add_folder(f, at, "share/patrain/models");
        char *slash = strrchr(at, '/');
        if (slash) *slash = 0;
    }
}

// Appends "; models in FOLDER: a, b", as far as there is room.
static void append_models(char *text, size_t size, const char *folder) {
    struct dirent **entry;
    char path[PATH + 400], file[PATH + 400];
    const char *before = " ";
    int count = scandir(folder, &entry, NULL, alphasort);
    size_t used = strlen(text);
    snprintf(text + used, size - used, "; models in %s:", folder);
    for (int i = 0; i < count; i++) {
        const char *name = entry[i]->d_name;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (*name != '.' && is_folder(path) && find_file(path, file, sizeof file)) {
            used = strlen(text);
            snprintf(text + used, size - used, "%s%s", before, name);
            before = ", ";
        }
        free(entry[i]);
    }
    if (count >= 0) free(entry);
    used = strlen(text);
    if (*before == ' ') snprintf(text + used, size - used, " none");
}

static pa_status find_name(const char *name, char *path, size_t size, pa_err *err) {
    folders f;
    char folder[PATH + 400], text[900] = "";
    list_folders(&f);
    for (int i = 0; i < f.count; i++) {
        snprintf(folder, sizeof folder, "%s/%s", f.name[i], name);
        if (is_there(folder) && find_file(folder, path, size)) return PA_OK;
    }
    for (int i = 0; i < f.count; i++) append_models(text, sizeof text, f.name[i]);
    if (!f.count) snprintf(text, sizeof text, "; no folder of models found");
    return pa_error(err, PA_USAGE,
                    "%s: expected a model file, a checkpoint, a run directory or a model's name, found nothing there%s",
                    name, text);
}

pa_status pa_model_path(const char *from, char *path, size_t size, pa_err *err) {
    if (!is_there(from) && *from && !strchr(from, '/')) return find_name(from, path, size, err);
    if (!is_there(from))
        return pa_error(err, PA_USAGE,
                        "%s: expected a model file, a checkpoint or a run directory, found nothing there", from);
    if (find_file(from, path, size)) return PA_OK;
    return pa_error(err, PA_USAGE, "%s: expected a run directory or a checkpoint, found no checkpoint in it", from);
}
