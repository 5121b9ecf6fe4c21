// player.h: the thread that computes: it takes the pages' requests from the hub, keeps their sessions, and has the
// model continue, listen and answer.
#ifndef PA_PLAYER_H
#define PA_PLAYER_H

#include "host/serve/hub.h"
#include "include/patrain.h"
#include "tokenizer/workers.h"

typedef struct {
    const char *model;  // as for patrain_model_open
    const char *folder; // where sessions are saved
    const char *piano;  // JSON about the samples, for the pages
    const char *font;   // SoundFont of takes as pages; NULL: an installed one
    patrain_options how;
    int streams;       // duets that compute without reading their piece again
    pa_reader *reader; // of uploaded files
} pa_player_options;

typedef struct pa_player pa_player;

// Opens the model and a stream, so that what can't work fails here.
pa_status pa_player_open(pa_player **player, const pa_player_options *o, pa_hub *hub, pa_err *err);
const char *pa_player_model(const pa_player *p); // its file
pa_status pa_player_start(pa_player *p, pa_err *err);
// Ends its threads. False: a page is still rendered, which nothing can stop; p must stay.
bool pa_player_stop(pa_player *p);
pa_status pa_player_save(pa_player *p, pa_err *err); // the sessions; prints the latency of the answers
void pa_player_close(pa_player *p);                  // after pa_player_stop; NULL is fine

#endif
