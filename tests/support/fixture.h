// fixture.h: what the tests of the whole model share: a tiny model with drawn parameters and a drawn batch, and a
// backend holding them.
#ifndef PA_TESTS_FIXTURE_H
#define PA_TESTS_FIXTURE_H

#include "tests/support/reference.h"

typedef struct {
    pa_params params;
    double *w; // every parameter at its offset, each a float32 value
    pa_batch batch;
    uint16_t *input, *target;
    int32_t *keep;
    uint64_t *window;
} fixture;

// context 24, prefix 9, dim 16, heads 3, dim_head 8 (inner width 24), depth 2, vocabulary 40 (PAD is 39), everything
// else default.
pa_model fixture_model(void);
// Parameters of the size that keeps every sum of order 1; norms and biases away from 1 and 0.
void fixture_init(fixture *f, const pa_model *m, uint64_t seed);
// A batch of random tokens; some targets are PAD. kept < 0: no keep list.
void fixture_batch(fixture *f, int batch, int length, int latents, int kept, uint64_t seed);
// A whole training step's: two sequences with dropped prefix positions through most switches, and dropout by window
// number.
void fixture_step(fixture *f, double dropout);
void fixture_clear(fixture *f);

// The one that PA_DEVICE names, else the CPU's.
const pa_backend *fixture_backend(void);
// Whether it takes this model's heads: the CUDA backend's are of multiples of 8 dims, up to 128.
bool fixture_takes(const pa_backend *be, const pa_model *m);
// Whether it computes in this precision: the CPU has no fp16, a GPU before sm_80 no bf16.
bool fixture_has(const pa_backend *be, pa_precision precision);
// bf16 where it has that, else fp16.
pa_precision fixture_16_bits(const pa_backend *be);
// What loss_grad's scale is to be for sums of nats: fp16 keeps gradients times 65,536, and its largest number is below
// that.
float fixture_scale(pa_precision precision);
// Opens and writes f's parameters. What o leaves at zero of params and comm is filled in.
pa_context *fixture_open(const pa_backend *be, const fixture *f, pa_open o);
// For training on fixture_step's batch, and with one stream; deterministic, so that contexts give the same bits.
pa_context *fixture_training(const pa_backend *be, const fixture *f, pa_precision precision, bool recompute);
void fixture_write(const pa_backend *be, pa_context *c, const pa_params *p, const double *w);
// All tensors of a kind as one array like f->w; free it.
double *fixture_read(const pa_backend *be, pa_context *c, const pa_params *p, pa_kind kind);
// Fails the test with the error's text.
#define fixture_ok(status, err) fixture_check(status, err, __FILE__, __LINE__)
void fixture_check(pa_status s, const pa_err *err, const char *file, int line);

double *fixture_doubles(size_t count);
double fixture_norm(const double *x, size_t count);
double fixture_distance(const double *x, const double *y, size_t count);
double *fixture_widen(const float *x, size_t count); // free it

#endif
