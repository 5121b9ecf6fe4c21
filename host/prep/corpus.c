// corpus.c: see corpus.h.
#include "host/prep/corpus.h"

#include <stdlib.h>
#include <string.h>

void pa_corpus_clear(pa_corpus *c) {
    for (size_t i = 0; i < c->count; i++) free(c->file[i].name);
    free(c->file);
    free(c->folder);
    free(c->metadata);
    free(c->unlisted_name);
    *c = (pa_corpus){0};
}

bool pa_corpus_path(const pa_corpus *c, const char *name, char *path, size_t size) {
    return snprintf(path, size, *name ? "%s/%s" : "%s", c->folder, name) < (int)size;
}

pa_status pa_corpus_add(pa_corpus *c, pa_corpus_file file, pa_err *err) {
    if (c->count == UINT32_MAX)
        return pa_error(err, PA_FAIL, "%s: expected at most %u files, found more", c->folder, UINT32_MAX);
    if (c->count == c->room) {
        size_t room = c->room ? c->room + c->room / 2 : 256;
        pa_corpus_file *grown = realloc(c->file, room * sizeof *grown);
        if (!grown) return pa_error(err, PA_FAIL, "no memory for the names of %zu files", room);
        c->file = grown;
        c->room = room;
    }
    file.name = strdup(file.name);
    if (!file.name) return pa_error(err, PA_FAIL, "no memory for the names of %zu files", c->count);
    c->file[c->count++] = file;
    return PA_OK;
}
