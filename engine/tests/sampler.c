/* The sampler and the masks in blocks of exactly their size, with all settings at random: for the sanitizers, which
 * report what reads or writes outside. tests/test_engine_sampler.py checks what is chosen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../sampler.h"

static uint64_t state = 1;

static uint32_t below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static double one(void) { return below(1 << 24) / (double)(1 << 24); }

static void fail(const char *what) {
    fprintf(stderr, "sampler: %s\n", what);
    exit(1);
}

static void *block(size_t size) { /* of this size exactly: aligned_alloc asks for multiples of the alignment */
    void *memory = NULL;
    if (posix_memalign(&memory, EK_ALIGNMENT, size)) fail("no memory");
    return memory;
}

static void fill(float *logits, uint32_t n) {
    uint32_t kind = below(5);
    for (uint32_t i = 0; i < n; i++) {
        logits[i] = (float)(one() * 20 - 10);
        if (kind == 1) logits[i] = (float)(int)logits[i];
        if (kind == 2 && below(3) == 0) logits[i] = -__builtin_inff();
        if (kind == 3) logits[i] = 1.0f;
        uint32_t any = below(1u << 31) << below(2);
        if (kind == 4 && below(8) == 0) memcpy(&logits[i], &any, sizeof any); /* infinities, not a number, subnormals */
    }
}

static const uint32_t SIZES[] = {1, 2, 9, 64, 511, 512, 513, 3000};

/* Settings at random, whose arrays point into `ids` (40). */
static ek_sampling settings(uint32_t n, uint32_t *ids) {
    static const uint32_t lengths[] = {1, 3, 2};
    static const float biases[3] = {1.0f, -2.0f, 0.5f};
    static uint32_t outside[2];
    outside[0] = n, outside[1] = 0xffffffffu;
    for (int i = 0; i < 40; i++) ids[i] = below(n);
    ek_sampling s;
    ek_sampling_defaults(&s);
    s.seed = state;
    if (below(4)) s.temperature = below(9) ? one() * 2 : 1e-45;
    if (below(2)) s.top_k = 1 + below(below(2) ? 50 : 4000);
    if (below(2)) s.top_p = one();
    if (below(2)) s.min_p = one() * one();
    if (below(2)) s.repetition_penalty = 0.5 + one();
    if (below(3) == 0) s.presence_penalty = one(), s.frequency_penalty = one() - 0.5;
    if (below(3) == 0) s.bias_count = 3, s.bias_ids = ids, s.biases = biases;
    if (below(3) == 0) s.banned_count = 2, s.banned = ids + 4;
    if (below(3) == 0) s.suppressed_count = 2, s.suppressed = outside;
    if (below(3) == 0) s.no_repeat_ngram_size = 1 + below(4);
    if (below(3) == 0) s.bad_word_count = 3, s.bad_words = ids + 8, s.bad_word_lengths = lengths;
    if (below(3) == 0) s.decay_start = 3, s.decay_factor = below(2) ? 1.2 : 1e200, s.end_count = 2, s.ends = ids + 16;
    return s;
}

static void one_text(void) {
    uint32_t n = SIZES[below(8)], ids[40], capacity = 30;
    ek_sampling s = settings(n, ids);
    size_t size = ek_sampler_size(&s, n, capacity);
    ek_sampler *sampler = NULL, *moved = NULL;
    ek_error error;
    void *memory = block(size), *more = NULL;
    if (ek_sampler_init(&sampler, memory, size, &s, n, capacity, ids + 20, 20, &error)) fail(error.text);
    float *logits = malloc(n * sizeof *logits);
    uint8_t *allowed = malloc((n + 7) / 8);
    uint32_t *found = malloc(n * sizeof *found);
    double *weights = malloc(n * sizeof *weights), probability;
    ek_mark mark = ek_sampler_mark(sampler);
    for (int step = 0; step < 14; step++) {
        fill(logits, n);
        for (uint32_t i = 0; i < (n + 7) / 8; i++) allowed[i] = (uint8_t)below(256);
        const uint8_t *mask = below(3) ? NULL : allowed;
        int count = ek_sampler_distribution(sampler, logits, mask, found, weights);
        if (count == 0 || count > (int)n) fail("a distribution has no ids, or more than there are");
        int token = below(2) ? ek_sampler_choose(sampler, logits, mask)
                             : ek_sampler_guess(sampler, logits, mask, &probability);
        if (token >= (int)n || (token < 0 && token != EK_CONTEXT && token != count)) fail("an impossible token");
        if (token == EK_CONTEXT && !more) { /* only where the order of the ids counts */
            size_t larger = ek_sampler_size(&s, n, 2 * capacity);
            more = block(larger);
            if (ek_sampler_move(&moved, more, larger, sampler, 2 * capacity, &error)) fail(error.text);
            free(memory);
            memory = more, sampler = moved;
        }
        if (step == 5) mark = ek_sampler_mark(sampler);
        if (step == 9 && ek_sampler_rewind(sampler, mark)) fail("a mark is refused");
    }
    if (ek_sampler_accept(sampler, n) != EK_ARGUMENT) fail("an id outside the vocabulary is accepted");
    free(memory), free(logits), free(allowed), free(found), free(weights);
}

