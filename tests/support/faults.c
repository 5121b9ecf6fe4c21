// faults.c: fails the Nth call of a kind, or records what a program does to its files; by LD_PRELOAD.
//
//   PA_FAULT=KIND:N    the Nth call of that kind fails, "N+": and all after it. Counted from the start of main, in all
//                      processes and threads of a run: earlier calls are the dynamic loader's.
//   PA_COUNTS=FILE     a file of at least 4096 bytes: the calls of each kind and the failed ones, as 64-bit numbers in
//                      the order of `kind`. FILE.trace: where the first call failed.
//   PA_RECORD=FILE     every successful change of files in order, as lines "CALL INODE NUMBER BYTES" with so many bytes
//                      after each: the data written, or paths with a NUL between them
//   PA_SERVER=1        loads the program once and runs it many times, which is faster: waits in front of main, and for
//                      each line "KIND:N" or "-" of stdin forks a child that runs on from there, its stdout and stderr
//                      to FILE.out and FILE.err. Prints its process and, when it has ended, its status as wait(2) has
//                      it.
//
// System calls are trapped by seccomp, as a preloaded function would miss those that stdio makes inside libc: each
// raises SIGSYS, whose handler fails it or makes it itself, from the one address that the filter lets through.
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef enum { MEMORY, THREAD, FORK, OPEN, READ, WRITE, SYNC, RENAME, MAP, NAME, LIST, KINDS } kind;

static const struct {
    const char *name;
    int error;
} kinds[KINDS] = {{"memory", ENOMEM}, {"thread", EAGAIN}, {"fork", EAGAIN}, {"open", EMFILE},
                  {"read", EIO},      {"write", ENOSPC},  {"sync", EIO},    {"rename", EIO},
                  {"map", ENOMEM},    {"name", EIO},      {"list", EIO}};

static const struct {
    int number;
    kind kind;
} trapped[] = {{SYS_open, OPEN},      {SYS_openat, OPEN},    {SYS_read, READ},       {SYS_pread64, READ},
               {SYS_write, WRITE},    {SYS_pwrite64, WRITE}, {SYS_ftruncate, WRITE}, {SYS_fsync, SYNC},
               {SYS_fdatasync, SYNC}, {SYS_rename, RENAME},  {SYS_renameat, RENAME}, {SYS_renameat2, RENAME},
               {SYS_mmap, MAP},       {SYS_mkdir, NAME},     {SYS_mkdirat, NAME},    {SYS_unlink, NAME},
               {SYS_unlinkat, NAME},  {SYS_rmdir, NAME},     {SYS_symlink, NAME},    {SYS_symlinkat, NAME},
               {SYS_link, NAME},      {SYS_linkat, NAME},    {SYS_getdents64, LIST}};
enum { TRAPPED = sizeof trapped / sizeof *trapped };

static struct { atomic_long calls[KINDS], failed; } * shared;

static kind chosen = KINDS;
static long nth;
static bool persists, armed, counts;
static int trace = -1, record = -1;
static _Thread_local bool busy;

// A system call that the filter lets through, by its return address.
long faults_call(long number, long a, long b, long c, long d, long e, long f);
extern char faults_call_end[];
__asm__(".text\n"
        ".hidden faults_call\n.globl faults_call\n.type faults_call, @function\n"
        ".hidden faults_call_end\n.globl faults_call_end\n"
        "faults_call:\n"
        "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n"
        "mov %r8, %r10\n mov %r9, %r8\n mov 8(%rsp), %r9\n"
        "syscall\n"
        "faults_call_end: ret\n");

static bool fails(kind k) {
    if (!armed || busy) return false;
    long now = atomic_fetch_add(&shared->calls[k], 1) + 1;
    if (k != chosen || now < nth || (now > nth && !persists)) return false;
    if (atomic_fetch_add(&shared->failed, 1)) return true;
    void *frame[32];
    busy = true;
    backtrace_symbols_fd(frame, backtrace(frame, 32), trace);
    busy = false;
    return true;
}

// ---- memory, threads and processes

static void *original(const char *name) {
    void *f = dlsym(RTLD_NEXT, name);
    if (!f) abort();
    return f;
}

#define ORIGINAL(name)                                                                                                 \
    static __typeof__(&name) next;                                                                                     \
    if (!next) next = (__typeof__(&name))original(#name)

void *malloc(size_t size) {
    ORIGINAL(malloc);
    if (!fails(MEMORY)) return next(size);
    errno = ENOMEM;
    return NULL;
}

void *calloc(size_t count, size_t size) {
    ORIGINAL(calloc);
    if (!fails(MEMORY)) return next(count, size);
    errno = ENOMEM;
    return NULL;
}

void *realloc(void *old, size_t size) {
    ORIGINAL(realloc);
    if (!fails(MEMORY)) return next(old, size);
    errno = ENOMEM;
    return NULL;
}

// Tiny runs ask for that much only to measure the processor's peak, which takes longer than all the rest.
enum { LARGE = 8 << 20 };

void *aligned_alloc(size_t alignment, size_t size) {
    ORIGINAL(aligned_alloc);
    if (size < LARGE && !fails(MEMORY)) return next(alignment, size);
    errno = ENOMEM;
    return NULL;
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    ORIGINAL(posix_memalign);
    return fails(MEMORY) ? ENOMEM : next(out, alignment, size);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*begin)(void *), void *argument) {
    ORIGINAL(pthread_create);
    return fails(THREAD) ? EAGAIN : next(thread, attributes, begin, argument);
}

