// matmul.c: matrix products by oneDNN, one cached primitive a shape. Knows nothing of the model.
// bf16 operands that must be widened to float32 are widened some rows at a time: the same results, at the cost of
// copies. (oneDNN has no products of bf16 there without AVX-512, and with it imitates them at a tenth of float32's
// rate.)
#include "cpu/matmul.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/threads.h"

typedef struct {
    pa_product key; // its types as the model has them; the primitive multiplies float32 where bf16 was widened
    int threads;    // of the primitive
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
    const pa_ops *isa;
    bool widens;
    float *wide[3]; // copies of a, b and c
    size_t room[3]; // numbers that they can hold
};

static pa_status dnnl_error(pa_err *err, const char *what, dnnl_status_t status) {
    return pa_error(err, PA_FAIL, "oneDNN: %s failed with status %d", what, (int)status);
}

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        dnnl_status_t status_ = (call);                                                                                \
        if (status_ != dnnl_success) {                                                                                 \
            result = dnnl_error(err, #call, status_);                                                                  \
            goto done;                                                                                                 \
        }                                                                                                              \
    } while (0)

// An operand as stored.
typedef struct {
    int rows, columns;
    pa_type type;
    const void *p;
} operand;
enum { A, B, C, WIDE_ROWS = 512 };

static void rooms(size_t room[3], size_t row, size_t matrix) {
    room[A] = room[B] = room[C] = WIDE_ROWS * row;
    if (matrix > room[B]) room[B] = matrix;
}

bool cpu_matmul_widens(const pa_ops *isa) {
    return !cpu_ops_pair_bf16(isa) ||
           (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) != dnnl_cpu_isa_avx512_core_bf16;
}

size_t cpu_matmul_room(size_t row, size_t matrix) {
    size_t room[3];
    rooms(room, row, matrix);
    return (room[A] + room[B] + room[C]) * sizeof(float);
}

pa_status cpu_matmul_create(cpu_matmul **out, const pa_ops *isa, void *room, size_t row, size_t matrix, pa_err *err) {
    pa_status result = PA_OK;
    cpu_matmul *mm = calloc(1, sizeof *mm);
    if (!mm) return pa_error(err, PA_FAIL, "no memory");
    mm->isa = isa;
    mm->widens = cpu_matmul_widens(isa);
    if (room) rooms(mm->room, row, matrix);
    for (int i = 0; i < 3 && room; i++) mm->wide[i] = i ? mm->wide[i - 1] + mm->room[i - 1] : room;
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
    free(mm);
}

int cpu_matmul_created(const cpu_matmul *mm) {
    return mm->count;
}

static dnnl_status_t describe(dnnl_memory_desc_t *md, int rows, int columns, pa_type t, bool transposed) {
    dnnl_dims_t dims = {rows, columns}, strides = {transposed ? 1 : columns, transposed ? rows : 1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, t == PA_TYPE_F32 ? dnnl_f32 : dnnl_bf16, strides);
}

static pa_status reserve(cpu_matmul *mm, size_t need, pa_err *err) {
    if (need <= mm->scratch_size) return PA_OK;
    free(mm->scratch);
    mm->scratch_size = 0;
    if (!(mm->scratch = pa_alloc(need)))
        return pa_error(err, PA_FAIL, "no memory for %zu bytes of a matrix product's scratch", need);
    mm->scratch_size = need;
    return PA_OK;
}

static pa_status entry_create(cpu_matmul *mm, entry *e, const pa_product *p, pa_err *err) {
    pa_status result = PA_OK;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t d;
    *e = (entry){.key = *p, .threads = omp_get_max_threads()};
    TRY(describe(&a, p->m, p->k, mm->widens ? PA_TYPE_F32 : p->a, p->a_t));
    TRY(describe(&b, p->k, p->n, mm->widens ? PA_TYPE_F32 : p->b, p->b_t));
    TRY(describe(&c, p->m, p->n, mm->widens ? PA_TYPE_F32 : p->c, false));
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
    if ((result = reserve(mm, need, err))) goto done;
    if (getenv("PATRAIN_DEBUG_MATMUL")) {
        const char *info = NULL;
        dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &info);
        fprintf(stderr, "matmul m %d n %d k %d a_t %d b_t %d c %d add %d: %s, scratch %zu\n", p->m, p->n, p->k, p->a_t,
                p->b_t, p->c, p->add, info, need);
    }
done:
    if (result) entry_clear(e);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (pd) dnnl_primitive_desc_destroy(pd);
    return result;
}

static bool same(const pa_product *x, const pa_product *y) {
    return x->m == y->m && x->n == y->n && x->k == y->k && x->a == y->a && x->b == y->b && x->c == y->c &&
           x->a_t == y->a_t && x->b_t == y->b_t && x->add == y->add;
}

static pa_status find(cpu_matmul *mm, const pa_product *p, entry **found, pa_err *err) {
    const int threads = omp_get_max_threads();
    for (int i = 0; i < mm->count; i++)
        if (mm->entries[i].threads == threads && same(&mm->entries[i].key, p)) {
            *found = &mm->entries[i];
            return PA_OK;
        }
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

static pa_status run(cpu_matmul *mm, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    pa_status result = PA_OK;
    entry *e = NULL;
    if ((result = find(mm, p, &e, err))) return result;
    TRY(dnnl_memory_set_data_handle(e->a, (void *)a));
    TRY(dnnl_memory_set_data_handle(e->b, (void *)b));
    TRY(dnnl_memory_set_data_handle(e->c, c));
    TRY(dnnl_memory_set_data_handle(e->scratch, mm->scratch));
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, e->b}, {DNNL_ARG_DST, e->c}, {DNNL_ARG_SCRATCHPAD, e->scratch}};
    TRY(dnnl_primitive_execute(e->primitive, mm->stream, 4, args));
    TRY(dnnl_stream_wait(mm->stream));
