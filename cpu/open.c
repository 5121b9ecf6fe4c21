// open.c: pa_backend_cpu: which instruction set and type compute, and what the products need.
#include <omp.h>
#include <stdlib.h>

#include "cpu/device.h"
#include "cpu/table.h"
#include "host/base/threads.h"
#include "host/model/walk.h"

static pa_status choose_type(pa_device *d, const pa_open *o, pa_err *err) {
    if (!(d->isa = cpu_ops_select(getenv("PATRAIN_ISA"))))
        return pa_error(err, PA_USAGE,
                        "PATRAIN_ISA: expected an instruction set of this processor (generic, avx2, avx512, "
                        "avx512_bf16), found \"%s\"",
                        getenv("PATRAIN_ISA"));
    switch (o->precision) {
    case PA_PRECISION_FP16:
        return pa_error(err, PA_USAGE, "precision: fp16 is for GPUs; on the CPU expected auto, fp32 or bf16");
    case PA_PRECISION_AUTO:
        // Generation waits for memory, which bf16 halves; everything else gains only where the processor multiplies
        // bf16.
        d->type = !cpu_matmul_widens(d->isa) || (o->streams && !o->training) ? PA_TYPE_BF16 : PA_TYPE_F32;
        break;
    default:
        d->type = o->precision == PA_PRECISION_BF16 ? PA_TYPE_BF16 : PA_TYPE_F32;
    }
    return PA_OK;
}

// What the widest product needs; sizes of weights' rows and columns, 3 I and the vocabulary among them.
static void widest(const pa_params *p, size_t *row, size_t *matrix) {
    *row = *matrix = 0;
    for (int t = 0; t < p->count; t++) {
        const pa_param *w = &p->row[t];
        if (w->rank != 2 || t == p->pos_emb) continue;
        if (w->size > *matrix) *matrix = w->size;
        for (int i = 0; i < 2; i++)
            if ((size_t)w->shape[i] > *row) *row = (size_t)w->shape[i];
    }
}

static pa_status cpu_open(pa_context **out, const pa_open *o, pa_err *err) {
    *out = NULL;
    pa_device *d = calloc(1, sizeof *d);
    if (!d) return pa_error(err, PA_FAIL, "no memory");
    pa_status s = choose_type(d, o, err);
    if (s) {
        free(d);
        return s;
    }
    pa_threads_enter(omp_get_max_threads()); // for good in a program; the library restores the settings
    d->table = cpu_table(d->isa);
    d->comm = o->comm;
    widest(o->params, &d->row, &d->matrix);
    bool widens = (o->max_batch || o->streams) && d->type == PA_TYPE_BF16 && cpu_matmul_widens(d->isa);
    pa_device_info info = {.type = d->type,
                           .align = 64,
                           .multiple = 16,
                           .row = 1,
                           .workspace = widens ? cpu_matmul_room(d->row, d->matrix) : 0,
                           .unified = true,
                           .muon = d->type == PA_TYPE_BF16 && !cpu_matmul_widens(d->isa) ? PA_TYPE_BF16 : PA_TYPE_F32,
                           .ranks = o->training && o->comm->size > 1};
    info.hardware.threads = omp_get_max_threads();
    snprintf(info.hardware.instruction_set, sizeof info.hardware.instruction_set, "%s", d->isa->name);
    snprintf(info.name, sizeof info.name, "the CPU (%s, %d threads)", d->isa->name, omp_get_max_threads());
    return pa_context_open(out, o, &d->table, d, &info, err);
}

static pa_status cpu_check_machine(pa_err *err) {
    (void)err;
    return PA_OK;
}

const pa_backend *pa_backend_cpu(void) {
    static const pa_backend backend = {.name = "cpu", .check_machine = cpu_check_machine, .open = cpu_open, PA_WALK};
    return &backend;
}