pid_t fork(void) {
    ORIGINAL(fork);
    if (!fails(FORK)) return next();
    errno = EAGAIN;
    return -1;
}

// Nobody blocks SIGSYS: a trapped call would end the process.
static const sigset_t *without_traps(int how, const sigset_t *set, sigset_t *out) {
    if (!set || how == SIG_UNBLOCK) return set;
    *out = *set;
    sigdelset(out, SIGSYS);
    return out;
}

int pthread_sigmask(int how, const sigset_t *set, sigset_t *before) {
    ORIGINAL(pthread_sigmask);
    sigset_t now;
    return next(how, without_traps(how, set, &now), before);
}

int sigprocmask(int how, const sigset_t *set, sigset_t *before) {
    ORIGINAL(sigprocmask);
    sigset_t now;
    return next(how, without_traps(how, set, &now), before);
}

// ---- the record

static void put_record(const char *call, const struct stat *file, long number, const void *bytes, size_t count) {
    char head[96];
    int n =
        snprintf(head, sizeof head, "%s %lu %ld %zu\n", call, file ? (unsigned long)file->st_ino : 0, number, count);
    struct iovec part[] = {{head, (size_t)n}, {(void *)(uintptr_t)bytes, count}};
    if (faults_call(SYS_writev, record, (long)part, 2, 0, 0, 0) != n + (long)count) abort();
}

// A path as it stands in a call, absolute.
static size_t put_path(char *out, size_t size, long folder, long path) {
    const char *name = (const char *)path;
    char link[64];
    ssize_t n = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%ld", folder);
    if ((int)folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    if (*name != '/') n = readlink(link, out, size - 1);
    return (size_t)n + (size_t)snprintf(out + n, size - (size_t)n, "%s%s", *name == '/' ? "" : "/", name);
}

static void put_names(const char *call, const struct stat *file, long number, const long a[4]) {
    char text[2 * PATH_MAX];
    size_t n = put_path(text, PATH_MAX, a[0], a[1]);
    if (a[3]) n += 1 + put_path(text + n + 1, PATH_MAX - 1, a[2], a[3]);
    put_record(call, file, number, text, n);
}

static void record_file(int number, long result, const long a[6]) {
    struct stat file;
    if (fstat((int)a[0], &file) || !(S_ISREG(file.st_mode) || S_ISDIR(file.st_mode))) return;
    if (number == SYS_write)
        put_record("write", &file, lseek((int)a[0], 0, SEEK_CUR) - result, (void *)a[1], (size_t)result);
    else if (number == SYS_pwrite64)
        put_record("write", &file, a[3], (void *)a[1], (size_t)result);
    else if (number == SYS_ftruncate)
        put_record("truncate", &file, a[1], NULL, 0);
    else if (number == SYS_fsync || number == SYS_fdatasync)
        put_record("sync", &file, 0, NULL, 0);
}

static void record_open(long result, const long a[4], long flags) {
    struct stat file;
    if (!(flags & O_CREAT) || fstat((int)result, &file) || !S_ISREG(file.st_mode)) return;
    put_names("create", &file, (flags & O_TRUNC) != 0, a);
}

static void record_mkdir(long folder, long path) {
    struct stat file;
    if (fstatat((int)folder, (const char *)path, &file, 0)) abort();
    put_names("mkdir", &file, 0, (long[]){folder, path, 0, 0});
}

static void record_symlink(const char *target, long path) {
    char text[2 * PATH_MAX];
    size_t n = put_path(text, PATH_MAX, AT_FDCWD, path) + 1;
    n += (size_t)snprintf(text + n, PATH_MAX, "%s", target);
    put_record("symlink", NULL, 0, text, n);
}

static void record_call(int number, long result, const long a[6]) {
    const long here = AT_FDCWD;
    switch (number) {
    case SYS_open:
        return record_open(result, (long[]){here, a[0], 0, 0}, a[1]);
    case SYS_openat:
        return record_open(result, (long[]){a[0], a[1], 0, 0}, a[2]);
    case SYS_rename:
        return put_names("rename", NULL, 0, (long[]){here, a[0], here, a[1]});
    case SYS_renameat:
    case SYS_renameat2:
        return put_names("rename", NULL, number == SYS_renameat2 ? a[4] : 0, a);
    case SYS_mkdir:
        return record_mkdir(here, a[0]);
    case SYS_mkdirat:
        return record_mkdir(a[0], a[1]);
    case SYS_unlink:
    case SYS_rmdir:
        return put_names("remove", NULL, 0, (long[]){here, a[0], 0, 0});
    case SYS_unlinkat:
        return put_names("remove", NULL, 0, (long[]){a[0], a[1], 0, 0});
    case SYS_symlink:
        return record_symlink((const char *)a[0], a[1]);
    case SYS_link:
        return put_names("link", NULL, 0, (long[]){here, a[0], here, a[1]});
    default:
        return record_file(number, result, a);
    }
}

// ---- the traps

static bool is_changing(int number) {
    return number != SYS_read && number != SYS_pread64 && number != SYS_mmap && number != SYS_getdents64;
}

static long make_call(int number, const long a[6]) {
    static atomic_flag locked = ATOMIC_FLAG_INIT;
    bool records = record >= 0 && is_changing(number);
    while (records && atomic_flag_test_and_set(&locked)) {}
    long result = faults_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (records) {
        if (result >= 0) record_call(number, result, a);
        atomic_flag_clear(&locked);
    }
    return result;
}

static void on_trap(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    int before = errno, number = info->si_syscall;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const long a[] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    size_t i = 0;
    while (i < TRAPPED && trapped[i].number != number) i++;
    kind k = trapped[i].kind;
    bool spared = busy || (k == WRITE && a[0] == STDERR_FILENO); // the message of the failure
    r[REG_RAX] = !spared && fails(k) ? -kinds[k].error : make_call(number, a);
    errno = before;
}

static void set_traps(void) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};
    uint64_t ours = (uint64_t)(uintptr_t)faults_call_end;
    size_t address = offsetof(struct seccomp_data, instruction_pointer);
    struct sock_filter filter[TRAPPED + 8] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, address),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)ours, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, address + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(ours >> 32), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    for (uint8_t i = 0; i < TRAPPED; i++)
        filter[6 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)trapped[i].number,
                                                     (uint8_t)(TRAPPED - i), 0);
    filter[6 + TRAPPED] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[7 + TRAPPED] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog program = {TRAPPED + 8, filter};
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) {
        perror("faults.c: seccomp");
        _exit(99);
    }
}

