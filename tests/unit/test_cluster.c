// test_cluster.c: the ranks of a run in one process, over a simulated transport and clock. Messages are delayed and cut
// into pieces; ranks are killed, paused, slowed and cut off from each other, and their weights changed. Whatever
// happens, every rank ends, with a message, and after restarts from the last save the weights are those of the run
// without faults, to the bit.
//
// Everything follows from a seed: PA_SEED=N runs that one, PA_SEEDS=N the first N.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "host/base/checksum.h"
#include "host/ranks/comm_carrier.h"
#include "host/train/same_ranks.h"
#include "tests/support/scratch.h"

enum { MOST = 5, COUNT = 1500, STEPS = 12, SAVE_EVERY = 3, ROOM = 2048, STACK = 1 << 17, TIMEOUT = 60 };
enum { NONE, KILL, PAUSE, CUT, FLIP, FAULTS };
static const char *const fault_name[] = {"none", "kill", "pause", "cut", "flip"};

typedef struct {
    char data[ROOM];
    size_t head, tail; // bytes read, bytes written
    double open;       // nothing is read before
    bool cut;
} wire;

typedef struct {
    pa_comm comm;
    ucontext_t context;
    char *stack;
    float weight[COUNT], gradient[COUNT];
    double wakes, slowness;
    bool ended, gone; // gone: the others see it as lost
    bool updating;    // flips then are not found
    uint32_t crc;     // of the weights since the last update
    int64_t step;
    pa_status status;
    pa_err err;
} rank;

static struct {
    uint64_t random;
    double now;
    int world;
    bool scatter;
    ucontext_t scheduler;
    rank rank[MOST];
    wire wire[MOST][MOST];
    float saved[COUNT];
    int64_t saved_step;
    int fault, victim; // of this attempt
    int64_t fault_turn, turn;
    bool hit; // a rank that still had steps to do
} sim;

static uint64_t draw(uint64_t below) {
    uint64_t x = sim.random += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return (x ^ x >> 31) % below;
}

double __wrap_pa_clock(void);
double __wrap_pa_clock(void) {
    return sim.now;
}

static void yield(rank *r, double seconds) {
    r->wakes = sim.now + seconds * r->slowness;
    swapcontext(&r->context, &sim.scheduler);
}

// ---- the transport

static pa_status advance(pa_peers *l, int peer, int way, pa_move *m, bool *moved, pa_err *err) {
    wire *w = way == PA_SEND ? &sim.wire[l->rank][peer] : &sim.wire[peer][l->rank];
    const size_t there = w->tail - w->head, most = way == PA_SEND ? ROOM - there : sim.now < w->open ? 0 : there;
    if (sim.rank[l->rank].gone) return pa_error(err, PA_FAIL, "killed");
    if (w->cut || (sim.rank[peer].gone && (way == PA_SEND || !there)))
        return pa_rank_lost(peer, "connection closed", err);
    size_t bytes = most < m->left ? most : m->left;
    if (!bytes || !draw(4)) return PA_OK;
    bytes = draw(3) ? bytes : 1 + draw(bytes);
    for (size_t i = 0; i < bytes; i++)
        if (way == PA_SEND)
            w->data[w->tail++ % ROOM] = m->at[i];
        else
            m->at[i] = w->data[w->head++ % ROOM];
    if (way == PA_SEND && !draw(3)) w->open = sim.now + (double)draw(1000) * 1e-4;
    m->at += bytes;
    m->left -= bytes;
    *moved = true;
    return PA_OK;
}

static void idle(pa_peers *l, double waited) {
    yield(&sim.rank[l->rank], waited < 1 ? 1e-3 : 0.9);
}

static void leave(pa_peers *l) {
    (void)l;
}

static void leave_at_once(pa_peers *l, int code) {
    (void)l;
    (void)code;
}

// ---- a run: weights follow from gradients of all ranks

static float gradient_of(int r, int64_t step, size_t i, float weight) {
    uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(step * 40503 + r * 77773);
    x ^= x >> 15;
    x *= 2246822519u;
    return (float)((int)(x >> 16) - 32768) * 1e-5f + 0.1f * weight;
}

static void first_weights(float weight[COUNT]) {
    for (size_t i = 0; i < COUNT; i++) weight[i] = gradient_of(MOST, 0, i, 0);
}

// As with train.zero: each rank updates its shares, and all get the weights.
static pa_status update_shares(rank *r, pa_err *err) {
    pa_comm *c = &r->comm;
    for (size_t b = 0; b < pa_comm_buckets(c, COUNT); b++) {
        pa_span own = pa_comm_share(c, COUNT, b, c->rank);
        for (size_t i = own.from; i < own.to; i++) r->weight[i] -= 0.01f * r->gradient[i];
    }
    return pa_comm_gather_shares(c, r->weight, COUNT, err);
}

