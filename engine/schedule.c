/* Threads share a pass by claiming chunks: any thread that is free does what is left, so a thread that the system does not run
 * at the moment delays others only while it has a chunk. The last to finish a phase opens the next.
 *
 * All of it is in one word: which chunks are unclaimed (8 bits) and unfinished (8 bits), and a count of phases (16 bits)
 * that makes each phase's word another. 0 and 0: no pass runs. A thread touches the job only while it has a chunk, and
 * the pass cannot end before; so a model may be freed when ek_forward returns, wherever other threads are. */
#include "schedule.h"

static void run_alone(const ek_job *job) {
    for (uint32_t i = 0; i < job->phases; i++) job->work(job, i, 0, 1, 0);
}

#if !defined(EK_NO_THREADS)

#define UNCLAIMED(state) (state >> 8 & 0xff)
#define UNFINISHED(state) (state & 0xff)

static uint32_t opened(uint32_t before, uint32_t chunks) {
    uint32_t mask = (1u << chunks) - 1;
    return ((before & 0xffff0000u) + 0x10000u) | mask << 8 | mask;
}

static uint32_t load(const ek_threads *t) { return __atomic_load_n(&t->state, __ATOMIC_SEQ_CST); }

static int replace(ek_threads *t, uint32_t *expected, uint32_t state) {
    return __atomic_compare_exchange_n(&t->state, expected, state, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Threads prefer the chunks that they had in the last pass: their weights may still be in this processor's cache. */
static uint32_t preferred(const ek_threads *t, uint32_t unclaimed, uint32_t thread) {
    uint32_t chunk = thread * __atomic_load_n(&t->chunks, __ATOMIC_RELAXED) / t->count % EK_MOST_CHUNKS;
    while (!(unclaimed >> chunk & 1)) chunk = (chunk + 1) % EK_MOST_CHUNKS;
    return chunk;
}

static void finish(ek_threads *t, uint32_t chunk) {
    uint32_t state = load(t), mine = 1u << chunk;
    while (UNFINISHED(state) != mine)
        if (replace(t, &state, state & ~mine)) return;
    /* The last one: nobody else has a chunk or can claim one. */
    uint32_t chunks = ++t->phase < t->job->phases ? t->job->chunks(t->job, t->phase) : 0;
    __atomic_store_n(&t->chunks, chunks, __ATOMIC_RELAXED);
    __atomic_store_n(&t->state, opened(state, chunks), __ATOMIC_SEQ_CST);
    t->wake(t, &t->state);
}

/* Does a chunk or, if there was none in `state`, waits until that has changed. */
static int help(ek_threads *t, uint32_t state, uint32_t thread) {
    if (!UNCLAIMED(state)) {
        t->wait(t, &t->state, state);
        return 0;
    }
    uint32_t chunk = preferred(t, UNCLAIMED(state), thread);
    if (!replace(t, &state, state & ~(256u << chunk))) return 0;
    t->job->work(t->job, t->phase, chunk, t->chunks, thread);
    finish(t, chunk);
    return 1;
}

int ek_threads_work(ek_threads *t, uint32_t thread) { return help(t, load(t), thread); }

/* Where other programs use the processors too, a pass now and then takes many times its time, because a thread had a
 * chunk and no processor. After such a step the next ones are the caller's own: 8, and up to 256 if that goes on. */
static void judge(ek_threads *t, uint64_t elapsed) {
    if (t->usual && elapsed > 2 * t->usual) {
        t->penalty = t->penalty < 4 ? 8 : t->penalty < 128 ? t->penalty * 2 : 256;
        t->alone = t->penalty;
    } else {
        t->penalty -= t->penalty / 32;
    }
    t->usual += t->usual / 64; /* contexts grow */
    if (!t->usual || elapsed < t->usual) t->usual = elapsed;
}

static void run_together(ek_threads *t, const ek_job *job) {
    uint64_t start = t->now && job->columns == 1 ? t->now(t) : 0;
    t->job = job;
    t->phase = 0;
    uint32_t chunks = job->chunks(job, 0);
    __atomic_store_n(&t->chunks, chunks, __ATOMIC_RELAXED);
    __atomic_store_n(&t->state, opened(load(t), chunks), __ATOMIC_SEQ_CST);
    t->wake(t, &t->state);
    for (uint32_t state; UNFINISHED((state = load(t)));) help(t, state, 0);
    if (start) judge(t, t->now(t) - start);
}

#endif

void ek_run(ek_threads *threads, const ek_job *job) {
#if !defined(EK_NO_THREADS)
    if (threads && (!threads->alone || job->columns > 1)) {
        run_together(threads, job);
        return;
    }
    if (threads) threads->alone--;
#endif
    (void)threads;
    run_alone(job);
}
