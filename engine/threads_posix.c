/* Threads for hosts with pthreads: the only file of the engine that calls the operating system, and an optional one.
 *
 * A thread that waits spins for some microseconds, which the next part of a layer usually takes, and then sleeps: where
 * other programs use the processor too, a spinning thread would keep the one it waits for from running. */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(__wasm__) && !defined(EK_NO_THREADS)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "internal.h"

#define SPIN 50000 /* nanoseconds; a sampler between two steps takes about as long */

typedef struct pool pool;

typedef struct {
    pool *pool;
    uint32_t index;
    pthread_t id;
} worker;

struct pool {
    ek_threads threads;
    uint32_t closing, started;
    uint32_t sleepers __attribute__((aligned(64))); /* 1: somebody may be asleep */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    worker workers[];
};

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static uint32_t load(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

/* A sleeper announces itself before it looks again, and a waker looks for sleepers after the word has changed, both in
 * one order for all threads: no wake is lost. The first waker takes the announcement back, so that a thread which the
 * system is slow to run costs one call of the system and not one each time. */
static void wait_for_change(ek_threads *threads, const uint32_t *word, uint32_t old) {
    pool *p = (pool *)threads;
    int64_t until = 0;
    do {
        for (int i = 0; i < 16; i++) {
            if (load(word) != old || load(&p->closing)) return;
            relax();
        }
        if (!until) until = now() + SPIN;
    } while (now() < until);
    pthread_mutex_lock(&p->mutex);
    __atomic_store_n(&p->sleepers, 1, __ATOMIC_SEQ_CST);
    if (load(word) == old && !load(&p->closing)) pthread_cond_wait(&p->changed, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}

static void wake(ek_threads *threads, const uint32_t *word) {
    pool *p = (pool *)threads;
    (void)word;
    if (!load(&p->sleepers) || !__atomic_exchange_n(&p->sleepers, 0, __ATOMIC_SEQ_CST)) return;
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

static uint64_t clock_now(ek_threads *threads) {
    (void)threads;
    return (uint64_t)now();
}

static void *worker_main(void *argument) {
    worker *w = argument;
    while (!load(&w->pool->closing)) ek_threads_work(&w->pool->threads, w->index);
    return NULL;
}

size_t ek_threads_size(uint32_t count) { return sizeof(pool) + count * sizeof(worker); }

void ek_threads_close(ek_threads *threads) {
    pool *p = (pool *)threads;
    if (!p) return;
    __atomic_store_n(&p->closing, 1, __ATOMIC_SEQ_CST);
    wake(threads, &threads->state);
    for (uint32_t i = 0; i < p->started; i++) pthread_join(p->workers[i].id, NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->mutex);
}

int ek_threads_open(uint32_t count, void *memory, size_t size, ek_threads **threads, ek_error *error) {
    pool *p = memory;
    *threads = NULL;
    if (count < 1 || count > 256) return ek_fail(error, EK_ARGUMENT, "threads must be 1 to 256");
    if (!memory || size < ek_threads_size(count) || (uintptr_t)memory % EK_ALIGNMENT)
        return ek_fail(error, EK_MEMORY, "threads need %u bytes, aligned to %u", (uint64_t)ek_threads_size(count),
                       (uint64_t)EK_ALIGNMENT);
    *p = (pool){.threads = {.count = count, .wait = wait_for_change, .wake = wake, .now = clock_now}};
    if (pthread_mutex_init(&p->mutex, NULL)) return ek_fail(error, EK_MEMORY, "the system gives no mutex");
    if (pthread_cond_init(&p->changed, NULL)) return ek_fail(error, EK_MEMORY, "the system gives no condition variable");
    sigset_t all, before;
    sigfillset(&all); /* signals are the caller's */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (uint32_t i = 1; i < count; i++) {
        worker *w = &p->workers[p->started];
        *w = (worker){p, i, 0};
        if (pthread_create(&w->id, NULL, worker_main, w)) break;
        p->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (p->started + 1 < count) {
        uint32_t started = p->started;
        ek_threads_close(&p->threads);
        return ek_fail(error, EK_MEMORY, "the system starts only %u of %u threads", (uint64_t)started, (uint64_t)count);
    }
    *threads = &p->threads;
    return EK_OK;
}
#else
typedef int ek_no_threads; /* a file must not be empty */
#endif