static pa_status train_step(rank *r, bool scatter, pa_err *err) {
    pa_comm *c = &r->comm;
    pa_status s = pa_comm_reduce_begin(c, r->gradient, COUNT, scatter, err);
    for (size_t from = COUNT; from && !s;) {
        size_t n = 1 + draw(400), to = from;
        from = from > n ? from - n : 0;
        for (size_t i = from; i < to; i++) r->gradient[i] = gradient_of(c->rank, r->step, i, r->weight[i]);
        yield(r, (double)draw(100) * 1e-5);
        s = pa_comm_reduce_ready(c, from, err);
    }
    if (s || (s = pa_comm_reduce_end(c, err))) return s;
    if (scatter && pa_crc32c(0, r->weight, sizeof r->weight) != r->crc)
        return pa_error(err, PA_FAIL, "weights changed in memory");
    r->updating = true;
    if (scatter && (s = update_shares(r, err))) return s;
    for (size_t i = 0; i < COUNT && !scatter; i++) r->weight[i] -= 0.01f * r->gradient[i];
    r->updating = false;
    r->crc = pa_crc32c(0, r->weight, sizeof r->weight);
    double norm = 1;
    if ((s = pa_comm_sum_f64(c, &norm, 1, err))) return s;
    r->step++;
    return norm == c->size ? PA_OK : pa_error(err, PA_FAIL, "a sum of ones is %g", norm);
}

static pa_status run(rank *r, pa_err *err) {
    pa_status s = PA_OK;
    while (r->step < STEPS && !s) {
        s = train_step(r, sim.scatter, err);
        if (s || r->step % SAVE_EVERY) continue;
        s = pa_same_digest(&r->comm, pa_crc32c(0, r->weight, sizeof r->weight), r->step, err);
        if (s || r->comm.rank) continue;
        memcpy(sim.saved, r->weight, sizeof sim.saved);
        sim.saved_step = r->step;
    }
    return s;
}

static void rank_main(int index) {
    rank *r = &sim.rank[index];
    r->status = run(r, &r->err);
    if (r->status)
        pa_comm_abort(&r->comm, 1);
    else
        pa_comm_end(&r->comm);
    r->ended = true;
    r->gone |= r->status != PA_OK;
    for (;;) swapcontext(&r->context, &sim.scheduler);
}

// ---- the cluster

static void strike(void) {
    rank *r = &sim.rank[sim.victim];
    int other = (sim.victim + 1) % sim.world;
    float *weight = &r->weight[draw(COUNT)];
    sim.hit = r->step < STEPS - 1 && sim.rank[other].step < STEPS - 1 && (sim.fault != FLIP || *weight != 0);
    switch (sim.fault) {
    case KILL:
        r->gone = true;
        break;
    case PAUSE:
        r->wakes = sim.now + 100 * TIMEOUT;
        break;
    case CUT:
        sim.wire[sim.victim][other].cut = sim.wire[other][sim.victim].cut = true;
        break;
    case FLIP:
        if (r->updating)
            sim.hit = false;
        else
            ((uint8_t *)weight)[2] ^= 1;
        break;
    default:
        break;
    }
}

static void make_context(rank *r) {
    getcontext(&r->context);
    r->context.uc_stack.ss_sp = r->stack;
    r->context.uc_stack.ss_size = STACK;
    makecontext(&r->context, (void (*)(void))rank_main, 1, r->comm.rank);
}

static void start_ranks(void) {
    static const pa_carrier carrier = {.advance = advance, .idle = idle, .end = leave, .abort = leave_at_once};
    memset(sim.wire, 0, sizeof sim.wire);
    for (int i = 0; i < sim.world; i++) {
        rank *r = &sim.rank[i];
        char *stack = r->stack ? r->stack : malloc(STACK);
        *r = (rank){.comm = {.rank = i, .size = sim.world}, .stack = stack, .step = sim.saved_step};
        r->slowness = draw(4) ? 1 : 20;
        memcpy(r->weight, sim.saved, sizeof r->weight);
        r->crc = pa_crc32c(0, r->weight, sizeof r->weight);
        assert_int_equal(pa_comm_carry(&r->comm, &carrier, NULL, TIMEOUT, &r->err), PA_OK);
        make_context(r);
    }
}

