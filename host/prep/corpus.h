// corpus.h: a list of MIDI files. Knows nothing of where the list comes from (corpus_find.h) nor of what is in the
// files.
#ifndef PA_CORPUS_H
#define PA_CORPUS_H

#include "host/files/token_set.h"

typedef struct {
    char *name;          // path below the folder
    const char *refused; // why it can't be read, where that is known already; else NULL
    uint8_t split;       // of a list: a pa_split
    bool unseen;         // a folder or file that can't be read: its content is unknown
} pa_corpus_file;

typedef struct {
    char *folder;
    pa_corpus_file *file; // in order of name
    size_t count, room;
    char *metadata;             // path of the list; NULL: all MIDI files below the folder
    size_t unlisted;            // MIDI files below the folder that the list does not name: not of the corpus
    char *unlisted_name;        // the first of them; NULL without
    size_t apple, again, other; // skipped: AppleDouble files, further names of a file or folder, files of other kinds
    size_t unseen;
} pa_corpus;

void pa_corpus_clear(pa_corpus *c);
// The path to open; false where it has no room.
bool pa_corpus_path(const pa_corpus *c, const char *name, char *path, size_t size);
pa_status pa_corpus_add(pa_corpus *c, pa_corpus_file file, pa_err *err); // copies the name

#endif
