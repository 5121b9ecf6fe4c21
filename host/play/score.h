// score.h: how well a model predicts token files: whole pieces with every token scored once, or one crop of each piece.
// Both show their progress on stderr. Knows nothing of devices or of how results are told.
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

// Windows at a time that keep a device busy without much memory: about 8192 latents.
int pa_score_batch(const pa_model *m);

// Scores every token of the first `pieces` pieces (0: all) but each piece's first, and not END, exactly once: windows of `context` tokens
// advance by `stride` (0: N / 2), and a token is scored in the first that holds it, which gives it the most context. Before the first full
// window they start at 0 with a shorter prefix; a piece's last window ends with it. Sums don't depend on `batch`, the windows at a
// time (0: pa_score_batch), at most what ctx was opened for.
pa_status pa_score_pieces(const pa_backend *backend, pa_context *ctx, const pa_model *m, const pa_token_set *t, int64_t pieces, int stride,
                          int batch, pa_score *score, pa_err *err);
// One crop of each of the first `pieces` pieces (0: all), its start drawn from (seed, piece), as the seed project drew its own: context + 1
// tokens where the piece has as many, else all of it, END as the last target, and PAD. The N latents' targets but PAD are scored. With
// seed_too also by its definition: PAD is scored and token 0 is not (ignore_index), a mean over each crop and then over the crops, which
// is its mean over batches at its batch size of 1. The ranks of `comm` (NULL: this process alone) share the pieces out and all get the
// score. Where stop is not NULL and becomes set on one of them: PA_STOPPED, and no score.
pa_status pa_score_crops(const pa_backend *backend, pa_context *ctx, pa_comm *comm, const pa_model *m, const pa_token_set *t,
                         int64_t pieces, uint64_t seed, int batch, bool seed_too, const volatile sig_atomic_t *stop, pa_score *score,
                         pa_err *err);

#endif
