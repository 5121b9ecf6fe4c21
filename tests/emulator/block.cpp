// block.cpp: the threads of a block: which runs next, where they meet, and the error when they never do. See
// emulator.h. A thread that never waits runs to its end on a stack that the next one uses again, so that plain kernels
// cost calls, not switches. Of all threads that could run, the one with the least (warp ^ a, lane ^ b) does; a and b
// are drawn for each block, and a at each
// __syncthreads, so that any warp may run far ahead of any other, and any lane of another.
#include <cuda_runtime.h>

#include "tests/emulator/fiber.h"

#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

namespace emulator {

thread *self;
uint3 block_index;
dim3 block_dim, grid_dim;

static const char *kernel_name;
static const std::function<void()> *kernel_body;
static bool kernel_early; // it may start before earlier kernels have ended
static thread threads[1024];
static int live;                                               // threads of the block that have not ended
static int arrived;                                            // of them, at the block's barrier
static int counted;                                            // sum at the barrier
static int count_told;                                         // the last barrier's sum
static uint64_t draws;                                         // of the order
static std::vector<fiber *> &idle = *new std::vector<fiber *>; // never destroyed: fibers outlive main, and are no leak

static struct {
    unsigned live, waiting, ready; // lanes, bit lane; of ready, bit lane ^ lane_order
} warps[32];
static unsigned ready_warps; // bit warp ^ warp_order
static unsigned warp_order, lane_order;

static char *shared_dynamic;
static size_t shared_bytes;

static uint64_t draw() {
    uint64_t x = seed() * 0x9e3779b97f4a7c15u + ++draws * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 31) * 0x94d049bb133111ebu;
    return seed() ? x ^ x >> 29 : 0;
}

static void describe(const char *format, va_list list) {
    fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u)", kernel_name ? kernel_name : "(none)", block_index.x,
            block_index.y, block_index.z);
    if (self) fprintf(stderr, ", thread (%u, %u, %u)", self->index.x, self->index.y, self->index.z);
    fprintf(stderr, ": ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
}

void fault(const char *format, ...) {
    va_list list;
    va_start(list, format);
    describe(format, list);
    va_end(list);
    abort();
}

static bool like(const thread &x, const thread &y) {
    return x.ended == y.ended && x.at == y.at && x.line == y.line && x.file == y.file && x.mask == y.mask &&
           x.warp == y.warp;
}

static const point at_block = {"__syncthreads", nullptr, false};

// Where the threads [from, to) are, a line for neighbours that are at the same place; at most 16 lines.
static void list_threads(int from, int to) {
    for (int i = from, lines = 0; i < to && lines < 16; lines++) {
        int n = i + 1;
        const thread &t = threads[i];
        while (n < to && like(t, threads[n])) n++;
        fprintf(stderr, "  warp %d, lanes %d to %d: ", t.warp, t.lane, threads[n - 1].lane);
        if (t.ended)
            fprintf(stderr, "ended\n");
        else if (!t.at)
            fprintf(stderr, "not waiting\n");
        else if (t.at == &at_block)
            fprintf(stderr, "wait at %s, %s:%d\n", t.at->name, t.file, t.line);
        else
            fprintf(stderr, "wait at %s for lanes %08x, %s:%d\n", t.at->name, t.mask, t.file, t.line);
        i = n;
    }
}

[[noreturn]] static void mismatch(const char *what, int from, int to) {
    va_list none = {};
    self = nullptr;
    describe(what, none);
    list_threads(from, to);
    abort();
}

static int threads_in_block() {
    return (int)(block_dim.x * block_dim.y * block_dim.z);
}

static void set_ready(int warp, unsigned lanes) {
    unsigned permuted = 0;
    if (lanes == 0xffffffffu)
        permuted = lanes;
    else
        for (unsigned rest = lanes; rest; rest &= rest - 1) permuted |= 1u << (__builtin_ctz(rest) ^ lane_order);
    warps[warp].ready |= permuted;
    if (lanes) ready_warps |= 1u << (warp ^ warp_order);
}

