// set_files.h: writes the token files of a prepared corpus, in parts where they get large, and puts a whole set in
// place of an older one. Knows nothing of how pieces got their splits.
#ifndef PA_SET_FILES_H
#define PA_SET_FILES_H

#include "host/prep/pieces.h"

typedef struct {
    pa_encoding encoding;
    int64_t part_bytes; // of a file's data; a longer piece makes a longer file
    bool keep_copies;
} pa_set_options;

typedef struct {
    size_t pieces, notes, tokens, dropped, files;
    double seconds;
} pa_set_totals;

bool pa_set_holds(const pa_row *row, const pa_set_options *o);
// Writes SPLIT.safetensors, or SPLIT-00001-of-00003.safetensors and so on, into `folder`. All files carry one id, of
// what is in them.
pa_status pa_set_write(const pa_pieces *p, const pa_set_options *o, const char *folder, pa_set_totals total[PA_SPLITS],
                       pa_err *err);
// Moves all files of `from` to the folder `to`, and removes what an older set left there.
pa_status pa_set_install(const char *from, const char *to, pa_err *err);

#endif
