// params.h: a model's settings, the one table of its tensors, and its work in flop. Knows nothing of devices, files or
// training. Letters: B sequences, M input tokens, P prefix, N = M - P latents, C dim, H heads, D dim_head, I = H D, F =
// ff_mult C, V vocabulary.
#ifndef PA_PARAMS_H
#define PA_PARAMS_H

#include "host/base/base.h"

typedef enum { PA_POSITION_LEARNED_ROTARY, PA_POSITION_ROTARY } pa_position;
typedef enum { PA_GELU, PA_SQRELU } pa_activation;

typedef struct {
    int context, prefix;       // most input tokens M of a window; P of a full window, 0 <= P < context
    int dim, heads, dim_head;  // C, H, D
    int depth, perceive_depth; // L latent blocks after the prefix cross-attention blocks
    int ff_mult;               // F / C
    int vocab;                 // V
    double prefix_dropout;     // share of prefix positions dropped in training
    double dropout; // of cross-attention weights and feed-forward activations in training, as in perceiver_ar_pytorch
    double z_loss;  // weight of the mean of ln(Z)^2 in the training objective
    pa_position position;
    pa_activation activation;
    int rotary_dims; // 0: max(32, D / 2), at most D, even
    int lags;        // tokens before each whose embeddings are added to its own
    bool keyboard;   // what the tokens up to each say of the keyboard is added, too
    bool value_emb;  // each block's values have a row added, chosen by the token
    bool final_norm, qk_norm, tie_embeddings;
} pa_model;

pa_model pa_model_default(void);                               // v1's shapes, every switch at its default
pa_status pa_model_check(const pa_model *m, pa_err *err);      // PA_USAGE names the field, expected and found
static inline bool pa_is_cross(const pa_model *m, int block) { // its keys include the prefix
    return block < m->perceive_depth;
}
static inline int pa_inner(const pa_model *m) {
    return m->heads * m->dim_head;
}
static inline int pa_ff(const pa_model *m) {
    return m->ff_mult * m->dim;
}
static inline int pa_latents(const pa_model *m) { // N of a full window
    return m->context - m->prefix;
}
int pa_rotary_dims(const pa_model *m); // resolved

// Of `keyboard`: classes of the time since an onset, and since a key went down or up; the table's rows; most of them
// that a token has (host/model/bag.h).
enum { PA_ONSET_TIMES = 64, PA_KEY_TIMES = 8, PA_KEYBOARD_ROWS = 2176, PA_KEYBOARD_SLOTS = 30, PA_MOST_LAGS = 8 };
static inline int pa_bag_slots(const pa_model *m) { // most rows that are added to a token's embedding
    return (m->keyboard ? PA_KEYBOARD_SLOTS : 0) + m->lags;
}

typedef enum {
    PA_INIT_ZERO,
    PA_INIT_ONE,
    PA_INIT_NORMAL,  // mean 0, deviation `scale`
    PA_INIT_UNIFORM, // in [-scale, scale)
} pa_init;

// How a tensor is updated: each group has a learning rate of its own.
typedef enum {
    PA_GROUP_MATRIX, // hidden matrices: of attention and of the feed-forwards
    PA_GROUP_EMBEDDING,
    PA_GROUP_HEAD, // the logits' weight, unless it is the embedding
    PA_GROUP_REST, // norms and biases
    PA_GROUPS
} pa_group;

// One row a tensor: it feeds allocation, initialisation, optimiser, checkpoints, gradient check and printing.
typedef struct {
    char name[64];       // as in perceiver_ar_pytorch
    int rank, shape[2];  // PyTorch's order, row-major
    size_t offset, size; // in floats; offset into the arena of all parameters (each starts on a multiple of 16 floats)
    pa_init init;
    float scale;
    bool decays; // weight decay applies: matrices yes; norms, biases and embeddings no
    bool linear; // a matrix of products only: each call writes its gradient by one product
    pa_group group;
    int parts; // matrices of equal shape that share the tensor, one below the other: 3 of to_qkv
} pa_param;

// Where each role stands in the table. -1: the model has no such tensor.
typedef struct {
    int norm_w, norm_b, context_norm_w, context_norm_b, q, kv, qkv, value_emb, q_norm, k_norm, out_w, out_b;
    int ff_norm_w, ff_norm_b, ff_1, ff_4;
} pa_block_index;

typedef struct {
    pa_model model;
    pa_param *row;
    int count;
    size_t floats;     // of the whole arena, padding included
    size_t parameters; // trainable numbers, padding excluded
    int token_emb, pos_emb, keyboard_emb, lag_emb;
    int bag_emb;                            // the first of the last two, which lie one behind the other, as one table
    int final_norm_w, final_norm_b, logits; // logits = token_emb where tied
    pa_block_index *block;                  // perceive_depth + depth of them
} pa_params;

pa_status pa_params_init(pa_params *p, const pa_model *m, pa_err *err);
void pa_params_clear(pa_params *p);
int pa_params_find(const pa_params *p, const char *name); // row, or -1
size_t pa_params_largest(const pa_params *p);             // numbers of the largest row
// Numbers of [from, to), padding included, that Adam updates: all, or without PA_GROUP_MATRIX under Muon.
size_t pa_params_adam(const pa_params *p, bool muon, size_t from, size_t to);
// Element values of row t as (seed) gives them, into out[size].
void pa_params_draw(const pa_params *p, int t, uint64_t seed, float *out);

// Useful flop of `batch` sequences of `length` tokens whose prefix has `kept` positions and whose latents are the last
// `latents`: model.md's rules. By part, so that the benchmark can say where they go.
typedef struct {
    double linear_forward, linear_backward, attention_forward, attention_backward;
} pa_flops;
pa_flops pa_count_flops(const pa_model *m, int batch, int kept, int latents);
// Kept prefix positions of a training window: P - floor(P * prefix_dropout).
int pa_kept(int prefix, double prefix_dropout);

#endif