static void read_settings(void) {
    const char *fault = getenv("PA_FAULT"), *path = getenv("PA_COUNTS"), *to = getenv("PA_RECORD");
    char name[16], number[24], file[PATH_MAX], *end;
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *frame[4];
    if (fd >= 0) shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!shared || shared == MAP_FAILED) _exit(99);
    close(fd);
    if (to) record = open(to, flags, 0600);
    counts = !fault && !to;
    if (!fault) return;
    if (sscanf(fault, "%15[^:]:%23s", name, number) != 2) _exit(99);
    nth = strtol(number, &end, 10);
    persists = *end == '+';
    for (chosen = 0; chosen < KINDS && strcmp(kinds[chosen].name, name);) chosen++;
    snprintf(file, sizeof file, "%s.trace", path);
    trace = open(file, flags | O_TRUNC, 0600);
    backtrace(frame, 4); // the first one loads a library
}

// ---- the server

static void put_stream(int fd, const char *ending) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s%s", getenv("PA_COUNTS"), ending);
    int file = open(fd == STDIN_FILENO ? "/dev/null" : path,
                    fd == STDIN_FILENO ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || dup2(file, fd) < 0) _exit(99);
    close(file);
}

static bool read_line(char *line, size_t size) {
    size_t n = 0;
    while (n + 1 < size && read(STDIN_FILENO, line + n, 1) == 1 && line[n] != '\n') n++;
    line[n] = 0;
    return n;
}

// Returns in the children only.
static void serve(void) {
    char fault[64];
    int status;
    while (read_line(fault, sizeof fault)) {
        pid_t child = fork();
        setpgid(child, child);
        if (!child) {
            unsetenv("PA_SERVER");
            if (*fault != '-') setenv("PA_FAULT", fault, 1);
            put_stream(STDIN_FILENO, "");
            put_stream(STDOUT_FILENO, ".out");
            put_stream(STDERR_FILENO, ".err");
            return;
        }
        dprintf(STDOUT_FILENO, "%d\n", child);
        if (waitpid(child, &status, 0) != child) _exit(99);
        dprintf(STDOUT_FILENO, "%d\n", status);
    }
    _exit(0);
}

static int (*program_main)(int, char **, char **);

static int begin(int count, char **arguments, char **environment) {
    if (getenv("PA_SERVER")) serve();
    read_settings();
    if (counts || record >= 0 || chosen >= OPEN) set_traps();
    armed = true;
    return program_main(count, arguments, environment);
}

int __libc_start_main(int (*run)(int, char **, char **), int count, char **arguments, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end);
int __libc_start_main(int (*run)(int, char **, char **), int count, char **arguments, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end) {
    ORIGINAL(__libc_start_main);
    program_main = run;
    return next(begin, count, arguments, init, fini, rtld_fini, stack_end);
}
