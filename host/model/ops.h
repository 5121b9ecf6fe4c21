// ops.h: what the model needs of a backend. One table of functions: the operations of the model, and a smaller group
// for memory, copies, waiting, replay and sums over ranks. The model (forward.c, backward.c, update.c, decode.c) is
// written once over this table; cpu/ and cuda/ fill it in. No type of CUDA, MPI or oneDNN crosses it.
//
// Letters as in host/model/params.h. R = B N latent rows, K kept prefix positions a sequence, Q = B K prefix rows, S
// streams. Rows of a batch are laid out as all kept prefix rows, then all latent rows. "act" is the type of
// activations: float32, bf16 or fp16. Parameters, the residual stream, statistics, losses and all sums are float32 or
// better.
//
// Pointers are device memory unless a comment says otherwise; on a CPU that is the host's. An operation may return
// before its work is done: work runs in the order of the calls, and errors of operations that return nothing are
// reported by `wait`. No operation takes memory. The same inputs, threads and ranks give the same bits: sums have one
// order.
//
// Costs: s is the bytes of a number of the operation's type, n how many numbers an operand has. Bytes are what must
// pass between memory and processor, each operand once. Flop are the useful ones, as pabench counts them; a backend
// that computes more, such as attention's scores again, says so in its own comments. GELU's count is nominal: cpu/
// computes some 44, cuda/ 25 in 16 bits and 100 in float32. "Adds" means that results are added to what is there;
// everything else overwrites.
#ifndef PA_OPS_H
#define PA_OPS_H

#include "host/model/bag.h"
#include "host/ranks/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { PA_TYPE_F32, PA_TYPE_BF16, PA_TYPE_F16 } pa_type;
static inline size_t pa_size(pa_type t) {
    return t == PA_TYPE_F32 ? 4 : 2;
}

// A backend's own state. Every operation gets it first; a CUDA operation finds its stream there.
typedef struct pa_device pa_device;

// Scratch memory of an operation; its *_work function returns how much it needs.
typedef struct {
    void *at;
    size_t bytes;
    bool rare; // the shape hardly repeats: trying out kernels for it doesn't pay
} pa_work;

// Each number is dropped with probability p, survivors are divided by 1 - p. The draw is
// pa_random(seed, PA_RANDOM_DROPOUT, window[b], counter), the same on every backend.
typedef struct {
    float p; // 0: no dropout, the rest is not read
    uint64_t seed;
    const uint64_t *window; // (B)
    uint32_t layer;         // of the model, so that each draws its own
} pa_dropout;

// Operands of attention. Query n of a sequence sees its K prefix keys and latent keys 0..n. Element (row, head h, dim
// d) of a tensor is at row * ld + h * D + d; rows of q, kn, vn, o: b N + n; of kp, vp: b K + k. q and k are already
// rotated.
typedef struct {
    pa_type type;
    int batch, latents, kept, heads, dim_head; // B N K H D
    float scale;                               // scores are scale * q.k
    ptrdiff_t ldq, ldkv, ldo;
    const void *q, *kp, *vp, *kn, *vn; // act; kp, vp unused where kept = 0
    pa_dropout dropout;                // of the normalised weights; counter (layer, h, n, key)
} pa_attn;

typedef struct {
    const void *o;                    // (R, ldo) act, as attn_fwd wrote it
    const float *lse;                 // (B, H, N), likewise
    const void *dout;                 // (R, ldo) act
    void *dq, *dkp, *dvp, *dkn, *dvn; // act, written; rows ldq and ldkv apart
} pa_attn_grads;

