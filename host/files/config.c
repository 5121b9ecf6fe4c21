// config.c: the schema of a run's settings, their defaults, checks across keys, and printing. config_read.c reads them.
// It knows the range of a setting, not its effect.
#include "host/files/config_schema.h"
#include "tokenizer/tokens.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE 9007199254740991.0 // 2^53 - 1, the largest that JSON and double keep exactly
#define KEY(s, k) .section = #s, .key = #k, .offset = offsetof(pa_config, s.k)
#define INT(a, b) .type = PA_KEY_INT, .low = a, .high = b
#define INT64(a, b) .type = PA_KEY_INT64, .low = a, .high = b
#define REAL(a, b) .type = PA_KEY_REAL, .low = a, .high = b
#define ABOVE(a, b) REAL(a, b), .above_low = true
#define BELOW(a, b) REAL(a, b), .below_high = true
#define BOOL .type = PA_KEY_BOOL
#define ENUM(n) .type = PA_KEY_ENUM, .names = n
#define TEXT(s, k) .type = PA_KEY_TEXT, .room = sizeof((pa_config *)0)->s.k

// clang-format off
const pa_key pa_keys[] = {
    {KEY(model, context), INT(2, 1 << 20), .help = "Tokens of a full window."},
    {KEY(model, prefix), INT(0, (1 << 20) - 1),
     .help = "Tokens at the start of a full window that are attended to but not predicted from; the rest are the "
             "latents."},
    {KEY(model, dim), INT(1, 1 << 16), .help = "Width of the residual stream."},
    {KEY(model, heads), INT(1, 1024), .help = "Attention heads."},
    {KEY(model, dim_head), INT(1, 256), .help = "Width of a head."},
    {KEY(model, depth), INT(0, 1024), .help = "Self-attention blocks over the latents."},
    {KEY(model, perceive_depth), INT(1, 64),
     .help = "Cross-attention blocks before them, from the latents to the prefix."},
    {KEY(model, ff_mult), INT(1, 64), .help = "Width of a feed-forward's hidden layer, as a multiple of dim."},
    {KEY(model, vocab), INT(2, 65535), .help = "Size of the vocabulary."},
    {KEY(model, prefix_dropout), BELOW(0, 1), .help = "Share of the prefix dropped from each training window."},
    {KEY(model, dropout), BELOW(0, 0.99),
     .help = "Dropout of cross-attention weights and feed-forward activations in training."},
    {KEY(model, z_loss), BELOW(0, 1e6), .help = "Weight of the mean of ln(Z)^2 in the training objective."},
    {KEY(model, position), ENUM("learned+rotary|rotary"),
     .help = "Position encoding: rotary, with or without a learned embedding."},
    {KEY(model, activation), ENUM("gelu|sqrelu"),
     .help = "Activation of the feed-forwards: exact GELU, or the square of ReLU."},
    {KEY(model, rotary_dims), INT(0, 256), .automatic = true,
     .help = "Dims of a head that rotate with the position, an even number; auto: the larger of 32 and dim_head / "
             "2, at most dim_head."},
    {KEY(model, lags), INT(0, PA_MOST_LAGS),
     .help = "Tokens before each whose embeddings, from tables of their own, are added to its own."},
    {KEY(model, value_emb), BOOL, .help = "Add a row, chosen by the token, to each block's values."},
    {KEY(model, keyboard), BOOL,
     .help = "Add what the tokens up to each say of the keyboard: keys that are down or were just released, and the "
             "time since the last notes."},
    {KEY(model, final_norm), BOOL, .help = "Layer norm before the logits."},
    {KEY(model, qk_norm), BOOL, .help = "Norm of queries and keys."},
    {KEY(model, tie_embeddings), BOOL, .help = "Token embedding shared with the logits."},

    {KEY(data, train), TEXT(data, train),
     .help = "Token files to train on: names and patterns separated by commas; a.safetensors*3 counts its pieces "
             "three times."},
    {KEY(data, validation), TEXT(data, validation),
     .help = "Token files to evaluate on: names and patterns separated by commas; empty: no evaluation, no samples."},
    {KEY(data, sampling), ENUM("piece|token"),
     .help = "Choice of windows. piece: each piece once an epoch, at a random place; token: uniform over all "
             "tokens."},
    {KEY(data, augment_transpose), INT(0, 24), .help = "Largest random transposition, in semitones up or down."},
    {KEY(data, augment_stretch), BELOW(0, 1),
     .help = "Largest random change of tempo; 0.05 stretches time by 0.95 to 1.05."},
    {KEY(data, augment_velocity), INT(0, 31),
     .help = "Largest random change of loudness, in velocity bins up or down."},
    {KEY(data, piece_starts), REAL(0, 1),
     .help = "Share of the windows that begin at the start of a piece: half of them without a prefix, the others "
             "with prefixes of all lengths."},

    {KEY(train, global_batch), INT(1, 1 << 20), .help = "Windows a step, over all ranks."},
    {KEY(train, micro_batch), INT(0, 1 << 20), .automatic = true,
     .help = "Windows that a device computes at once; auto: about 8192 latents."},
    {KEY(train, steps), INT64(0, WHOLE),
     .help = "Steps to train; 0: no limit. The run ends at the first limit it reaches: steps, epochs or minutes."},
    {KEY(train, epochs), REAL(0, INFINITY), .help = "Epochs to train; 0: no limit."},
    {KEY(train, minutes), REAL(0, INFINITY),
     .help = "Minutes to train, over all starts of the run, evaluations included; the step under way is finished. "
             "0: no limit."},
    {KEY(train, precision), ENUM("auto|fp32|bf16|fp16"),
     .help = "Precision of matrix products and attention; everything else is float32."},
    {KEY(train, recompute), BOOL,
     .help = "Activation checkpointing: only each block's input is kept. Less memory, about a third more work."},
    {KEY(train, deterministic), BOOL,
     .help = "Bit-identical runs on GPUs of one model: kernels are fixed, not chosen by timing. CPU runs always "
             "are. Both hold only for the same number of ranks and threads and the same instruction set."},
    {KEY(train, grad_clip), REAL(0, INFINITY),
     .help = "Largest global norm of the gradients, which are scaled down to it; 0: no clipping."},
    {KEY(train, seed), INT64(0, WHOLE), .help = "Random seed."},
    {KEY(train, ema), BELOW(0, 1),
     .help = "Decay a step of an exponential moving average of the weights, such as 0.999. Checkpoints then hold "
             "the average as the model, and best is chosen by its evaluation. 0: no average."},
    {KEY(train, max_skips), INT(0, 1000000),
     .help = "Steps in a row that may be skipped for a loss or gradient that is not finite; 0: any number."},
    {KEY(train, gradient_sums), ENUM("fp32|bf16"),
     .help = "Type in which gradients are summed over ranks; bf16, on GPUs only, sends half the bytes."},
    {KEY(train, zero), INT(0, 1),
     .help = "1: each rank stores and updates only its share of the moments (ZeRO-1), with the same results."},
    {KEY(train, timeout), ABOVE(0, 1e6),
     .help = "Seconds to wait for a silent rank before the run aborts; longer than a step, a save and a sample "
             "take."},
    {KEY(train, grace), INT(0, 1000000),
     .help = "Seconds that a step may still take after Ctrl-C or SIGTERM; then it is dropped and the last finished "
             "step saved."},

    {KEY(optimizer, name), ENUM("adam|adamw|muon"),
     .help = "Optimizer. adamw decays weights directly, adam through the gradient; muon orthogonalises the updates "
             "of hidden matrices and is adamw for the rest."},
    {KEY(optimizer, lr), ABOVE(0, 1), .automatic = true,
     .help = "Learning rate after the warm-up, with muon that of hidden matrices; auto: 0.0003, with muon 0.02."},
    {KEY(optimizer, lr_embedding), ABOVE(0, 1), .automatic = true,
     .help = "Learning rate of embeddings; auto: lr, with muon lr / 10."},
    {KEY(optimizer, lr_head), ABOVE(0, 1), .automatic = true,
     .help = "Learning rate of the logits' weight; auto: as lr_embedding's auto."},
    {KEY(optimizer, lr_rest), ABOVE(0, 1), .automatic = true,
     .help = "Learning rate of norms and biases; auto: as lr_embedding's auto."},
    {KEY(optimizer, momentum), BELOW(0, 1), .help = "Decay of muon's momentum."},
    {KEY(optimizer, beta1), BELOW(0, 1), .help = "Decay of the first moment."},
    {KEY(optimizer, beta2), BELOW(0, 1), .help = "Decay of the second moment."},
    {KEY(optimizer, eps), ABOVE(0, 1), .help = "Term added to the root of the second moment."},
    {KEY(optimizer, weight_decay), REAL(0, 100),
     .help = "Weight decay of matrices; norms, biases and embeddings are exempt."},
    {KEY(optimizer, schedule), ENUM("constant|cosine|linear|wsd"),
     .help = "Shape of the learning rate's fall to final_lr; wsd: constant, then linear. Constant in a run without "
             "a limit."},
    {KEY(optimizer, warmup), REAL(0, WHOLE),
     .help = "Steps over which the learning rate rises from 0; at most a tenth of train.minutes."},
    {KEY(optimizer, decay), REAL(0, 1), .help = "Share of the run over which wsd falls."},
    {KEY(optimizer, final_lr), REAL(0, 1), .help = "Learning rate at the end, as a share of lr."},

    {KEY(checkpoint, every), INT64(0, WHOLE), .help = "Steps between checkpoints; 0: only at the end."},
    {KEY(checkpoint, keep), INT(1, 1000000), .help = "Newest checkpoints to keep, besides the best."},
    {KEY(checkpoint, best_by), ENUM("eval_loss|none"), .help = "Measure that chooses the best checkpoint."},

    {KEY(log, every), INT64(0, WHOLE), .help = "Steps between progress lines; 0: none."},
    {KEY(log, eval_every), INT64(0, WHOLE), .help = "Steps between evaluations; 0: none."},
    {KEY(log, eval_pieces), INT64(0, WHOLE), .help = "Validation pieces to evaluate; 0: all."},
    {KEY(log, sample_every), INT64(0, WHOLE), .help = "Steps between samples of music; 0: none."},
};
// clang-format on
const int pa_key_count = sizeof pa_keys / sizeof *pa_keys;

