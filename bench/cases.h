// cases.h: one table of the CPU's operations at the shapes of models. What test_ops.c checks in small, pabench times in
// full: a row gives flop, bytes, a runner over a table of operations, and the distance from float64. Knows nothing of
// clocks or of test frameworks.
#ifndef PA_TESTS_CASES_H
#define PA_TESTS_CASES_H

#include "cpu/matmul.h"
#include "cpu/ops.h"

// A model's shapes, and the sequences of a call.
typedef struct {
    const char *name;
    int context, prefix, dim, heads, dim_head, depth, batch, vocab;
} case_model;
extern const case_model case_models[5]; // v1 to v5, batch 1
extern const case_model case_small[5];  // for tests: sizes that fill no vector, no tile, and some that do
pa_model case_settings(const case_model *m);

typedef enum {
    CASE_ATTENTION_FWD,
    CASE_ATTENTION_BWD,
    CASE_ATTENTION_DECODE,
    CASE_LAYERNORM_FWD,
    CASE_LAYERNORM_BWD,
    CASE_HEAD_NORM_FWD,
    CASE_HEAD_NORM_BWD,
    CASE_ACTIVATION_FWD,
    CASE_ACTIVATION_BWD,
    CASE_ROTARY_FWD,
    CASE_CROSS_ENTROPY,
    CASE_EMBED_FWD,
    CASE_EMBED_BWD,
    CASE_SUM_SQUARES,
    CASE_ADAM,
    CASE_CAST,
    CASE_WIDEN,
    CASE_COLUMN_SUM,
    CASE_GEMV,
    CASE_MATMUL
} case_kind;

typedef struct {
    char name[56]; // "v3 attention_fwd cross fp32"
    case_kind kind;
    pa_type type;
    int rows, in, out; // of tensors; in: columns that are summed or normalised over
    int batch, latents, kept, heads, dim_head;
    int vocab, positions; // rows of the embeddings
    size_t count;         // of elements, where there are no rows
    pa_product product;   // of CASE_MATMUL
    pa_activation activation;
    bool cross;         // attention with a prefix: q and kv lie apart
    bool cold;          // reads more than a cache holds in real use: weights, moments, cached keys
    bool reads;         // writes next to nothing: held against the read bandwidth, not the copy's
    double flop, bytes; // useful arithmetic; each operand read once and written once
} case_row;

// The rows of one model, at most CASE_ROWS of them; returns how many.
enum { CASE_ROWS = 40 };
int case_table(const case_model *m, pa_type type, case_row row[CASE_ROWS]);

typedef struct {
    void *data, *initial; // initial: what data held first, where the operation changes it
    size_t bytes;
} case_operand;
enum { CASE_OPERANDS = 11 };
// A row with its operands. Drawn numbers are the same in each run.
typedef struct {
    case_row row;
    case_operand x[CASE_OPERANDS];
    // Where and how case_execute computes: as case_open sets it, on the host by its table.
    const pa_ops *ops;
    pa_device *device;
    pa_type type;            // in place of the row's
    void *at[CASE_OPERANDS]; // x[i].data, or its twin on a GPU
    cpu_matmul *mm;          // NULL: ops->product
} case_run;
pa_status case_open(case_run *r, const case_row *row, const pa_ops *ops, pa_err *err);
pa_attn case_attention(const case_run *r); // operands of CASE_ATTENTION_FWD and _BWD
size_t case_work(const case_run *r);       // bytes of X_WORK that the operation needs
void case_reset(case_run *r);              // operands that are changed in place as they were
pa_status case_execute(case_run *r, pa_err *err);
void case_close(case_run *r);
void *
case_memory(size_t bytes); // zeroed, in large pages where the system has them, as a backend's memory is; free() it

// After one case_execute on fresh operands: the output that is furthest from float64. At most `samples` rows (or sums)
// of each output are computed again.
typedef struct {
    const char *output; // the one with the largest share of what is allowed
    double error;       // largest |got - exact| over the largest |exact| of its output, of all outputs
    double allowed; // largest |got - exact| / bound, the bound that rounding implies: above 1 the operation is wrong
} case_error;
case_error case_check(const case_run *r, int samples);

// Operand numbers, for case_check and for other libraries' runs.
enum { X_WORK = CASE_OPERANDS - 1 };
enum { X_Q, X_KV, X_O, X_LSE, X_DOUT, X_DQ, X_DKV }; // attention (X_Q: q, or qkv)
enum { X_LENGTH = X_DOUT, X_NEW }; // attention_decode, beside X_Q, X_KV, X_O: the last keys, then values
enum { X_X, X_R, X_Z, X_Y, X_MEAN, X_RSTD, X_W, X_B };                             // layernorm_fwd, head_norm_fwd
enum { X_DX = 0, X_COPY, X_DW, X_DB, X_DY, X_IN, X_IN_MEAN, X_IN_RSTD, X_WEIGHT }; // layernorm_bwd, head_norm_bwd
enum { X_H = 0, X_G };                                                             // activation
enum { X_TURNED = 0, X_AT, X_TABLE };                                              // rotary
enum { X_LOGITS = 0, X_TARGET, X_NATS, X_BEST, X_DLOGITS, X_SCALARS };             // cross-entropy
enum { X_ROWS = 0, X_TOKEN, X_POSITION, X_TOKEN_EMB, X_POSITION_EMB };             // embed
enum { X_P = 0, X_GRAD, X_M, X_V, X_NARROW, X_SQUARES = X_SCALARS + 1 };           // adam
enum { X_FROM = 0, X_TO };                                                         // sums, casts
enum { X_LEFT = 0, X_RIGHT, X_OUT, X_BIAS };                                       // products

extern const pa_scalars case_scalars; // of cross-entropy and adam
extern const float case_z_loss;

#endif