// The thread to run next, which is then no longer ready; NULL where all wait or have ended.
static thread *pick() {
    if (!ready_warps) return nullptr;
    const unsigned w = (unsigned)__builtin_ctz(ready_warps), warp = w ^ warp_order,
                   l = (unsigned)__builtin_ctz(warps[warp].ready);
    warps[warp].ready &= warps[warp].ready - 1;
    if (!warps[warp].ready) ready_warps &= ~(1u << w);
    return &threads[warp * 32 + (l ^ lane_order)];
}

static void thread_main();

// Runs t, on its stack or on a fresh one.
static void go(thread *t) {
    fiber *on = t->on;
    if (!on) {
        if (idle.empty()) idle.push_back(fiber_create(thread_main));
        on = idle.back();
        idle.pop_back();
    }
    self = t;
    fiber_switch(on);
}

static void complete_warp(int warp, unsigned present);
static void complete_block();

// Waits until someone has made this thread ready and its turn has come.
static void wait() {
    thread *me = self, *next = pick();
    if (next == me) return;
    if (!next) mismatch("threads wait for each other for ever", 0, threads_in_block());
    me->on = fiber_self();
    go(next);
    me->on = nullptr;
}

static void end(thread *t) {
    const unsigned bit = 1u << t->lane;
    if (kernel_early && !t->awaited) fault("the thread ends without cuda_await_earlier()");
    t->ended = true;
    live--;
    warps[t->warp].live &= ~bit;
    // Those who wait for it need not any more.
    const unsigned waiting = warps[t->warp].waiting;
    for (unsigned rest = waiting; rest;) {
        const unsigned mask = threads[t->warp * 32 + __builtin_ctz(rest)].mask, expected = mask & warps[t->warp].live;
        if ((waiting & expected) == expected) complete_warp(t->warp, expected);
        rest &= ~mask;
    }
    if (live && arrived == live) complete_block();
}

static void thread_main() {
    for (;;) {
        (*kernel_body)();
        end(self);
        thread *next = pick();
        if (next && !next->on) {
            self = next;
            continue;
        }
        if (!next && live) mismatch("threads wait for each other for ever", 0, threads_in_block());
        idle.push_back(fiber_self());
        if (next)
            go(next);
        else
            fiber_switch(nullptr);
    }
}

// All lanes of a meeting are there: `present` of those that it is for.
static void complete_warp(int warp, unsigned present) {
    thread *lanes = &threads[warp * 32];
    const thread &first = lanes[__builtin_ctz(present)];
    void *slots[32];
    for (unsigned rest = present; rest; rest &= rest - 1) {
        const thread &t = lanes[__builtin_ctz(rest)];
        if (t.at != first.at || t.mask != first.mask || t.line != first.line || strcmp(t.file, first.file))
            mismatch("lanes that should meet are at different places", warp * 32,
                     std::min(warp * 32 + 32, threads_in_block()));
        slots[t.lane] = t.slot;
    }
    if (first.at->whole && present != 0xffffffffu)
        mismatch("not all 32 lanes take part", warp * 32, std::min(warp * 32 + 32, threads_in_block()));
    if (first.at->act) {
        self = &lanes[__builtin_ctz(present)];
        first.at->act(slots, present);
    }
    for (unsigned rest = present; rest; rest &= rest - 1) lanes[__builtin_ctz(rest)].at = nullptr;
    warps[warp].waiting &= ~present;
    set_ready(warp, present);
}

void meet_warp(const point &at, unsigned mask, void *slot, const char *file, int line) {
    thread *me = self;
    if (!(mask >> me->lane & 1)) fault("%s:%d: %s for lanes %08x, which exclude this one", file, line, at.name, mask);
    me->at = &at, me->mask = mask, me->slot = slot, me->file = file, me->line = line;
    auto &warp = warps[me->warp];
    warp.waiting |= 1u << me->lane;
    const unsigned expected = mask & warp.live;
    if ((warp.waiting & expected) == expected) {
        complete_warp(me->warp, expected);
        self = me;
    }
    wait();
}