pa_config pa_config_default(void) {
    return (pa_config){
        .model = pa_model_default(),
        .data = {.train = "data/train.safetensors", .validation = "data/validation.safetensors"},
        .train = {.global_batch = 8, .grad_clip = 1, .seed = 1, .max_skips = 20, .timeout = 600, .grace = 60},
        .optimizer = {.name = PA_ADAMW,
                      .momentum = 0.95,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .eps = 1e-8,
                      .weight_decay = 0.01,
                      .schedule = PA_SCHEDULE_COSINE,
                      .warmup = 200,
                      .decay = 0.2,
                      .final_lr = 0.1},
        .checkpoint = {.every = 1000, .keep = 3},
        .log = {.every = 10, .eval_every = 1000},
    };
}

double pa_config_lr(const pa_config *c) {
    if (c->optimizer.lr > 0) return c->optimizer.lr;
    return c->optimizer.name == PA_MUON ? 0.02 : 3e-4;
}

pa_status pa_config_check(const pa_config *c, pa_err *err) {
    pa_status s = pa_model_check(&c->model, err);
    if (s) return s;
    if (c->model.vocab != PA_VOCAB)
        return pa_error(err, PA_USAGE, "model.vocab: expected %d, the size of both encodings, found %d", PA_VOCAB,
                        c->model.vocab);
    if (!*c->data.train) return pa_error(err, PA_USAGE, "data.train: expected a token file, found none");
    if (c->train.micro_batch > c->train.global_batch)
        return pa_error(err, PA_USAGE, "train.micro_batch: expected at most train.global_batch, %d, found %d",
                        c->train.global_batch, c->train.micro_batch);
    return PA_OK;
}

