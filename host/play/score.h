// score.h: how well a model predicts, summed by class of tokens; and one crop of each piece of a token file, which a
// run's evaluation and the original project score. Shows its progress on stderr. Knows nothing of devices or of how
// results are printed.
#ifndef PA_SCORE_H
#define PA_SCORE_H

#include <signal.h>

#include "host/files/token_set.h"
#include "host/ranks/comm.h"
#include "include/patrain.h"

enum { PA_CLASS_NOTE_ON, PA_CLASS_NOTE_OFF, PA_CLASS_TIME_SHIFT, PA_CLASS_VELOCITY, PA_CLASS_END, PA_CLASSES };

typedef struct {
    double nats[PA_CLASSES]; // sums of -ln p(token)
    int64_t tokens[PA_CLASSES], correct[PA_CLASSES];
    int64_t notes;      // of the pieces scored whole
    double seconds;     // of their music
    double seed_sum;    // over crops: the mean loss of each by the original project's definition
    int64_t seed_crops; // crops with something to score by it
} pa_score;

int64_t pa_score_tokens(const pa_score *s);
double pa_score_nats(const pa_score *s);
double pa_score_loss(const pa_score *s);      // nats a token over all classes; NaN where there is none
double pa_score_loss_seed(const pa_score *s); // NaN where there was none
const char *pa_class_name(int c);             // "NOTE_ON"

void pa_score_add(pa_score *s, uint16_t target, uint16_t best, float nats); // one token

// One forward pass: a scorer's or a trainer's.
typedef pa_status pa_predict(void *arg, const patrain_windows *w, pa_err *err);

typedef struct {
    pa_predict *predict;
    void *arg;
    int context, prefix, vocab; // of the model
    const pa_token_set *tokens;
    int64_t pieces; // the first ones of tokens; 0: all
    int batch;      // windows at a time. Sums don't depend on it
} pa_scoring;

typedef struct {
    uint64_t seed;
    bool seed_too;                     // score by the original project's definition too
    pa_comm *comm;                     // ranks that share the pieces and all get the score; NULL: this process only
    const volatile sig_atomic_t *stop; // NULL, or a flag: PA_STOPPED and no score where it is set on any rank
} pa_crops;

// Where any rank has lost a token file (PA_DATA), all return that.
pa_status pa_share_lost(pa_comm *comm, pa_status s, pa_err *err);

// Scores one crop of each piece, its start drawn from (seed, piece), as the original project drew its own: context + 1
// tokens where the piece has as many, else all of it, END as the last target, and PAD. The N latents' targets but PAD
// are scored. The original project's definition: PAD is scored and token 0 is not (ignore_index), a mean over each crop
// and then over the crops, which is its mean over batches at its batch size of 1.
pa_status pa_score_crops(const pa_scoring *x, const pa_crops *crops, pa_score *score, pa_err *err);

#endif
