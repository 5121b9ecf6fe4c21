// bench.h: what pabench's files share: times, roofs, rows of whole models, other libraries' times. Private to bench/.
#ifndef PA_BENCH_H
#define PA_BENCH_H

#include "bench/cases.h"
#include "host/model/backend.h"

typedef struct {
    double median, low, high; // seconds; low and high: the quartiles
    int runs;
} bench_time;

// How long and how often to measure.
typedef struct {
    double seconds; // of one row, about
    int least;      // runs at least, but one of what takes longer than `seconds` four times over
    int most;       // 0: as many as fit
} bench_effort;

// Runs work once to warm up, then again and again; before (may be NULL) is called, untimed, ahead of each.
typedef struct {
    void (*before)(void *what);
    pa_status (*work)(void *what, pa_err *err);
    double (*seconds)(void *what); // that the last work took, by a clock of its own; NULL: by the host's
    void *what;
} bench_job;
pa_status bench_measure(const bench_job *job, bench_effort effort, bench_time *t, pa_err *err);
// Leaves nothing of what was used before in any cache.
void bench_flush(void);

// What this machine reaches now: the best of several sizes and runs, with all threads.
typedef struct {
    double flops[2]; // of a matrix product, by pa_type; 0 where there is none of its own
    double read;     // bytes a second
    double copy;     // of memcpy or of a change in place, counting what is read and what is written
} bench_roof;
pa_status bench_roofs(const pa_ops *ops, bool bf16, bench_roof *best, pa_err *err); // raises what it finds too low

// A row of the case table, measured.
typedef struct {
    case_row row;
    bench_time time, peer;
    bool has_peer;
    const char *peer_note;
    char cudnn_note[48];
    case_error error;
} bench_case;

// On a GPU, with cuDNN's time for attention if it takes the shape (cuda.c; only in builds with that backend). half: the
// GPU has no bf16, and rows named bf16 are fp16. ops draws and prepares operands on the host.
pa_status bench_cuda(const case_row *row, const pa_ops *ops, bool half, int samples, bench_effort effort,
                     bench_case *to, pa_err *err);
pa_status bench_cuda_roofs(const pa_ops *ops, bool half, bench_roof *best, pa_err *err);
pa_status bench_cuda_device(char *name, size_t size, bool *half, pa_err *err);

// oneDNN's time for a case's work, where it has it: has is false else. note says in what the work differs.
pa_status bench_onednn(const case_row *row, bench_effort effort, bool *has, bench_time *t, const char **note,
                       pa_err *err);

typedef enum {
    PART_LINEAR,
    PART_ATTENTION,
    PART_ACTIVATION,
    PART_NORMS,
    PART_LOSS,
    PART_OPTIMIZER,
    PART_OTHER,
    PART_REST,
    PARTS
} bench_part;
extern const char *const bench_part_name[PARTS];

// One call of a whole model.
typedef struct {
    char name[48];   // "v1 train fp32"
    bool read_bound; // its roof is `bytes` at the read bandwidth, else `flop` at the matrix product's
    bench_time time;
    double tokens, flop, bytes, memory; // of one call; memory of all arenas
    double part[PARTS];                 // mean seconds; all 0 where the backend does not say
} bench_model;
enum { BENCH_MODELS = 3 };
typedef struct {
    const pa_backend *backend;
    const case_model *model;
    pa_precision precision;
    int threads;
    bench_effort effort;
    bool train;    // a training step
    bool generate; // prefill of a full window, and decoding at its end
} bench_model_run;
// *rows: those that were finished, after an error too.
pa_status bench_models(const bench_model_run *o, bench_model row[BENCH_MODELS], int *rows, pa_err *err);

#endif