// The fewest digits that read back as the same double.
static void format_real(char *out, size_t size, double x) {
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, x);
        if (strtod(out, NULL) == x) return;
    }
}

static void append(char *out, size_t size, const char *text) {
    size_t n = strlen(out);
    if (n < size) snprintf(out + n, size - n, "%s", text);
}

static void append_real(char *out, size_t size, const char *before, double x) {
    char number[40];
    format_real(number, sizeof number, x);
    append(out, size, before);
    append(out, size, number);
}

static void number_range(const pa_key *k, char *out, size_t size) {
    append(out, size, k->type == PA_KEY_REAL ? "a number" : "a whole number");
    if (k->high >= WHOLE) {
        append_real(out, size, k->above_low ? " above " : " of at least ", k->low);
    } else if (k->above_low || k->below_high) {
        append_real(out, size, k->above_low ? " above " : " of at least ", k->low);
        append_real(out, size, k->below_high ? " and below " : " and at most ", k->high);
    } else {
        append_real(out, size, " from ", k->low);
        append_real(out, size, " to ", k->high);
    }
}

void pa_key_range(const pa_key *k, char *out, size_t size) {
    out[0] = 0;
    if (k->type == PA_KEY_BOOL) {
        append(out, size, "true or false");
    } else if (k->type == PA_KEY_TEXT) {
        snprintf(out, size, "text of at most %zu bytes, no space at its ends and no \" ;\"", k->room - 1);
    } else if (k->type == PA_KEY_ENUM) {
        for (const char *n = k->names; *n;) {
            char name[32];
            size_t length = strcspn(n, "|");
            snprintf(name, sizeof name, "%.*s", (int)length, n);
            n += length;
            if (out[0]) append(out, size, *n ? ", " : " or ");
            append(out, size, name);
            n += *n == '|';
        }
    } else {
        if (k->automatic) append(out, size, "auto or ");
        number_range(k, out, size);
    }
}

