// allocations.c: stands before the C library's malloc and mmap, as a program's own definitions do, and counts on the
// way through.
#include "tests/support/allocations.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

static atomic_size_t calls;

size_t allocations_so_far(void) {
    return calls;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWNED_BY_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define OWNED_BY_SANITIZER 1
#endif
#endif

#ifdef OWNED_BY_SANITIZER
bool allocations_counted(void) {
    return false;
}
#else
static struct {
    uintptr_t start, end; // of a runtime library's code
    size_t below;         // blocks smaller than this are its own affair
} runtime[8];
static int runtimes;

bool allocations_counted(void) {
    return true;
}

// oneDNN's products for processors without AVX-512 (gemm:jit) take their packing buffers from malloc on every call.
static bool packs(const char *library) {
#if defined(__x86_64__)
    return strstr(library, "libdnnl") && !__builtin_cpu_supports("avx512f");
#else
    return strstr(library, "libdnnl");
#endif
}

static int find_runtimes(struct dl_phdr_info *library, size_t size, void *unused) {
    const char *name = library->dlpi_name;
    (void)size;
    (void)unused;
    if (!packs(name) && !strstr(name, "libgomp") && !strstr(name, "libomp") && !strstr(name, "libstdc++")) return 0;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &library->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || runtimes == 8) continue;
        runtime[runtimes].start = library->dlpi_addr + part->p_vaddr;
        runtime[runtimes].end = runtime[runtimes].start + part->p_memsz;
        runtime[runtimes].below = packs(name) ? SIZE_MAX : 4096;
        runtimes++;
    }
    return 0;
}

__attribute__((constructor)) static void start(void) {
    dl_iterate_phdr(find_runtimes, NULL);
}

static void count(const void *caller, size_t size) {
    for (int i = 0; i < runtimes; i++)
        if (size < runtime[i].below && (uintptr_t)caller >= runtime[i].start && (uintptr_t)caller < runtime[i].end)
            return;
    calls++;
}

// glibc's own names for what is replaced here; they need no look-up, which would itself allocate.
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

void *malloc(size_t size) {
    count(__builtin_return_address(0), size);
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count(__builtin_return_address(0), number * size);
    return __libc_calloc(number, size);
}

void *realloc(void *old, size_t size) {
    count(__builtin_return_address(0), size);
    return __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size) {
    count(__builtin_return_address(0), size);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    count(__builtin_return_address(0), size);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    count(__builtin_return_address(0), size);
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : ENOMEM;
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    static void *(*next)(void *, size_t, int, int, int, off_t);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "mmap");
    count(__builtin_return_address(0), size);
    return next(at, size, protection, flags, file, offset);
}
#endif
