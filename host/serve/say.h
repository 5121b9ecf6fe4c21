// say.h: what the server says to a page: JSON, but for MIDI files.
#ifndef PA_SAY_H
#define PA_SAY_H

#include "host/serve/hub.h"
#include "host/serve/session.h"

void pa_say_session(pa_hub *h, const pa_session *s, const char *model, const char *piano);
void pa_say_take(pa_hub *h, const pa_session *s, const pa_take *t);              // it is new
void pa_say_keys(pa_hub *h, const pa_session *s, const pa_take *t, size_t from); // its keys from there on
void pa_say_event(pa_hub *h, const pa_session *s, const char *is, const pa_take *t, double number);
void pa_say_error(pa_hub *h, uint64_t client, const char *text);

#endif