// The value in *c as INI text that reads back to the same bits.
static void format_key(const pa_key *k, const pa_config *c, char *out, size_t size) {
    const char *at = (const char *)c + k->offset;
    int small = 0;
    if (k->type == PA_KEY_INT || k->type == PA_KEY_ENUM) memcpy(&small, at, sizeof small);
    if (k->automatic && k->type == PA_KEY_REAL ? *(const double *)(const void *)at == 0 : k->automatic && !small) {
        snprintf(out, size, "auto");
    } else if (k->type == PA_KEY_INT) {
        snprintf(out, size, "%d", small);
    } else if (k->type == PA_KEY_INT64) {
        snprintf(out, size, "%lld", (long long)*(const int64_t *)(const void *)at);
    } else if (k->type == PA_KEY_REAL) {
        format_real(out, size, *(const double *)(const void *)at);
    } else if (k->type == PA_KEY_BOOL) {
        snprintf(out, size, "%s", *(const bool *)at ? "true" : "false");
    } else if (k->type == PA_KEY_TEXT) {
        snprintf(out, size, "%s", at);
    } else {
        const char *n = k->names;
        while (small--) n += strcspn(n, "|") + 1;
        snprintf(out, size, "%.*s", (int)strcspn(n, "|"), n);
    }
}

static void print_keys(const pa_config *c, const char *section, bool help, FILE *out) {
    pa_config defaults = pa_config_default();
    const char *open = "";
    char text[PA_KEY_TEXT_ROOM], range[PA_KEY_TEXT_ROOM];
    for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++) {
        if (section && strcmp(section, k->section)) continue;
        if (strcmp(open, k->section)) fprintf(out, "%s[%s]\n", *open ? "\n" : "", k->section);
        open = k->section;
        if (help) {
            pa_key_range(k, range, sizeof range);
            format_key(k, &defaults, text, sizeof text);
            fprintf(out, "; %s (%s; default %s)\n", k->help, range, text);
        }
        format_key(k, c, text, sizeof text);
        fprintf(out, "%s = %s\n", k->key, text);
    }
}

void pa_config_print(const pa_config *c, bool help, FILE *out) {
    print_keys(c, NULL, help, out);
}

char *pa_config_model_text(const pa_model *m) {
    char *text = NULL;
    size_t length;
    pa_config c = {.model = *m};
    FILE *out = open_memstream(&text, &length);
    if (!out) return NULL;
    print_keys(&c, "model", false, out);
    if (!fclose(out)) return text;
    free(text);
    return NULL;
}

pa_status pa_config_same_model(const pa_model *checkpoint, const pa_model *configuration, pa_err *err) {
    pa_config a = {.model = *checkpoint}, b = {.model = *configuration};
    char all[sizeof err->text] = "", one[sizeof err->text], in_a[PA_KEY_TEXT_ROOM], in_b[PA_KEY_TEXT_ROOM];
    a.model.prefix_dropout = b.model.prefix_dropout; // only training uses these: they may differ
    a.model.dropout = b.model.dropout;
    a.model.z_loss = b.model.z_loss;
    if (pa_rotary_dims(checkpoint) == pa_rotary_dims(configuration)) a.model.rotary_dims = b.model.rotary_dims;
    for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++) {
        if (strcmp(k->section, "model")) continue;
        format_key(k, &a, in_a, sizeof in_a);
        format_key(k, &b, in_b, sizeof in_b);
        if (!strcmp(in_a, in_b)) continue;
        snprintf(one, sizeof one, "%smodel.%s: checkpoint %.40s, configuration %.40s", *all ? "; " : "", k->key, in_a,
                 in_b);
        append(all, sizeof all, one);
    }
    return *all ? pa_error(err, PA_USAGE, "%s", all) : PA_OK;
}

void pa_config_print_changes(const pa_config *before, const pa_config *now, FILE *out) {
    char was[PA_KEY_TEXT_ROOM], is[PA_KEY_TEXT_ROOM];
    for (int i = 0; i < pa_key_count; i++) {
        const pa_key *k = &pa_keys[i];
        format_key(k, before, was, sizeof was);
        format_key(k, now, is, sizeof is);
        if (strcmp(was, is)) fprintf(out, "%s.%s: was %s, is %s\n", k->section, k->key, was, is);
    }
}