// One query a stream against a cache of keys and values.
typedef struct {
    pa_type type; // of the cache
    int streams, heads, dim_head;
    const int32_t *length; // one number: rows filled so far
    int capacity;          // rows of the cache
    float scale;
    ptrdiff_t ldq, ldkv;
    const float *q;             // (S, H D), rows ldq apart
    const float *k_new, *v_new; // (S, H D), rows ldkv apart: this position's
    void *k, *v;                // (S, H, capacity, D) of `type`
    float *o;                   // (S, H D)
    void *work;                 // decode_work bytes, zero before the first call and not touched between calls
    // For a device that fuses (pa_device_info.fuses), unset for others: heads of q and k_new are first normalised as by
    // head_norm_fwd, then turned as by rotary. q and k_new themselves stay as they are.
    const float *q_norm, *k_norm; // (D) or NULL
    const int32_t *position;      // (S)
    const float *table;           // (positions, dims / 2, 2)
    int dims;                     // 0: not turned
} pa_attn_decode;

// Copies keys and values of one sequence, rows of (H, D) that are ld apart, into stream's part of a cache (S, H,
// capacity, D).
typedef struct {
    pa_type type;
    int rows, heads, dim_head, stream, capacity;
    ptrdiff_t ld;
    const void *k, *v;
    void *cache_k, *cache_v;
} pa_cache_rows;

typedef struct {
    const int32_t *token, *position; // (rows)
    const int32_t *bag;              // (slots, rows), slot_ld from one to the next: rows of bag_emb; -1: none
    const float *token_emb;          // (V, C)
    const float *pos_emb;            // (positions, C); NULL: none
    const float *bag_emb;            // (all rows of the parts, C); NULL: none
    int rows, C, slots, slot_ld;
} pa_embed;

typedef struct {
    float *dtoken_emb, *dpos_emb, *dbag_emb; // (V, C), (positions, C) or NULL, as bag_emb or NULL
    const float *dx;                         // (rows, C)
    const int32_t *token, *position, *bag;   // as above
    int rows, C, V, positions, slots, slot_ld, parts;
    const pa_bag_part *part;
} pa_embed_grads;

// Rows of a table, added to rows of x.
typedef struct {
    pa_type type; // of x
    void *x;      // (rows, C), ld apart
    ptrdiff_t ld;
    const int32_t *token; // (rows)
    const float *table;   // (V, C)
    int rows, C;
} pa_add_rows;

typedef struct {
    pa_type type;  // of dx
    float *dtable; // (V, C)
    const void *dx;
    ptrdiff_t ld;
    const int32_t *token;
    int rows, C, V;
} pa_add_rows_grads;

typedef struct {
    pa_type type;
    float *z;           // (rows, C); may be x
    void *y;            // (rows, C) of `type`
    float *mean, *rstd; // (rows), kept for the backward pass
    const float *x, *r; // (rows, C); r NULL: z is not written
    const float *bias;  // (C) or NULL
    const float *w, *b; // (C); w NULL: y is a copy of z
    int rows, C;
} pa_layernorm;

typedef struct {
    pa_type type;
    float *dx;      // (rows, C)
    void *dx_copy;  // (rows, C) of `type`, or NULL
    float *dw, *db; // (C)
    const void *dy; // (rows, C) of `type`
    const float *x; // (rows, C): what was normalised
    const float *mean, *rstd;
    const float *w;
    int rows, C;
    void *work; // norm_work(C)
} pa_layernorm_grads;

// Heads h of row i start at x + i * ld + h * D.
typedef struct {
    pa_type type;
    void *x; // of `type`
    ptrdiff_t ld;
    float *rstd;    // (rows, H)
    const float *w; // (D)
    int rows, H, D;
} pa_head_norm;

typedef struct {
    pa_type type;
    void *dy; // of `type`: becomes dx
    ptrdiff_t ld_dy;
    float *dw;     // (D)
    const void *x; // of `type`: head_norm_fwd's output
    ptrdiff_t ld_x;
    const float *rstd, *w;
    int rows, H, D;
    void *work; // norm_work(D)
} pa_head_norm_grads;

