// file.h: files that are never half-written, and folders. Knows nothing of what the files contain.
#ifndef PA_FILE_H
#define PA_FILE_H

#include <stdio.h>

#include "host/base/base.h"

// A file written as PATH.tmp.PID; pa_file_commit syncs it, renames it to PATH and syncs the folder. Until then PATH stays as it was. An
// error leaves no temporary file. Write through file->stream; commit reports failed writes at the latest.
typedef struct {
    FILE *stream;
    char path[4096];
    char temporary[4096 + 32];
} pa_file;
pa_status pa_file_create(pa_file *file, const char *path, pa_err *err);
pa_status pa_file_commit(pa_file *file, pa_err *err);
void pa_file_abandon(pa_file *file); // harmless after commit

pa_status pa_make_dirs(const char *path, pa_err *err);   // mkdir -p; an empty path is PA_USAGE
pa_status pa_sync_dir(const char *path, pa_err *err);    // fsync of a folder, so that renames in it survive a crash
pa_status pa_remove_tree(const char *path, pa_err *err); // rm -r; a missing path is no error; never follows symbolic links
bool pa_same_file(const char *a, const char *b);         // whatever their names; false if one is missing
pa_status pa_read_text(const char *path, char **text, size_t *length, pa_err *err); // whole file, NUL-terminated; free(*text)

#endif
