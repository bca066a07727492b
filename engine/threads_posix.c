/* Threads for hosts with pthreads. This file and threads_windows.c, both optional, are the only ones of the engine that
 * call the operating system. */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(__wasm__) && !defined(EK_NO_THREADS)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "internal.h"

typedef pthread_t thread;

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
} signal_for_all;

static int signal_open(signal_for_all *s) {
    return pthread_mutex_init(&s->mutex, NULL) || pthread_cond_init(&s->condition, NULL);
}

static void signal_close(signal_for_all *s) {
    pthread_cond_destroy(&s->condition);
    pthread_mutex_destroy(&s->mutex);
}

static void lock(signal_for_all *s) { pthread_mutex_lock(&s->mutex); }
static void unlock(signal_for_all *s) { pthread_mutex_unlock(&s->mutex); }
static void sleep_unlocked(signal_for_all *s) { pthread_cond_wait(&s->condition, &s->mutex); }
static void wake_sleepers(signal_for_all *s) { pthread_cond_broadcast(&s->condition); }

static int64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void worker_main(void *worker);

static void *entry(void *worker) {
    worker_main(worker);
    return NULL;
}

static int start(thread *id, void *worker) {
    sigset_t all, before;
    sigfillset(&all); /* signals are the caller's */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int status = pthread_create(id, NULL, entry, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

static void join(thread id) { pthread_join(id, NULL); }

#include "threads.inc"
#else
typedef int ek_no_posix_threads; /* a file must not be empty */
#endif
