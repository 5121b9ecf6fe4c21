// file.h: files that are never half-written, and folders. Knows nothing of what the files contain.
#ifndef PA_FILE_H
#define PA_FILE_H

#include <dirent.h>
#include <stdio.h>

#include "host/base/base.h"

// 16 random hexadecimal digits, constant in a process: an unfinished file or folder is named PATH.tmp.WORD. A process
// id won't do: containers that share a folder may have the same one.
const char *pa_process_word(void);
// PATH.tmp.WORD, without the first letters of a name that would be too long for a folder. False if it doesn't fit into
// `out`.
bool pa_temporary_name(const char *path, char *out, size_t size);

// A file written as PATH.tmp.WORD; pa_file_commit syncs it, renames it to PATH and syncs the folder. Until then PATH
// stays as it was. An error leaves no temporary file. Write through file->stream; commit reports earlier failed writes
// too. The new file gets the permissions of the one it replaces; if PATH is a link, its target is replaced.
typedef struct {
    FILE *stream;
    char path[4096], target[4096]; // as given; without links
    char temporary[4096 + 32];
} pa_file;
pa_status pa_file_create(pa_file *file, const char *path, pa_err *err);
pa_status pa_file_commit(pa_file *file, pa_err *err);
void pa_file_abandon(pa_file *file); // harmless after commit

// Files that appear together. After pa_file_group_begin a committed file of this thread is synced but keeps its
// temporary name; pa_file_group_end renames all of them, one right after the other. If s is an error, it removes them
// instead and returns s. Where a rename fails, the error states how many files appeared. A group begins as {0};
// pa_file_group_end is harmless where pa_file_group_begin failed or never ran.
typedef struct {
    struct pa_finished *file;
    size_t count;
    bool begun;
} pa_file_group;
pa_status pa_file_group_begin(pa_file_group *group, pa_err *err);
pa_status pa_file_group_end(pa_file_group *group, pa_status s, pa_err *err);

// Opens a regular file without waiting: -1 and an error for a named pipe, device, socket or folder. flags: as for
// open(2).
int pa_open_regular(const char *path, int flags, pa_err *err);

// mkdir -p, and syncs the folder of each new one, where it can be read; an empty path is PA_USAGE.
pa_status pa_make_dirs(const char *path, pa_err *err);
// The next entry of an open folder, without "." and ".."; NULL at its end. Where the listing breaks off, also NULL, and
// *s is PA_FAIL, with errno set. path: the folder's, for the message.
const struct dirent *pa_next_entry(DIR *folder, const char *path, pa_status *s, pa_err *err);
pa_status pa_sync_dir(const char *path, pa_err *err); // fsync of a folder, so that renames in it survive a crash
pa_status pa_remove_tree(const char *path,
                         pa_err *err);           // rm -r; a missing path is no error; never follows symbolic links
bool pa_same_file(const char *a, const char *b); // whatever their names; false if one is missing
// Whole file or pipe, NUL-terminated; free(*text). A named pipe that nobody writes to, a device and a folder are
// errors.
pa_status pa_read_text(const char *path, char **text, size_t *length, pa_err *err);

#endif
