// mapping.c: see mapping.h.
#include "host/files/mapping.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GUARDED = 4096 }; // further ones fault as ever

// Read by the signal's handler.
static struct {
    _Atomic(uintptr_t) begin; // 0: free; 1: being filled
    _Atomic(size_t) count;
    atomic_bool lost;
} guarded[GUARDED];

static int take_slot(const uint8_t *bytes, size_t count) {
    for (int i = 0; i < GUARDED; i++) {
        uintptr_t expected = 0;
        if (!atomic_compare_exchange_strong(&guarded[i].begin, &expected, 1)) continue;
        guarded[i].count = count;
        guarded[i].lost = false;
        guarded[i].begin = (uintptr_t)bytes;
        return i;
    }
    return -1;
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr, page = (uintptr_t)getpagesize();
    int before = errno;
    for (int i = 0; i < GUARDED; i++) {
        uintptr_t begin = guarded[i].begin;
        if (begin < page || at < begin || at - begin >= guarded[i].count) continue;
        if (mmap((void *)(at / page * page), page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED)
            break;
        guarded[i].lost = true;
        errno = before;
        return;
    }
    signal(signal_number, SIG_DFL); // the access is repeated, and ends the process
}

void pa_mapping_guard(void) {
    struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGBUS, &a, NULL);
}

pa_status pa_mapping_open(pa_mapping *m, int fd, size_t count, struct timespec changed, const char *path, pa_err *err) {
    *m = (pa_mapping){.fd = fd, .count = count, .changed = changed, .slot = -1};
    void *bytes = mmap(NULL, count, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return pa_error(err, PA_FAIL, "cannot map %s, %zu bytes: %s", path, count, strerror(errno));
    m->bytes = bytes;
    m->slot = take_slot(m->bytes, count);
    return PA_OK;
}

pa_status pa_mapping_check(const pa_mapping *m, const char *path, pa_err *err) {
    struct stat now;
    if (m->slot >= 0 && guarded[m->slot].lost)
        return pa_error(err, PA_DATA, "%s could not be read, or was cut short, while it was open", path);
    if (fstat(m->fd, &now))
        return pa_error(err, PA_DATA, "%s could not be read while it was open: %s", path, strerror(errno));
    if ((size_t)now.st_size != m->count)
        return pa_error(err, PA_DATA, "%s was changed while it was open: expected %zu bytes, found %lld", path,
                        m->count, (long long)now.st_size);
    if (now.st_mtim.tv_sec != m->changed.tv_sec || now.st_mtim.tv_nsec != m->changed.tv_nsec)
        return pa_error(err, PA_DATA, "%s was written to while it was open", path);
    return PA_OK;
}

void pa_mapping_close(pa_mapping *m) {
    if (m->slot >= 0) guarded[m->slot].begin = 0;
    if (m->bytes) munmap(m->bytes, m->count);
    if (m->fd >= 0) close(m->fd);
    *m = (pa_mapping){.fd = -1, .slot = -1};
}