typedef struct {
    pa_type type;
    void *x; // of `type`, heads as in pa_head_norm
    ptrdiff_t ld;
    const int32_t *position; // (rows)
    const float *table;      // (positions, dims / 2, 2): cos and sin
    int rows, H, D, dims;    // dims: how many of a head's D are turned
    float sign;              // 1, or -1: back
} pa_rotary;

typedef struct {
    pa_type type;
    pa_activation kind;
    void *g;       // (rows, F) of `type`; backward: dg, becomes dh
    const void *h; // (rows, F) of `type`
    int rows, F;
    const pa_dropout *dropout; // the host's; NULL: none. Counter (layer, row of the sequence, column)
    int sequence;              // rows of a sequence
} pa_activate;

// What changes from call to call, in device memory so that a captured step can be replayed.
typedef struct {
    float loss_scale; // nats are multiplied by it before they are differentiated
    float grad_scale; // gradients are multiplied by it before the update, clipping not included
    double clip;      // largest norm; 0: never clipped
    double lr[PA_GROUPS];
    double beta1, beta2, eps, decay;
    double c1, c2;   // 1 - beta^step
    double momentum; // Muon's
    bool decoupled;
} pa_scalars;

typedef struct {
    pa_type type;
    void *dlogits;          // (rows, ld) of `type`; NULL: loss only
    float *nats;            // (rows)
    uint16_t *best;         // (rows) or NULL
    const float *logits;    // (rows, ld)
    const uint16_t *target; // (rows); V - 1 and above: not scored. NULL: nothing is
    const pa_scalars *scalars;
    float z_loss;
    int rows, V, ld; // columns from V on are not touched
} pa_cross_entropy;

// The update of parameters [from, to) of the table. All arrays begin at parameter `from`; both are multiples of 16.
typedef struct {
    const pa_params *params; // the host's: says where weight decay applies
    size_t from, to;
    pa_group group; // whose learning rate applies
    float *p, *g, *m, *v;
    void *copy; // of `type`, or NULL
    pa_type type;
    const double *squares; // one number: the sum of all gradients' squares
    const pa_scalars *scalars;
} pa_adam;

// The first step of Muon: of n numbers of matrices.
typedef struct {
    float *m;              // momentum
    float *g;              // gradient; becomes what is to be orthogonalised
    size_t n;              // a multiple of 16
    const double *squares; // as in pa_adam
    const pa_scalars *scalars;
} pa_momentum;

// A matrix on its way into Muon's products.
typedef struct {
    pa_type type;
    void *x;        // (rows, columns) of `type`, or with `turn` (columns, rows)
    const float *u; // (rows, columns)
    int rows, columns;
    bool turn;             // x is u transposed
    const double *squares; // of u
} pa_normalise;

// b = p0 I + p1 a + p2 a a, of symmetric matrices (n, n).
typedef struct {
    pa_type type;
    void *b; // holds a a; becomes the polynomial
    const void *a;
    int n;
    float p0, p1, p2;
} pa_polynomial;

// The last step of Muon. p, copy: (rows, columns).
typedef struct {
    pa_type type; // of x and copy
    float *p;
    void *copy; // of copy_type, or NULL
    pa_type copy_type;
    const void *x; // as in pa_normalise
    int rows, columns;
    bool turn, decays;
    const double *squares; // of all gradients, as in pa_adam
    const pa_scalars *scalars;
} pa_muon;

// c (m, n) = a (m, k) b (k, n), row-major. a_t: a is stored (k, m) and read transposed; b_t: b is stored (n, k).
typedef struct {
    int m, n, k;
    pa_type a, b, c; // a and b alike; sums are float32
    bool a_t, b_t;
    int lda, ldc;      // numbers from row to row of a as stored and of c, where the device pads them; 0: no gaps
    bool add;          // c += instead of c =
    const float *onto; // (m, n), float32 as c is: c = a b + onto. NULL: c = a b. Only where the device adds (context.h)
} pa_product;

