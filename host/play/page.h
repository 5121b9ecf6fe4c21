// page.h: takes as one HTML page that needs nothing else: piano rolls with a cursor, sound, notes as text, MIDI to
// download, and a table of features. Its markup, style and script are page.html. Knows nothing of models.
#ifndef PA_PAGE_H
#define PA_PAGE_H

#include "host/play/rendition.h"

typedef struct {
    const char *title;
    const char *facts; // a paragraph: the settings; NULL: none
    const pa_rendition *take;
    size_t takes;
    const pa_features *primer; // its features; NULL: none
    const char *const *midi;   // each take's file, to be embedded; NULL: none
    // Writes take k as MP3. Called once for each take.
    pa_status (*sound)(void *arg, size_t k, FILE *mp3, pa_err *err);
    void *arg;
} pa_page;

// Writes the page. Atomic (file.h). PA_USAGE where this build lacks cairo.
pa_status pa_page_write(const char *path, const pa_page *page, pa_err *err);

#endif