done:
    return result;
}

static operand rows_of(const operand *o, int row, int rows) {
    return (operand){rows, o->columns, o->type,
                     (const char *)o->p + (size_t)row * (size_t)o->columns * pa_size(o->type)};
}

// bf16 becomes copy i, read or only given room.
static pa_status widen(cpu_matmul *mm, int i, operand *o, bool read, pa_err *err) {
    size_t count = (size_t)o->rows * (size_t)o->columns;
    if (o->type == PA_TYPE_F32) return PA_OK;
    if (count > mm->room[i])
        return pa_error(err, PA_FAIL, "matrix product: room to widen %zu numbers, found %zu", mm->room[i], count);
    if (read) mm->isa->widen(NULL, PA_TYPE_BF16, mm->wide[i], o->p, count);
    o->type = PA_TYPE_F32, o->p = mm->wide[i];
    return PA_OK;
}

// Rows of c, or, where a is transposed, of both factors, WIDE_ROWS at a time.
static pa_status run_wide(cpu_matmul *mm, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    const operand all[3] = {{p->a_t ? p->k : p->m, p->a_t ? p->m : p->k, p->a, a},
                            {p->b_t ? p->n : p->k, p->b_t ? p->k : p->n, p->b, b},
                            {p->m, p->n, p->c, c}};
    if (p->a_t && (p->b_t || p->c != PA_TYPE_F32))
        return pa_error(err, PA_FAIL, "matrix product: no such product of bf16 here");
    operand right = all[B];
    pa_status s = p->a_t ? PA_OK : widen(mm, B, &right, true, err);
    for (int r = 0; r < all[A].rows && !s; r += WIDE_ROWS) {
        const int count = all[A].rows - r < WIDE_ROWS ? all[A].rows - r : WIDE_ROWS;
        operand left = rows_of(&all[A], r, count), out = p->a_t ? all[C] : rows_of(&all[C], r, count), to = out;
        pa_product part = *p;
        if (p->a_t)
            right = rows_of(&all[B], r, count), part.k = count, part.add = p->add || r;
        else
            part.m = count;
        s = widen(mm, A, &left, true, err);
        if (!s && p->a_t) s = widen(mm, B, &right, true, err);
        if (!s) s = widen(mm, C, &to, p->add, err);
        if (!s) s = run(mm, &part, left.p, right.p, (void *)to.p, err);
        if (!s && out.type == PA_TYPE_BF16)
            mm->isa->cast(NULL, PA_TYPE_BF16, (void *)out.p, to.p, (size_t)count * (size_t)out.columns);
    }
    return s;
}

pa_status cpu_matmul_run(cpu_matmul *mm, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    if (p->m == 0 || p->n == 0) return PA_OK;
    if (p->lda || p->ldc || p->onto)
        return pa_error(err, PA_FAIL, "matrix product: expected rows without gaps and no addend");
    bool wide = mm->widens && (p->a == PA_TYPE_BF16 || p->b == PA_TYPE_BF16 || p->c == PA_TYPE_BF16);
    return wide ? run_wide(mm, p, a, b, c, err) : run(mm, p, a, b, c, err);
}

// Of whole numbers up to 4, so that every sum is exact.
pa_status cpu_matmul_check(const pa_ops *isa, pa_type type, pa_err *err) {
    enum { M = 96, N = 96, K = 64 };
    if (cpu_matmul_widens(isa)) type = PA_TYPE_F32;
    const pa_product p = {.m = M, .n = N, .k = K, .a = type, .b = type, .c = PA_TYPE_F32};
    cpu_matmul *mm = NULL;
    float *a = pa_alloc(M * K * sizeof *a), *b = pa_alloc(K * N * sizeof *b), *c = pa_alloc(M * N * sizeof *c);
    void *typed_a = pa_alloc(M * K * sizeof *a), *typed_b = pa_alloc(K * N * sizeof *b);
    pa_status s = PA_OK;
    if (!a || !b || !c || !typed_a || !typed_b) {
        s = pa_error(err, PA_FAIL, "no memory");
        goto done;
    }
    for (int i = 0; i < M * K; i++) a[i] = (float)(i * 7 % 9 - 4);
    for (int i = 0; i < K * N; i++) b[i] = (float)(i * 5 % 9 - 4);
    isa->cast(NULL, type, typed_a, a, M * K);
    isa->cast(NULL, type, typed_b, b, K * N);
    if ((s = cpu_matmul_create(&mm, isa, NULL, 0, 0, err)) || (s = cpu_matmul_run(mm, &p, typed_a, typed_b, c, err)))
        goto done;
    for (int i = 0; i < M * N && !s; i++) {
        float sum = 0;
        for (int k = 0; k < K; k++) sum += a[i / N * K + k] * b[k * N + i % N];
        if (sum == c[i]) continue;
        char settings[512];
        pa_threads_settings(settings);
        s = pa_error(err, PA_FAIL, "OpenMP: a matrix product on %d threads is wrong (%s); try OMP_NUM_THREADS=1",
                     omp_get_max_threads(), settings);
    }
done:
    cpu_matmul_destroy(mm);
    free(a);
    free(b);
    free(c);
    free(typed_a);
    free(typed_b);
    return s;
}