// y (S, out) = x (S, in) w^T (+ bias), for few rows.
typedef struct {
    pa_type type; // of w
    float *y;
    const float *x;
    const void *w;      // (out, in); for gemv_int8 int8_t: row o stands for scale[o] w[o]
    const float *scale; // (out), gemv_int8 only
    const float *bias;  // (out) or NULL
    int streams, in, out;
    void *work; // (S, in) float32
    // For a device that fuses, unset for others: x is first normalised as by layernorm_fwd; the result goes through the
    // activation, and is added to y.
    const float *norm_w, *norm_b; // (in) or NULL
    bool activates, adds;
    pa_activation kind;
} pa_gemv;

// Which call a captured step stands for.
typedef enum { PA_STEP_GRADIENTS, PA_STEP_UPDATE, PA_STEP_DECODE } pa_step_kind;
typedef struct {
    pa_step_kind kind;
    int B, M, N, K;      // of PA_STEP_GRADIENTS
    bool dropout, first; // likewise
    bool ranks;          // sums over ranks are in it
} pa_step;

typedef struct {
    const char *name; // of the backend

    // Attention. o (R, ldo) = softmax(scale q k^T, causal) v; lse (B, H, N) = ln of the sum of exponentials, kept for
    // the backward pass. 4 D flop a pair (a query of a head and a key it sees). Scores never leave a tile: memory is
    // `work` only.
    void (*attn_fwd)(pa_device *d, const pa_attn *a, void *o, float *lse, pa_work work);
    // 8 D useful flop a pair.
    void (*attn_bwd)(pa_device *d, const pa_attn *a, const pa_attn_grads *g, pa_work work);
    // Bytes of work that attn_fwd, and with `back` attn_bwd, needs for this shape or one with fewer sequences, latents
    // or kept keys.
    size_t (*attn_work)(pa_device *d, const pa_attn *a, bool back);
    // Puts k_new and v_new at row *length of the cache, then attends to rows 0 .. *length. *length is not advanced.
    // 2 s D bytes and 4 D flop a head and row.
    void (*attn_decode)(pa_device *d, const pa_attn_decode *a);
    size_t (*decode_work)(pa_device *d, int streams, int heads, int dim_head, int capacity); // bytes
    pa_status (*cache_rows)(pa_device *d, const pa_cache_rows *a, pa_err *err); // 4 s D bytes a head and row

    // x (rows, C) = token_emb[token] + pos_emb[position]. 12 n bytes.
    void (*embed_fwd)(pa_device *d, float *x, const pa_embed *a);
    // Adds dx's rows to the embeddings' gradients. 20 n bytes.
    void (*embed_bwd)(pa_device *d, const pa_embed_grads *a);
    void (*add_rows)(pa_device *d, const pa_add_rows *a); // 4 + 2 s bytes and a flop a number
    // Adds dx's rows to the table's gradient. 8 + s bytes and a flop a number.
    void (*add_rows_bwd)(pa_device *d, const pa_add_rows_grads *a);
    // z = x + r (+ bias), y = LN(z; w, b), eps 1e-5; without r, x is normalised. 4 + s bytes and 8 flop a number; with
    // r 12 + s bytes, and a flop more for each of r and bias.
    void (*layernorm_fwd)(pa_device *d, const pa_layernorm *a);
    // Adds to dx, dw, db; dx_copy = dx after that. 12 + s bytes a number, 12 + 2 s with the copy; 18 flop.
    void (*layernorm_bwd)(pa_device *d, const pa_layernorm_grads *a);
    // RMS norm of each head's D numbers (eps 1e-6) times w, in place. 2 s bytes a number, 4 flop.
    void (*head_norm_fwd)(pa_device *d, const pa_head_norm *a);
    // From the normalised output, so that the input is not needed: where w is not 0, x rstd = y / w. Adds to dw. 3 s
    // bytes, 12 flop.
    void (*head_norm_bwd)(pa_device *d, const pa_head_norm_grads *a);
    size_t (*norm_work)(pa_device *d, int width); // bytes, for rows of so many numbers
    // Turns pairs (j, j + dims / 2), j < dims / 2, of each head in place. 2 s bytes and 3 flop a number turned.
    void (*rotary)(pa_device *d, const pa_rotary *a);
    // g = activation(h), then dropout. 2 s bytes a number, 37 flop (GELU, by the error function; nominal), 2 (squared
    // ReLU).
    void (*activation_fwd)(pa_device *d, const pa_activate *a);
    void (*activation_bwd)(pa_device *d, const pa_activate *a); // in place on g. 3 s bytes a number, 40 or 3 flop.
    // nats[i] = -ln softmax(logits)[target], 0 where there is no target; best[i] the most probable token. dlogits =
    // loss_scale * d(nats + z_loss ln(Z)^2)/dlogits, zero rows without a target. 4 + s bytes and 40 flop a logit.
    void (*cross_entropy)(pa_device *d, const pa_cross_entropy *a);
    // *sum = the sum of x in double, and adds it to *total (NULL: not). 4 n bytes.
    void (*sum)(pa_device *d, double *sum, double *total, const float *x, size_t n);
    // *sum = the sum of squares in double. 4 n bytes, 2 n flop. work: sum_work bytes.
    void (*sum_squares)(pa_device *d, double *sum, const float *x, size_t n, void *work);
    size_t (*sum_work)(pa_device *d);
    // Adam as in PyTorch. g is multiplied by grad_scale, and by clip / norm where the norm, grad_scale sqrt(*squares),
    // is larger than clip; then cleared but in `linear` tensors, where it need not be: the next product overwrites it.
    // Where the norm is not finite p, m, v and copy stay. copy = p. 28 + s bytes a number, 16 flop.
    void (*adam)(pa_device *d, const pa_adam *a);
    // Muon's operations on a matrix beside products; host/model/muon.c has the order. Where the norm of all gradients
    // is not finite, m and p stay and g is cleared. g is scaled and clipped as by adam; m = momentum m + (1 - momentum)
    // g; g = (1 - momentum) g + momentum m. 16 bytes a number, 6 flop.
    void (*momentum)(pa_device *d, const pa_momentum *a);
    void (*normalise)(pa_device *d, const pa_normalise *a);   // x = u / (sqrt(*squares) + 1e-7). 4 + s bytes a number.
    void (*polynomial)(pa_device *d, const pa_polynomial *a); // 3 s bytes a number, 4 flop
    // p = (1 - lr decay) p - lr sqrt(max(1, rows / columns)) x; copy = p. 8 + 2 s bytes a number, 3 flop.
    void (*muon)(pa_device *d, const pa_muon *a);
    void (*cast)(pa_device *d, pa_type type, void *y, const float *x, size_t n);  // y = x. 4 + s bytes a number.
    void (*widen)(pa_device *d, pa_type type, float *y, const void *x, size_t n); // y = x. 4 + s bytes a number.
    // Adds the columns of x (rows, C) to sum (C). 4 n bytes. work: norm_work(C) bytes.
    void (*column_sum)(pa_device *d, float *sum, const float *x, int rows, int C, void *work);
    // 2 m n k flop; m k + k n numbers read, m n written (read too with `add` or `onto`). PA_FAIL where the library has
    // no such product.
    pa_status (*product)(pa_device *d, const pa_product *p, const void *a, const void *b, void *c, pa_err *err);
    void (*gemv)(pa_device *d, const pa_gemv *a);      // s in out bytes, 2 S in out flop
    void (*gemv_int8)(pa_device *d, const pa_gemv *a); // in out bytes, 2 S in out flop
    // q (rows, in) = round(w / scale), scale (rows) = max |w| of the row / 127; w becomes scale q, so that evaluation
    // and prefill compute with the weights that decoding reads. 9 bytes a number.
    void (*round_int8)(pa_device *d, int8_t *q, float *scale, float *w, int rows, int in);

    // Memory. `start` runs after the memory plan was printed and before memory is taken: it fails where the device is
    // absent. `take` takes zeroed memory for the arena of that name; plan: bytes of all arenas, for its error. `ready`
    // gives the device its workspace.
    pa_status (*start)(pa_device *d, pa_err *err);
    pa_status (*take)(pa_device *d, const char *arena, size_t bytes, size_t plan, void **base, pa_err *err);
    void (*give)(pa_device *d, void *base, size_t bytes);
    // The host's memory, fit for copies; NULL on a unified device.
    pa_status (*take_host)(pa_device *d, size_t bytes, void **base, pa_err *err);
    void (*give_host)(pa_device *d, void *base); // waits for copies beside the operations
    pa_status (*ready)(pa_device *d, void *workspace, pa_err *err);
    void (*close)(pa_device *d); // waits for what is under way; frees d

    // Copies, in the order of operations. What upload reads must stay, and what download writes is there, until the
    // next wait.
    pa_status (*clear)(pa_device *d, void *to, size_t bytes, pa_err *err);
    pa_status (*copy)(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err); // within the device
    pa_status (*upload)(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err);
    pa_status (*download)(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err);
    // For all of it. what: the words of an error, "computing a loss".
    pa_status (*wait)(pa_device *d, const char *what, pa_err *err);

    // Batches on their way, in two slots: the next call's is copied while the last call still computes. All NULL where
    // unified.
    pa_status (*slot_wait)(pa_device *d, int slot, pa_err *err); // until the slot's host memory may be written
    // slot_send copies beside the operations; slot_take in their order, once sent.
    pa_status (*slot_send)(pa_device *d, int slot, void *to, const void *from, size_t bytes, pa_err *err);
    pa_status (*slot_take)(pa_device *d, int slot, void *to, const void *from, size_t bytes, pa_err *err);
    pa_status (*slot_free)(pa_device *d, int slot, pa_err *err); // once the operations so far are done

    // Optional: runs `work`, which only calls operations and copies, and may replay what it did the last time the same
    // step came. NULL: the model calls `work` itself.
    pa_status (*replay)(pa_device *d, const pa_step *step, pa_status (*work)(void *what, pa_err *err), void *what,
                        pa_err *err);

    // Sums over ranks, if info.ranks. All ranks make the same calls in the same order.
    // sum_begin: `count` gradients are about to be summed; own: see own_apart, else NULL; scatter: each rank needs its
    // shares only.
    pa_status (*sum_begin)(pa_device *d, float *grad, float *own, size_t count, bool scatter, pa_err *err);
    // Gradients [from, count) are final; from 0 comes last.
    pa_status (*sum_ready)(pa_device *d, size_t from, pa_err *err);
    pa_status (*sum_end)(pa_device *d, pa_err *err);                           // what follows sees the sums
    pa_status (*sum_f64)(pa_device *d, double *x, pa_err *err);                // one number
    pa_status (*gather)(pa_device *d, float *data, size_t count, pa_err *err); // everyone's shares, to everyone
    // Rank r's bytes of[r] (ranks), to everyone.
    pa_status (*gather_spans)(pa_device *d, float *data, const pa_span *of, pa_err *err);
    // Optional: the sum of squares over all gradients; each rank adds up its shares. NULL: sum_squares of all, or with
    // own_apart of this rank's, and sum_f64.
    pa_status (*squares_by_rank)(pa_device *d, double *sum, const float *grad, size_t count, pa_err *err);

    // Flop/s of a large product of the device's type: each call measures; the best so far, 0 where that fails.
    double (*peak)(pa_device *d);
} pa_ops;

#ifdef __cplusplus
}
#endif
#endif
