// matmul.c: matrix products by oneDNN, one cached primitive a shape. Knows nothing of the model.
// Where the processor has no products of bf16, bf16 operands are widened to float32 first, some rows at a time: the same numbers, for the
// time of the copies. (oneDNN has none there without AVX-512, and with it imitates them at a tenth of float32's rate.)
#include "cpu/matmul.h"
#include "cpu/simd.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    cpu_product key; // its types as the model has them; the primitive multiplies float32 where bf16 was widened
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, scratch;
} entry;

struct cpu_matmul {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    entry *entries;
    int count, capacity;
    void *scratch; // shared by all entries: the largest that one of them wants
    size_t scratch_size;
    bool bf16;     // the processor multiplies it
    void *wide[3]; // float32 copies of rows of a, b and c
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
    mm->bf16 = (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
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

static pa_status entry_create(cpu_matmul *mm, entry *e, const cpu_product *p, pa_err *err) {
    pa_status result = PA_OK;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t d;
    *e = (entry){.key = *p};
    TRY(describe(&a, p->m, p->k, mm->bf16 ? p->a : CPU_F32, p->a_t, p->lda));
    TRY(describe(&b, p->k, p->n, mm->bf16 ? p->b : CPU_F32, p->b_t, p->ldb));
    TRY(describe(&c, p->m, p->n, mm->bf16 ? p->c : CPU_F32, false, p->ldc));
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

static pa_status run(cpu_matmul *mm, const cpu_product *p, const void *a, const void *b, void *c, pa_err *err) {
    pa_status result = PA_OK;
    entry *e = NULL;
    if ((result = find(mm, p, &e, err))) return result;
    TRY(dnnl_memory_set_data_handle(e->a, (void *)a));
    TRY(dnnl_memory_set_data_handle(e->b, (void *)b));
    TRY(dnnl_memory_set_data_handle(e->c, c));
    TRY(dnnl_memory_set_data_handle(e->scratch, mm->scratch));
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, e->b}, {DNNL_ARG_DST, e->c}, {DNNL_ARG_SCRATCHPAD, e->scratch}};
    TRY(dnnl_primitive_execute(e->primitive, mm->stream, 4, args));
    TRY(dnnl_stream_wait(mm->stream));
done:
    return result;
}

// An operand as stored.
typedef struct {
    int rows, columns, ld;
    cpu_type type;
    const void *p;
} operand;
enum { A, B, C, WIDE_ROWS = 512 };

static operand row_at(const operand *o, int row, int rows) {
    return (operand){rows, o->columns, o->ld, o->type, (const char *)o->p + (size_t)row * (size_t)o->ld * cpu_size(o->type)};
}

// Rows of bf16 become rows of copy i, read or only given room.
static pa_status widen(cpu_matmul *mm, int i, operand *o, bool read, pa_err *err) {
    if (o->type == CPU_F32) return PA_OK;
    pa_status s = reserve(&mm->wide[i], &mm->wide_size[i], (size_t)o->rows * (size_t)o->columns * sizeof(float), err);
    if (s) return s;
    float *to = mm->wide[i];
    const uint16_t *from = o->p;
    const int rows = read ? o->rows : 0, columns = o->columns, ld = o->ld;
#pragma omp parallel for schedule(static)
    for (int r = 0; r < rows; r++) {
        float *t = to + (size_t)r * (size_t)columns;
        const uint16_t *f = from + (size_t)r * (size_t)ld;
        for (int j = 0; j < columns; j++) t[j] = bf16_to_float(f[j]);
    }
    *o = (operand){o->rows, columns, columns, CPU_F32, to};
    return PA_OK;
}

static void narrow(const operand *to, const float *from) {
#pragma omp parallel for schedule(static)
    for (int r = 0; r < to->rows; r++) {
        uint16_t *t = (uint16_t *)to->p + (size_t)r * (size_t)to->ld;
        const float *f = from + (size_t)r * (size_t)to->columns;
        for (int j = 0; j < to->columns; j++) t[j] = bf16_from_float(f[j]);
    }
}

// Rows of c, or, where a is transposed, of both factors, WIDE_ROWS at a time.
static pa_status run_wide(cpu_matmul *mm, const cpu_product *p, const void *a, const void *b, void *c, pa_err *err) {
    const operand all[3] = {{p->a_t ? p->k : p->m, p->a_t ? p->m : p->k, p->lda, p->a, a},
                            {p->b_t ? p->n : p->k, p->b_t ? p->k : p->n, p->ldb, p->b, b},
                            {p->m, p->n, p->ldc, p->c, c}};
    const bool both = p->a_t && !p->b_t && p->add && p->c == CPU_F32;
    const int rows = all[A].rows, step = p->a_t && !both ? rows : WIDE_ROWS;
    operand right = all[B];
    pa_status s = both ? PA_OK : widen(mm, B, &right, true, err);
    for (int r = 0; r < rows && !s; r += step) {
        const int count = rows - r < step ? rows - r : step;
        operand left = row_at(&all[A], r, count), out = p->a_t ? all[C] : row_at(&all[C], r, count), to = out;
        if (both) right = row_at(&all[B], r, count);
        cpu_product w = *p;
        if ((s = widen(mm, A, &left, true, err)) || (both && (s = widen(mm, B, &right, true, err))) || (s = widen(mm, C, &to, w.add, err)))
            break;
        w.m = p->a_t ? p->m : count, w.k = both ? count : p->k;
        w.lda = left.ld, w.ldb = right.ld, w.ldc = to.ld;
        s = run(mm, &w, left.p, right.p, (void *)to.p, err);
        if (!s && out.type == CPU_BF16) narrow(&out, to.p);
    }
    return s;
}

pa_status cpu_matmul_run(cpu_matmul *mm, const cpu_product *p, const void *a, const void *b, void *c, pa_err *err) {
    if (p->m == 0 || p->n == 0) return PA_OK;
    double start = pa_clock();
    bool wide = !mm->bf16 && (p->a == CPU_BF16 || p->b == CPU_BF16 || p->c == CPU_BF16);
    pa_status s = wide ? run_wide(mm, p, a, b, c, err) : run(mm, p, a, b, c, err);
    if (!s) mm->seconds += pa_clock() - start, mm->flop += 2.0 * p->m * p->n * p->k;
    return s;
}
