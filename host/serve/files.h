// files.h: takes as files: MIDI in and out, and pages, which a thread of their own renders.
#ifndef PA_SERVE_FILES_H
#define PA_SERVE_FILES_H

#include "host/serve/hub.h"
#include "host/serve/session.h"
#include "tokenizer/workers.h"

enum {
    PA_MOST_PAGES = 2, // of a client, that wait to be rendered
    PA_MOST_PAGES_OF_ALL = 8,
    PA_LONGEST_PAGE = 600, // seconds of a take
};

typedef struct pa_files pa_files;

// Tries its scratch folder. model: its name, for the pages; font: as for pa_piano_open.
pa_status pa_files_open(pa_files **files, pa_hub *hub, const char *model, const char *font, pa_err *err);
// Begins no other page. False: one is still rendered, which nothing can stop; f must stay, its files are gone.
bool pa_files_stop(pa_files *f);
void pa_files_close(pa_files *f); // after pa_files_stop; NULL is fine

// The keys of an uploaded file, appended to a take. The file may be anything.
pa_status pa_files_read(pa_reader *reader, const pa_message *upload, pa_take *t, pa_err *err);
pa_status pa_files_send_midi(pa_files *f, uint64_t client, const pa_take *t, pa_err *err);
// Later the client gets the page, or an error. PA_DATA where the take is too long, PA_FAIL where too many wait.
pa_status pa_files_send_page(pa_files *f, uint64_t client, const pa_take *t, pa_err *err);

#endif
