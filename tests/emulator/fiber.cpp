// fiber.cpp: see fiber.h. A switch is twenty instructions on x86-64, swapcontext elsewhere.
#include "tests/emulator/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED 1
#endif
#endif
#ifdef WATCHED
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

// Frames are larger where they are watched. A page below each stack faults when it runs over.
#ifdef WATCHED
static const size_t stack_size = 512 << 10;
#else
static const size_t stack_size = 128 << 10;
#endif

struct fiber {
    void (*main)();
    char *stack;    // its lowest byte
    size_t size;    // bytes
    void *watching; // the sanitizer's
#if defined(__x86_64__)
    void *top; // stack pointer while it does not run
#else
    ucontext_t context;
#endif
};

static fiber outside; // the stack that the program came with
static fiber *running = &outside;
static fiber *before = nullptr; // the one that was switched from last

static void arrived() {
#ifdef WATCHED
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(running->watching, &bottom, &size);
    if (before == &outside) outside.stack = (char *)bottom, outside.size = size;
#endif
}

static void begin() {
    arrived();
    running->main();
    abort();
}

#if defined(__x86_64__)
extern "C" void emulator_switch_stacks(void **from, void *to);
// Saves what a call must keep on the old stack, and takes it from the new one.
asm(R"(
.text
.p2align 4
.globl emulator_switch_stacks
.type emulator_switch_stacks, @function
emulator_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch_stacks, .-emulator_switch_stacks
)");

static void prepare(fiber *f, char *top) {
    void **sp = (void **)top;
    *--sp = nullptr; // begin's return address: never used; keeps the stack aligned as at a call
    *--sp = (void *)begin;
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    f->top = sp;
}
#else
static void prepare(fiber *f, char *top) {
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = (size_t)(top - f->stack);
    makecontext(&f->context, begin, 0);
}
#endif

fiber *fiber_create(void (*main)()) {
    static size_t made = 0;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *base = (char *)mmap(nullptr, stack_size + page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || mprotect(base, page, PROT_NONE)) {
        perror("emulator: a stack for a thread");
        abort();
    }
    fiber *f = new fiber{};
    f->main = main, f->stack = base + page, f->size = stack_size;
    // Tops lie at different places of their pages, so that the frames of all threads don't want the same lines of the
    // cache.
    prepare(f, f->stack + stack_size - made++ * 320 % 4096 / 64 * 64);
    return f;
}

void fiber_switch(fiber *to) {
    fiber *from = running;
    if (!to) to = &outside;
    before = from, running = to;
#ifdef WATCHED
    __sanitizer_start_switch_fiber(&from->watching, to->stack, to->size);
#endif
#if defined(__x86_64__)
    emulator_switch_stacks(&from->top, to->top);
#else
    swapcontext(&from->context, &to->context);
#endif
    arrived();
}

fiber *fiber_self() {
    return running == &outside ? nullptr : running;
}

} // namespace emulator