// Runs all ranks until each has ended.
static void attempt(void) {
    start_ranks();
    sim.hit = false;
    for (sim.turn = 0;; sim.turn++) {
        int ready[MOST], count = 0, left = 0;
        double next = INFINITY;
        if (sim.fault && sim.turn == sim.fault_turn) strike();
        for (int i = 0; i < sim.world; i++) {
            const rank *r = &sim.rank[i];
            left += !r->ended;
            if (!r->ended && r->wakes <= sim.now) ready[count++] = i;
            if (!r->ended) next = fmin(next, r->wakes);
        }
        if (!left) return;
        if (sim.turn > 10000000) fail_msg("ranks do not end");
        if (!count) {
            sim.now = next;
            continue;
        }
        sim.now += 1e-6;
        swapcontext(&sim.scheduler, &sim.rank[ready[draw((uint64_t)count)]].context);
    }
}

// Weights without faults, ranks or messages.
static void expect(int world, float weight[COUNT]) {
    first_weights(weight);
    for (int64_t step = 0; step < STEPS; step++)
        for (size_t i = 0; i < COUNT; i++) {
            float sum = gradient_of(0, step, i, weight[i]);
            for (int r = 1; r < world; r++) sum += gradient_of(r, step, i, weight[i]);
            weight[i] -= 0.01f * sum;
        }
}

// A fault may strike a run that is over, or in a message's last byte: then all ranks end well. Else each says why it
// does not.
static void check_ends(uint64_t seed, bool *well) {
    int bad = 0;
    for (int i = 0; i < sim.world; i++) bad += sim.rank[i].status != PA_OK;
    for (int i = 0; i < sim.world; i++) {
        const rank *r = &sim.rank[i];
        bool known = !strncmp(r->err.text, "communication: lost rank ", 25) ||
                     !strncmp(r->err.text, "communication: nothing from rank", 32) ||
                     !strncmp(r->err.text, "weights of rank", 15) || !strcmp(r->err.text, "killed") ||
                     (i == sim.victim && sim.fault == FLIP && !strcmp(r->err.text, "weights changed in memory"));
        if (r->status && (!known || !sim.fault))
            fail_msg("PA_SEED=%llu, %s of rank %d: rank %d: %s", (unsigned long long)seed, fault_name[sim.fault],
                     sim.victim, i, r->err.text);
        bool noticed = !strncmp(r->err.text, "weights of rank", 15) || (sim.scatter && i != sim.victim) ||
                       !strcmp(r->err.text, "weights changed in memory");
        if (sim.fault == FLIP && r->status && !noticed)
            fail_msg("PA_SEED=%llu, flip: rank %d: %s", (unsigned long long)seed, i, r->err.text);
    }
    *well = !bad;
    if (sim.hit && !bad)
        fail_msg("PA_SEED=%llu, %s of rank %d: all ranks end well", (unsigned long long)seed, fault_name[sim.fault],
                 sim.victim);
}

static void run_seed(uint64_t seed, uint64_t struck[FAULTS]) {
    float expected[COUNT];
    sim.random = seed * 1000003;
    sim.now = 0;
    sim.world = 2 + (int)draw(MOST - 1);
    sim.scatter = draw(2);
    sim.saved_step = 0;
    first_weights(sim.saved);
    int faults = (int)draw(4);
    for (bool over = false; !over;) {
        char bucket[32];
        bool well;
        sim.fault = faults-- > 0 ? 1 + (int)draw(FAULTS - 1) : NONE;
        sim.victim = (int)draw((uint64_t)sim.world);
        sim.fault_turn = (int64_t)draw(draw(2) ? 200 : 4000);
        snprintf(bucket, sizeof bucket, "%d", 64 << draw(8));
        setenv("PATRAIN_BUCKET", bucket, 1);
        attempt();
        struck[sim.fault] += sim.hit;
        check_ends(seed, &well);
        over = sim.saved_step == STEPS && (well || !sim.fault);
    }
    expect(sim.world, expected);
    if (memcmp(sim.saved, expected, sizeof expected))
        fail_msg("PA_SEED=%llu: weights differ from those of the run without faults", (unsigned long long)seed);
}

static void faults_change_no_weight(void **state) {
    const char *one = getenv("PA_SEED"), *many = getenv("PA_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : 0,
             count = one    ? 1
                     : many ? strtoull(many, NULL, 10)
                            : 100,
             struck[FAULTS] = {0};
    (void)state;
    for (uint64_t seed = first; seed < first + count; seed++) run_seed(seed, struck);
    printf("%llu runs:", (unsigned long long)count);
    for (int i = 1; i < FAULTS; i++) printf(" %s %llu", fault_name[i], (unsigned long long)struck[i]);
    printf("\n");
    for (int i = 0; i < MOST; i++) free(sim.rank[i].stack);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(faults_change_no_weight)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
