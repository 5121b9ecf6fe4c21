// say.h: what the server says to a page: JSON, but for files. Each is an object whose "is" says what:
//
//   session  session, model, piano: what was opened; takes: a list of `take`
//   take     take, parent, begins, end, keys, given: a new one; steps, and how many keys it has so far
//   keys     take, turn, keys: four numbers each: step, pitch, velocity (0: released), whether it is the model's
//   loaded   take, number: all its keys were sent; its end, a step
//   done     take, number: it grows no longer; its end
//   listening take, number: the turn is the player's
//   first    take, number: an answer's first note was sent so many ms after it was asked for
//   margin   take, number: seconds that an answer is ahead of the clock
//   thinned  take, number: the machine is busy: 1: continuations wait, and grow one after another; 2: the answer also
//            has fewer notes; 0: no longer
//   dropped  take
//   midi     take, number: the next message is its file, of so many bytes
//   page     take, number: likewise
//   error    text
#ifndef PA_SAY_H
#define PA_SAY_H

#include "host/serve/hub.h"
#include "host/serve/session.h"

void pa_say_session(pa_hub *h, const pa_session *s, const char *model, const char *piano);
void pa_say_take(pa_hub *h, const pa_session *s, const pa_take *t);
void pa_say_keys(pa_hub *h, const pa_session *s, const pa_take *t, size_t from); // its keys from there on
void pa_say_event(pa_hub *h, const pa_session *s, const char *is, const pa_take *t, double number);
// False: too much waits to be read.
bool pa_say_file(pa_hub *h, uint64_t client, const char *is, int take, const void *bytes, size_t count);
void pa_say_elsewhere(pa_hub *h, uint64_t client); // its session is another client's now
void pa_say_error(pa_hub *h, uint64_t client, const char *text);

#endif
