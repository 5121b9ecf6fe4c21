// corpus.h: which MIDI files a folder holds and to which split each belongs, from MAESTRO's metadata or by a hash of their names.
// Knows nothing of what is in the files.
#ifndef PA_CORPUS_H
#define PA_CORPUS_H

#include "host/base/base.h"

typedef enum { PA_SPLIT_TRAIN, PA_SPLIT_VALIDATION, PA_SPLIT_TEST, PA_SPLITS } pa_split;
const char *pa_split_name(pa_split split); // "train"

typedef struct {
    char *name; // path below the folder
    char *path; // as it is opened
    pa_split split;
    const char *refused; // why it can't be read, where that is known already; else NULL
} pa_corpus_file;

typedef struct {
    pa_corpus_file *file; // in order of name
    size_t count, room;
    char *metadata;      // path of the list that was followed; NULL: every .mid and .midi below the folder, split by name
    size_t unlisted;     // .mid and .midi below the folder that the list does not name; they are no files of the corpus
    char *unlisted_name; // the first of them; NULL without
} pa_corpus;

// metadata: a CSV or JSON with MAESTRO's columns split and midi_filename; NULL: the folder's own maestro-v*.csv or .json, if it has one.
pa_status pa_corpus_find(pa_corpus *c, const char *folder, const char *metadata, pa_err *err);
void pa_corpus_clear(pa_corpus *c);

// For readers of lists.
pa_status pa_corpus_add(pa_corpus *c, const char *folder, const char *name, pa_split split, const char *refused, pa_err *err);

#endif
