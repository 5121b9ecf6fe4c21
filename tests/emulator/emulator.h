// emulator.h: what kernels and the runtime's stand-ins call: launches, the threads of the block that runs, and their
// meeting points. Blocks run one after another, a block's threads as fibers that run until they wait for others. Which
// goes first is drawn from PA_EMULATOR_SEED, so that a missing barrier shows. A mistake of a kernel ends the program,
// with the kernel, block and threads named.
#ifndef PA_EMULATOR_H
#define PA_EMULATOR_H

#include <functional>
#include <stddef.h>
#include <stdint.h>
#include <tuple>
#include <vector>

namespace emulator {

struct copy { // a cp.async on its way
    void *shared;
    const void *global; // NULL: zeros
};

// What a thread waits at. Lanes that meet are at the same point in the same file's line.
struct point {
    const char *name;
    void (*act)(void **slots, unsigned present); // once all are there; slots of the 32 lanes
    bool whole;                                  // all 32 lanes must take part
};

struct thread {
    uint3 index;
    int number, lane, warp;
    struct fiber *on; // while it waits
    const point *at;  // NULL: it runs, or could
    unsigned mask;
    void *slot;
    const char *file;
    int line;
    bool ended;
    bool awaited;                // earlier kernels
    std::vector<copy> copies;    // not yet made, oldest first
    std::vector<size_t> commits; // ends of the groups among them
};

extern thread *self; // the one that runs
extern uint3 block_index;
extern dim3 block_dim, grid_dim;

int architecture(); // 75, 80 or 90, from PA_EMULATOR_SM; 0: no GPU
uint64_t seed();
void read_settings(); // again, from the environment

// Waits until the lanes of `mask` that have not ended are here. slot is this lane's place for act to read and write.
void meet_warp(const point &at, unsigned mask, void *slot, const char *file, int line);
// Waits until all threads of the block that have not ended are here. Returns the sum of count over them.
int meet_block(int count, const char *file, int line);
void *shared_memory();                       // dynamic, of the block that runs
bool is_shared(const void *p, size_t bytes); // lies in the block's shared memory
void copies_wait(size_t newest);             // makes this thread's copies, but for its `newest` latest groups
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2))); // of the thread that runs

// Runs a grid now. body is called in each thread. early: each thread must await earlier kernels.
void run_grid(const char *kernel, const std::function<void()> &body, dim3 grid, dim3 block, size_t shared, bool early);

// runtime.cpp: what a stream is asked to do, done now, later, or recorded while the stream is captured.
void enqueue(cudaStream_t stream, std::function<void()> work);
void enqueue_waiting(cudaStream_t stream, std::function<bool()> work); // asked again until it returns true
cudaError_t function_attributes(cudaFuncAttributes *a, const void *kernel);
cudaError_t set_function_attribute(const void *kernel, cudaFuncAttribute attribute, int value);
// cudaSuccess, or why such a launch would fail on the GPU (kept for cudaGetLastError).
cudaError_t check_launch(const void *kernel, dim3 grid, dim3 block, size_t shared);

template <bool EARLY = false, typename... P, typename... A>
void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            A &&...given) {
    if (check_launch((const void *)kernel, grid, block, shared)) return;
    std::tuple<P...> arguments(static_cast<P>(given)...); // by value, as of now
    static_assert(sizeof arguments <= 4096, "a kernel takes at most 4 KB of arguments");
    enqueue(stream, [=] {
        run_grid(
            name, [&] { std::apply(kernel, arguments); }, grid, block, shared, EARLY);
    });
}

} // namespace emulator
#endif
