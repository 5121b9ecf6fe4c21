// matmul.c: matrix products by oneDNN, one cached primitive a shape. Knows nothing of the model.
// Where the processor has no products of bf16, bf16 operands are widened to float32 first: the same numbers, for the time and the memory of
// the copies. (oneDNN has none there without AVX-512, and with it imitates them at a tenth of float32's rate.)
#include "cpu/matmul.h"
#include "cpu/simd.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    cpu_product key;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, scratch;
    bool widen; // bf16 operands go through float32 copies
} entry;

struct cpu_matmul {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    entry *entries;
    int count, capacity;
    void *scratch; // shared by all entries: the largest that one of them wants
    size_t scratch_size;
    void *wide[3]; // float32 copies of a, b and c
    size_t wide_size[3];
    double seconds, flop; // of all runs
};

static pa_status dnnl_error(pa_err *err, const char *what, dnnl_status_t status) {
    return pa_error(err, PA_FAIL, "oneDNN: %s failed with status %d", what, (int)status);
}

#define TRY(call)                                                                                                                          \
    do {                                                                                                                                   \
        dnnl_status_t status_ = (call);                                                                                                    \
        if (status_ != dnnl_success) {                                                                                                     \
            result = dnnl_error(err, #call, status_);                                                                                      \
            goto done;                                                                                                                     \
        }                                                                                                                                  \
    } while (0)

pa_status cpu_matmul_create(cpu_matmul **out, pa_err *err) {
    pa_status result = PA_OK;
    cpu_matmul *mm = calloc(1, sizeof *mm);
    if (!mm) return pa_error(err, PA_FAIL, "no memory");
    TRY(dnnl_engine_create(&mm->engine, dnnl_cpu, 0));
    TRY(dnnl_stream_create(&mm->stream, mm->engine, dnnl_stream_default_flags));
    TRY(dnnl_set_primitive_cache_capacity(0)); // this table is the cache
done:
    if (result) cpu_matmul_destroy(mm);
    *out = result ? NULL : mm;
    return result;
}

static void entry_clear(entry *e) {
    if (e->primitive) dnnl_primitive_destroy(e->primitive);
    if (e->a) dnnl_memory_destroy(e->a);
    if (e->b) dnnl_memory_destroy(e->b);
    if (e->c) dnnl_memory_destroy(e->c);
    if (e->scratch) dnnl_memory_destroy(e->scratch);
}

void cpu_matmul_destroy(cpu_matmul *mm) {
    if (!mm) return;
    for (int i = 0; i < mm->count; i++) entry_clear(&mm->entries[i]);
    if (mm->stream) dnnl_stream_destroy(mm->stream);
    if (mm->engine) dnnl_engine_destroy(mm->engine);
    free(mm->entries);
    free(mm->scratch);
    for (int i = 0; i < 3; i++) free(mm->wide[i]);
    free(mm);
}

int cpu_matmul_created(const cpu_matmul *mm) {
    return mm->count;
}

void cpu_matmul_spent(const cpu_matmul *mm, double *seconds, double *flop) {
    *seconds = mm->seconds, *flop = mm->flop;
}

static dnnl_status_t describe(dnnl_memory_desc_t *md, int rows, int columns, cpu_type t, bool transposed, int ld) {
    dnnl_dims_t dims = {rows, columns}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, t == CPU_F32 ? dnnl_f32 : dnnl_bf16, strides);
}

static pa_status reserve(void **p, size_t *size, size_t need, pa_err *err) {
    if (need <= *size) return PA_OK;
    free(*p);
    *size = 0;
    if (!(*p = pa_alloc(need))) return pa_error(err, PA_FAIL, "no memory for %zu bytes of a matrix product's scratch", need);
    *size = need;
    return PA_OK;
}

typedef struct {
    int rows, columns, ld; // as stored
    cpu_type type;
} operand;
enum { A, B, C };

static void operands(const cpu_product *p, operand o[3]) {
    o[A] = (operand){p->a_t ? p->k : p->m, p->a_t ? p->m : p->k, p->lda, p->a};
    o[B] = (operand){p->b_t ? p->n : p->k, p->b_t ? p->k : p->n, p->ldb, p->b};
    o[C] = (operand){p->m, p->n, p->ldc, p->c};
}

// The same product with bf16 operands as dense float32.
static cpu_product widened(const cpu_product *p) {
    cpu_product w = *p;
    operand o[3];
    operands(p, o);
    if (w.a == CPU_BF16) w.a = CPU_F32, w.lda = o[A].columns;
    if (w.b == CPU_BF16) w.b = CPU_F32, w.ldb = o[B].columns;
    if (w.c == CPU_BF16) w.c = CPU_F32, w.ldc = o[C].columns;
    return w;
}

static void widen(float *to, const uint16_t *from, const operand *o) {
#pragma omp parallel for schedule(static)
    for (int r = 0; r < o->rows; r++) {
        float *t = to + (size_t)r * (size_t)o->columns;
        const uint16_t *f = from + (size_t)r * (size_t)o->ld;
        for (int i = 0; i < o->columns; i++) t[i] = bf16_to_float(f[i]);
    }
}

static void narrow(uint16_t *to, const float *from, const operand *o) {
#pragma omp parallel for schedule(static)
    for (int r = 0; r < o->rows; r++) {
        uint16_t *t = to + (size_t)r * (size_t)o->ld;
        const float *f = from + (size_t)r * (size_t)o->columns;
        for (int i = 0; i < o->columns; i++) t[i] = bf16_from_float(f[i]);
    }
}

