// config.h: a run's settings. One schema table gives each key's section, type, range, default and help; the reader,
// --print-config and error messages use it.
#ifndef PA_CONFIG_H
#define PA_CONFIG_H

#include "host/model/backend.h"

typedef enum { PA_SAMPLING_PIECE, PA_SAMPLING_TOKEN } pa_sampling;
typedef enum { PA_SCHEDULE_CONSTANT, PA_SCHEDULE_COSINE, PA_SCHEDULE_LINEAR, PA_SCHEDULE_WSD } pa_schedule;
typedef enum { PA_ADAM, PA_ADAMW, PA_MUON } pa_optimizer;
typedef enum { PA_SUMS_FP32, PA_SUMS_BF16 } pa_sums;
typedef enum { PA_BEST_BY_EVAL_LOSS, PA_BEST_BY_NONE } pa_best_by;

typedef struct {
    pa_model model;
    struct {
        char train[1024], validation[1024]; // token files
        pa_sampling sampling;               // piece: each piece once an epoch; token: windows uniform over all tokens
        int augment_transpose;              // semitones, either way, 0: none
        double augment_stretch;             // 0.05: time times 0.95 to 1.05
        int augment_velocity;               // velocity bins, either way
        double piece_starts;                // share of the windows that begin a piece
    } data;
    struct {
        int global_batch, micro_batch; // windows a step, over all ranks; windows at once on one device (0: chosen)
        int64_t steps;                 // 0: no limit
        double epochs, minutes;        // 0: no limit; the first limit reached ends the run
        pa_precision precision;
        bool recompute, deterministic;
        double grad_clip;
        int64_t seed;
        double ema; // decay of the average of weights; 0: none
        int max_skips;
        pa_sums gradient_sums; // over ranks
        int zero;              // 1: each rank stores its share of the moments (ZeRO-1)
        double timeout;        // seconds to wait for a silent rank
        int grace;             // seconds that a step may take after a signal to stop
    } train;
    struct {
        pa_optimizer name;
        double lr, lr_embedding, lr_head, lr_rest; // 0: chosen
        double momentum, beta1, beta2, eps, weight_decay;
        pa_schedule schedule;
        double warmup;   // steps
        double decay;    // share of the run (wsd)
        double final_lr; // share of lr, at the end
    } optimizer;
    struct {
        int64_t every; // steps; 0: only at the end
        int keep;
        pa_best_by best_by;
    } checkpoint;
    struct {
        int64_t every, eval_every, eval_pieces, sample_every; // steps; 0: never (eval_pieces 0: all)
    } log;
} pa_config;

pa_config pa_config_default(void);
double pa_config_lr(const pa_config *c); // optimizer.lr, or what auto stands for
// Checks that need more than one key (prefix < context, micro_batch <= global_batch, …).
pa_status pa_config_check(const pa_config *c, pa_err *err);
// Prints every key as INI text; with `help`, each after a comment with its meaning, range and default.
void pa_config_print(const pa_config *c, bool help, FILE *out);
// Prints a line for each key that differs, "optimizer.lr: was 0.002, is 0.001".
void pa_config_print_changes(const pa_config *before, const pa_config *now, FILE *out);
// The [model] section as INI text, which checkpoints store; the caller frees it. NULL if out of memory.
char *pa_config_model_text(const pa_model *m);
// PA_USAGE if a checkpoint and a configuration differ in a model key; err lists them, "model.dim: checkpoint 256,
// configuration 512". Keys that only training uses (prefix_dropout, dropout, z_loss) may differ.
pa_status pa_config_same_model(const pa_model *checkpoint, const pa_model *configuration, pa_err *err);

#endif
