// stop.c: see stop.h. At the end of the grace SIGALRM wakes a thread, which waits until dropping is allowed.
#include "host/train/stop.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

static volatile sig_atomic_t requested, over;
static pa_stop_options options;
static sem_t wake;
static pthread_mutex_t forbidden = PTHREAD_MUTEX_INITIALIZER; // held by the training thread unless dropping is allowed
static pthread_t watcher;
static bool active, watches;
static atomic_bool ending;
static char text[160];
static size_t text_length;

static void end_grace(void) {
    over = 1;
    sem_post(&wake);
}

static void on_signal(int signal) {
    int before = errno;
    if (signal == SIGALRM) {
        end_grace();
    } else {
        if (signal == SIGINT && requested) _exit(130);
        if (!requested++) {
            if (options.prints && write(STDERR_FILENO, text, text_length) < 0) {} // stderr may be closed
            if (options.grace)
                alarm((unsigned)options.grace);
            else
                end_grace();
        }
    }
    errno = before;
}

static void *watch(void *unused) {
    while (sem_wait(&wake)) {} // EINTR
    pthread_mutex_lock(&forbidden);
    if (!atomic_load(&ending)) options.drop(options.context);
    pthread_mutex_unlock(&forbidden);
    return unused;
}

pa_status pa_stop_begin(const pa_stop_options *o, pa_err *err) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigset_t all, before; // the watcher takes no signals
    requested = over = 0;
    options = *o;
    char limit[32] = "";
    if (o->drop) snprintf(limit, sizeof limit, " (%d s at most)", o->grace);
    text_length = (size_t)snprintf(
        text, sizeof text,
        "\nstopping: finishing this step%s, then saving; Ctrl-C again exits at once, without saving\n", limit);
    atomic_store(&ending, false);
    sem_init(&wake, 0, 0);
    pthread_mutex_lock(&forbidden);
    if (options.drop) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        watches = !pthread_create(&watcher, NULL, watch, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!watches) {
            pthread_mutex_unlock(&forbidden);
            return pa_error(err, PA_FAIL, "cannot start a thread");
        }
    }
    active = true;
    sigaction(SIGALRM, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGUSR2, &a, NULL);
    sigaction(SIGXCPU, &a, NULL);
    return PA_OK;
}

void pa_stop_end(void) {
    if (!active) return;
    active = false;
    alarm(0);
    atomic_store(&ending, true);
    pthread_mutex_unlock(&forbidden);
    sem_post(&wake);
    if (watches) pthread_join(watcher, NULL);
    watches = false;
}

const volatile sig_atomic_t *pa_stop_requested(void) {
    return &requested;
}

bool pa_stop_grace_over(void) {
    return over;
}

void pa_stop_allow(void) {
    if (active) pthread_mutex_unlock(&forbidden);
}

void pa_stop_forbid(void) {
    if (active) pthread_mutex_lock(&forbidden);
}
