// score.h: how well a model predicts token files: whole pieces with every token scored once, or one crop of each piece.
// Both show their progress on stderr. Knows nothing of devices or of how results are printed.
#ifndef PA_SCORE_H
#define PA_SCORE_H

#include <signal.h>

#include "host/files/token_set.h"
#include "host/model/backend.h"

enum { PA_CLASS_NOTE_ON, PA_CLASS_NOTE_OFF, PA_CLASS_TIME_SHIFT, PA_CLASS_VELOCITY, PA_CLASS_END, PA_CLASSES };

typedef struct {
    double nats[PA_CLASSES]; // sums of -ln p(token)
    int64_t tokens[PA_CLASSES], correct[PA_CLASSES];
    int64_t notes;      // of the pieces scored whole
    double seconds;     // of their music
    double seed_sum;    // over crops: the mean loss of each by the seed project's definition
    int64_t seed_crops; // crops with something to score by it
} pa_score;

int64_t pa_score_tokens(const pa_score *s);
double pa_score_nats(const pa_score *s);
double pa_score_loss(const pa_score *s);      // nats a token over all classes; NaN where there is none
double pa_score_loss_seed(const pa_score *s); // NaN where there was none
const char *pa_class_name(int c);             // "NOTE_ON"

// Windows at a time: about PA_BUSY_LATENTS latents.
int pa_score_batch(const pa_model *m);
static inline int pa_score_stride(const pa_model *m) { // unless set: half of the latents
    return pa_latents(m) > 1 ? pa_latents(m) / 2 : 1;
}

typedef struct {
    const pa_backend *backend;
    pa_context *ctx;
    const pa_model *model;
    const pa_token_set *tokens;
    int64_t pieces; // the first ones of tokens; 0: all
    int batch;      // windows at a time, at most what ctx was opened for; 0: pa_score_batch. Sums don't depend on it
} pa_scoring;

// Scores every token but each piece's first, and not END, exactly once: windows of `context` tokens advance by `stride`
// (0: pa_score_stride), and a token is scored in the first that holds it, which gives it the most context. Before the first full
// window they start at 0 with a shorter prefix; a piece's last window ends with it.
pa_status pa_score_pieces(const pa_scoring *x, int stride, pa_score *score, pa_err *err);

typedef struct {
    uint64_t seed;
    bool seed_too;                     // score by the seed project's definition too
    pa_comm *comm;                     // ranks that share the pieces and all get the score; NULL: this process only
    const volatile sig_atomic_t *stop; // NULL, or a flag: PA_STOPPED and no score where it is set on any rank
} pa_crops;

// Scores one crop of each piece, its start drawn from (seed, piece), as the seed project drew its own: context + 1
// tokens where the piece has as many, else all of it, END as the last target, and PAD. The N latents' targets but PAD
// are scored. The seed project's definition: PAD is scored and token 0 is not (ignore_index), a mean over each crop and
// then over the crops, which is its mean over batches at its batch size of 1.
pa_status pa_score_crops(const pa_scoring *x, const pa_crops *crops, pa_score *score, pa_err *err);

#endif