static void complete_block() {
    const int all = threads_in_block();
    const thread *first = nullptr;
    for (int i = 0; i < all; i++) {
        thread &t = threads[i];
        if (t.ended) continue;
        if (!first) first = &t;
        if (t.line != first->line || strcmp(t.file, first->file)) mismatch("threads are at different barriers", 0, all);
    }
    for (int i = 0; i < all; i++) threads[i].at = nullptr;
    count_told = counted, counted = arrived = 0;
    warp_order = (unsigned)draw() % 32;
    ready_warps = 0;
    for (int w = 0; w < (all + 31) / 32; w++) set_ready(w, warps[w].live);
}

int meet_block(int count, const char *file, int line) {
    thread *me = self;
    me->at = &at_block, me->mask = 0, me->file = file, me->line = line;
    counted += count;
    if (++arrived == live) complete_block();
    wait();
    return count_told;
}

// The memory of `static thread_local` variables, which is the kernels' __shared__ and nothing else.
struct extent {
    char *base;
    size_t size;
};
static extent static_shared() {
    static extent found = {};
    static bool looked = false;
    if (looked) return found;
    looked = true;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *out) {
            for (int i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data)
                    *(extent *)out = {(char *)info->dlpi_tls_data, info->dlpi_phdr[i].p_memsz};
            return 1; // the program comes first; its libraries' are theirs
        },
        &found);
    return found;
}

// 0xff.. is no number, and no index.
static void poison_shared() {
    if (extent e = static_shared(); e.size) memset(e.base, 0xff, e.size);
    if (shared_bytes) memset(shared_dynamic, 0xff, shared_bytes);
}

void *shared_memory() {
    return shared_dynamic;
}

bool is_shared(const void *p, size_t bytes) {
    const char *c = (const char *)p;
    const extent e = static_shared();
    return (c >= shared_dynamic && c + bytes <= shared_dynamic + shared_bytes) ||
           (c >= e.base && c + bytes <= e.base + e.size);
}

static void run_block() {
    const int all = threads_in_block();
    poison_shared();
    live = all, arrived = counted = 0;
    lane_order = (unsigned)draw() % 32, warp_order = (unsigned)draw() % 32, ready_warps = 0;
    for (int w = 0; w * 32 < all; w++) {
        const unsigned lanes = all - w * 32 >= 32 ? 0xffffffffu : (1u << (all - w * 32)) - 1;
        warps[w] = {lanes, 0, 0};
        set_ready(w, lanes);
    }
    for (int i = 0; i < all; i++) {
        thread &t = threads[i];
        t.on = nullptr, t.at = nullptr, t.ended = t.awaited = false;
        if (!t.copies.empty()) t.copies.clear();
        if (!t.commits.empty()) t.commits.clear();
    }
    go(pick());
    self = nullptr;
}

// PA_EMULATOR_TRACE names a file to which each kernel that runs is appended: its name, grid and block.
static void trace(const char *kernel, dim3 grid, dim3 block) {
    static FILE *file = getenv("PA_EMULATOR_TRACE") ? fopen(getenv("PA_EMULATOR_TRACE"), "a") : nullptr;
    if (file) fprintf(file, "%s %ux%ux%u %ux%ux%u\n", kernel, grid.x, grid.y, grid.z, block.x, block.y, block.z);
}

void run_grid(const char *kernel, const std::function<void()> &body, dim3 grid, dim3 block, size_t shared, bool early) {
    trace(kernel, grid, block);
    kernel_name = kernel, kernel_body = &body, kernel_early = early, block_dim = block, grid_dim = grid;
    // Exactly as much as was asked for, so that the address sanitizer sees what lies beyond.
    void *memory = nullptr;
    if (shared && posix_memalign(&memory, 128, shared)) abort();
    shared_dynamic = (char *)memory, shared_bytes = shared;
    for (int i = 0; i < threads_in_block(); i++) {
        const unsigned n = (unsigned)i;
        threads[i].index = {n % block.x, n / block.x % block.y, n / block.x / block.y};
        threads[i].number = i, threads[i].lane = i % 32, threads[i].warp = i / 32;
    }
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, first = draw() % blocks;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t b = (i + first) % blocks;
        block_index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
        run_block();
    }
    free(memory);
    shared_dynamic = nullptr, shared_bytes = 0;
    kernel_name = nullptr;
}

} // namespace emulator