static size_t piece(const void *context, uint32_t id, void *out, size_t capacity) {
    static const char *const pieces[] = {"a", "\xc3", "\xa9", "\xe2\x82", "\xac", "", "D", "W\x7f", "\xf0\x9f\x99"};
    const char *text = pieces[(id + *(const uint32_t *)context) % 9];
    size_t length = strlen(text);
    if (out) memcpy(out, text, length < capacity ? length : capacity);
    return length;
}

static void masks(void) {
    uint32_t n = 1 + below(70), shift = below(9), specials[] = {0};
    size_t size = ek_masks_size(piece, &shift, n);
    void *memory = block(size);
    ek_masks *m = NULL;
    ek_error error;
    if (ek_masks_init(&m, memory, size, piece, &shift, n, specials, below(2), below(3), &error)) fail(error.text);
    static volatile uint8_t sink; /* so that every bit is read */
    uint32_t at = EK_MASKS_START;
    for (int step = 0; step < 50; step++) {
        const uint8_t *mask = ek_masks_get(m, below(5) ? at : below(200), below(6));
        for (uint32_t i = 0; i < (n + 7) / 8; i++) sink = mask[i];
        at = ek_masks_advance(m, at, below(n + 2));
    }
    (void)sink;
    free(memory);
}

/* The sampler of little memory against the other one. */
static void lean_text(void) {
    uint32_t n = SIZES[below(8)], ids[40], capacity = 40;
    ek_sampling s = settings(n, ids);
    size_t size = ek_sampler_size(&s, n, capacity), lean_size = ek_lean_sampler_size(&s, n, capacity);
    ek_sampler *whole = NULL, *lean = NULL;
    void *memory = block(size), *lean_memory = block(lean_size);
    ek_error error;
    if (ek_sampler_init(&whole, memory, size, &s, n, capacity, ids + 20, 20, &error) ||
        ek_lean_sampler_init(&lean, lean_memory, lean_size, &s, n, capacity, ids + 20, 20, &error))
        fail(error.text);
    float *logits = malloc(n * sizeof *logits);
    uint8_t *allowed = malloc((n + 7) / 8);
    for (int step = 0; step < 20; step++) {
        fill(logits, n);
        for (uint32_t i = 0; i < (n + 7) / 8; i++) allowed[i] = (uint8_t)below(256);
        const uint8_t *mask = below(3) ? NULL : allowed;
        float *own = ek_sampler_logits(lean);
        memcpy(own, logits, n * sizeof *own);
        int token = ek_sampler_choose(whole, logits, mask);
        if (ek_sampler_choose(lean, below(2) ? own : logits, mask) != token) fail("the lean sampler chooses another token");
    }
    free(memory), free(lean_memory), free(logits), free(allowed);
}

/* The loops of this processor's instruction set against one number after the other, bit by bit. */
static void loops(void) {
    enum { COUNT = 1001 };
    const ek_loops *best = ek_loops_best();
    static double x[COUNT], y[COUNT];
    static float values[COUNT], lanes[LANES];
    double scale = below(2) ? 40 : 760;
    for (int i = 0; i < COUNT; i++) y[i] = x[i] = -one() * one() * scale, values[i] = (float)x[i];
    best->exp_all(y, COUNT);
    for (int i = 0; i < COUNT; i++) {
        double exact = ek_exp64(x[i]);
        if (memcmp(&exact, &y[i], sizeof exact)) fail("exp of many is not exp of one");
    }
    float bound = values[below(COUNT)];
    uint32_t count = 0;
    for (int i = 0; i < COUNT; i++) count += values[i] >= bound;
    if (best->count_at_least(values, COUNT, bound) != count) fail("a count is wrong");
    if (best->fill_lanes(lanes, values, COUNT)) fail("a number is not a number");
    for (int i = 0; i < LANES; i++) {
        float second = i + LANES < COUNT ? values[i + LANES] : values[i];
        if (lanes[i] != (second > values[i] ? second : values[i])) fail("a lane is wrong");
    }
    values[below(COUNT)] = __builtin_nanf("");
    if (!best->fill_lanes(lanes, values, COUNT)) fail("not a number is not noticed");
}

int main(void) {
    for (int i = 0; i < 300; i++) loops();
    for (int i = 0; i < 1500; i++) one_text();
    for (int i = 0; i < 1500; i++) lean_text();
    for (int i = 0; i < 300; i++) masks();
    puts("sampler: 1500 texts, 300 vocabularies");
    return 0;
}