static pa_status entry_create(cpu_matmul *mm, entry *e, const cpu_product *key, pa_err *err) {
    pa_status result = PA_OK;
    const bool wide = (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) != dnnl_cpu_isa_avx512_core_bf16 &&
                      (key->a == CPU_BF16 || key->b == CPU_BF16 || key->c == CPU_BF16);
    const cpu_product product = wide ? widened(key) : *key, *p = &product;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t d;
    *e = (entry){.key = *key, .widen = wide};
    TRY(describe(&a, p->m, p->k, p->a, p->a_t, p->lda));
    TRY(describe(&b, p->k, p->n, p->b, p->b_t, p->ldb));
    TRY(describe(&c, p->m, p->n, p->c, false, p->ldc));
    TRY(dnnl_primitive_attr_create(&attr));
    TRY(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    if (p->add) {
        TRY(dnnl_post_ops_create(&ops));
        TRY(dnnl_post_ops_append_sum(ops, 1));
        TRY(dnnl_primitive_attr_set_post_ops(attr, ops));
    }
    TRY(dnnl_matmul_desc_init(&d, &a, &b, NULL, &c));
    TRY(dnnl_primitive_desc_create(&pd, &d, attr, mm->engine, NULL));
    TRY(dnnl_primitive_create(&e->primitive, pd));
    const dnnl_memory_desc_t *s = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    TRY(dnnl_memory_create(&e->a, &a, mm->engine, DNNL_MEMORY_NONE));
    TRY(dnnl_memory_create(&e->b, &b, mm->engine, DNNL_MEMORY_NONE));
    TRY(dnnl_memory_create(&e->c, &c, mm->engine, DNNL_MEMORY_NONE));
    TRY(dnnl_memory_create(&e->scratch, s, mm->engine, DNNL_MEMORY_NONE));
    size_t need = dnnl_memory_desc_get_size(s);
    if ((result = reserve(&mm->scratch, &mm->scratch_size, need, err))) goto done;
    operand o[3];
    operands(key, o);
    for (int i = 0; wide && i < 3; i++) {
        if (o[i].type != CPU_BF16) continue;
        size_t bytes = (size_t)o[i].rows * (size_t)o[i].columns * sizeof(float);
        if ((result = reserve(&mm->wide[i], &mm->wide_size[i], bytes, err))) goto done;
    }
    if (getenv("PATRAIN_DEBUG_MATMUL")) {
        const char *info = NULL;
        dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &info);
        fprintf(stderr, "matmul m %d n %d k %d a_t %d b_t %d c %d add %d: %s, scratch %zu\n", p->m, p->n, p->k, p->a_t, p->b_t, p->c,
                p->add, info, need);
    }
done:
    if (result) entry_clear(e);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (pd) dnnl_primitive_desc_destroy(pd);
    return result;
}

static bool same(const cpu_product *x, const cpu_product *y) {
    return x->m == y->m && x->n == y->n && x->k == y->k && x->a == y->a && x->b == y->b && x->c == y->c && x->a_t == y->a_t &&
           x->b_t == y->b_t && x->add == y->add && x->lda == y->lda && x->ldb == y->ldb && x->ldc == y->ldc;
}

static pa_status find(cpu_matmul *mm, const cpu_product *p, entry **found, pa_err *err) {
    for (int i = 0; i < mm->count; i++)
        if (same(&mm->entries[i].key, p)) return *found = &mm->entries[i], PA_OK;
    if (mm->count == mm->capacity) {
        int capacity = mm->capacity ? 2 * mm->capacity : 32;
        entry *grown = realloc(mm->entries, (size_t)capacity * sizeof *grown);
        if (!grown) return pa_error(err, PA_FAIL, "no memory");
        mm->entries = grown, mm->capacity = capacity;
    }
    pa_status s = entry_create(mm, &mm->entries[mm->count], p, err);
    if (s) return s;
    *found = &mm->entries[mm->count++];
    return PA_OK;
}

pa_status cpu_matmul_run(cpu_matmul *mm, const cpu_product *p, const void *a, const void *b, void *c, pa_err *err) {
    pa_status result = PA_OK;
    entry *e = NULL;
    if (p->m == 0 || p->n == 0) return PA_OK;
    double start = pa_clock();
    if ((result = find(mm, p, &e, err))) return result;
    operand o[3];
    operands(p, o);
    const void *in[3] = {a, b, c};
    for (int i = 0; e->widen && i < 3; i++) {
        if (o[i].type != CPU_BF16) continue;
        if (i != C || p->add) widen(mm->wide[i], in[i], &o[i]);
        in[i] = mm->wide[i];
    }
    TRY(dnnl_memory_set_data_handle(e->a, (void *)in[A]));
    TRY(dnnl_memory_set_data_handle(e->b, (void *)in[B]));
    TRY(dnnl_memory_set_data_handle(e->c, (void *)in[C]));
    TRY(dnnl_memory_set_data_handle(e->scratch, mm->scratch));
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, e->b}, {DNNL_ARG_DST, e->c}, {DNNL_ARG_SCRATCHPAD, e->scratch}};
    TRY(dnnl_primitive_execute(e->primitive, mm->stream, 4, args));
    TRY(dnnl_stream_wait(mm->stream));
    if (in[C] != c) narrow(c, in[C], &o[C]);
    mm->seconds += pa_clock() - start, mm->flop += 2.0 * p->m * p->n * p->k;
done:
    return result;
}
