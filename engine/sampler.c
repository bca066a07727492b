/* A sampler in one block of memory: what it remembers of a text, and the calls of edgekit.h. */
#include "sampler.h"

#include "fpmode.h"

void ek_sampling_defaults(ek_sampling *sampling) {
    const ek_sampling defaults = {.top_p = 1.0, .repetition_penalty = 1.0};
    *sampling = defaults;
}

/* ---- memory ---- */

/* The next array of a block; with `memory` NULL only its place is counted. */
static void *take_array(char *memory, size_t *at, size_t count, size_t size) {
    void *array = memory && count ? memory + *at : NULL;
    *at += ek_aligned(count * size);
    return array;
}

static uint32_t bad_word_ids(const ek_sampling *sampling) {
    uint32_t total = 0;
    for (uint32_t i = 0; i < sampling->bad_word_count; i++) total += sampling->bad_word_lengths[i];
    return total;
}

static int has_rules(const ek_sampling *s) {
    return s->no_repeat_ngram_size || s->bad_word_count || s->suppressed_count || s->decay_factor > 0.0;
}

static int counts_text(const ek_sampling *s) { return s->presence_penalty != 0.0 || s->frequency_penalty != 0.0; }

/* Whether a penalty looks at the ids that were seen. */
static int tracks_seen(const ek_sampling *s) { return s->repetition_penalty != 1.0 || counts_text(s); }

/* Sets the pointers of `s` into `memory` (neither if NULL) and returns the size of the block. */
static size_t layout(ek_sampler *s, char *memory, const ek_sampling *sampling, uint32_t vocab_size, uint32_t capacity,
                     int lean) {
    ek_sampler dummy;
    ek_sampling arrays;
    size_t at = ek_aligned(sizeof *s), n = vocab_size, drawn = sampling->temperature > 0.0 && !lean ? n : 0;
    size_t seen = !lean ? n : !tracks_seen(sampling) ? 0 : n < capacity ? n : capacity;
    if (!s) s = &dummy;
    s->logits = take_array(memory, &at, n, sizeof *s->logits);
    s->lanes = take_array(memory, &at, LANES, sizeof *s->lanes);
    s->weights = take_array(memory, &at, drawn, sizeof *s->weights);
    s->candidates = take_array(memory, &at, drawn, sizeof *s->candidates);
    s->classes = take_array(memory, &at, drawn ? CLASSES : 0, sizeof *s->classes);
    s->sorted = take_array(memory, &at, sampling->top_p < 1.0 ? drawn : 0, sizeof *s->sorted);
    s->seen = take_array(memory, &at, seen, sizeof *s->seen);
    s->is_seen = take_array(memory, &at, seen ? n / 8 + 1 : 0, sizeof *s->is_seen);
    s->counts = take_array(memory, &at, counts_text(sampling) ? n : 0, sizeof *s->counts);
    arrays.bias_ids = take_array(memory, &at, sampling->bias_count, sizeof *arrays.bias_ids);
    arrays.biases = take_array(memory, &at, sampling->bias_count, sizeof *arrays.biases);
    arrays.banned = take_array(memory, &at, sampling->banned_count, sizeof *arrays.banned);
    arrays.suppressed = take_array(memory, &at, sampling->suppressed_count, sizeof *arrays.suppressed);
    arrays.ends = take_array(memory, &at, sampling->end_count, sizeof *arrays.ends);
    arrays.bad_words = take_array(memory, &at, bad_word_ids(sampling), sizeof *arrays.bad_words);
    arrays.bad_word_lengths = take_array(memory, &at, sampling->bad_word_count, sizeof *arrays.bad_word_lengths);
    s->ids = take_array(memory, &at, has_rules(sampling) || counts_text(sampling) ? capacity : 0, sizeof *s->ids);
    if (memory) {
        s->sampling = *sampling;
        s->sampling.bias_ids = arrays.bias_ids;
        s->sampling.biases = arrays.biases;
        s->sampling.banned = arrays.banned;
        s->sampling.suppressed = arrays.suppressed;
        s->sampling.ends = arrays.ends;
        s->sampling.bad_words = arrays.bad_words;
        s->sampling.bad_word_lengths = arrays.bad_word_lengths;
    }
    return at;
}

size_t ek_sampler_size(const ek_sampling *sampling, uint32_t vocab_size, uint32_t capacity) {
    return layout(NULL, NULL, sampling, vocab_size, capacity, 0);
}

size_t ek_lean_sampler_size(const ek_sampling *sampling, uint32_t vocab_size, uint32_t capacity) {
    return layout(NULL, NULL, sampling, vocab_size, capacity, 1);
}

/* ---- settings ---- */

static void copy_array(const void *to, const void *from, size_t count, size_t size) {
    if (count) __builtin_memcpy((void *)(uintptr_t)to, from, count * size);
}

static void copy_arrays(const ek_sampling *to, const ek_sampling *from) {
    copy_array(to->bias_ids, from->bias_ids, from->bias_count, sizeof *from->bias_ids);
    copy_array(to->biases, from->biases, from->bias_count, sizeof *from->biases);
    copy_array(to->banned, from->banned, from->banned_count, sizeof *from->banned);
    copy_array(to->suppressed, from->suppressed, from->suppressed_count, sizeof *from->suppressed);
    copy_array(to->ends, from->ends, from->end_count, sizeof *from->ends);
    copy_array(to->bad_words, from->bad_words, bad_word_ids(from), sizeof *from->bad_words);
    copy_array(to->bad_word_lengths, from->bad_word_lengths, from->bad_word_count, sizeof *from->bad_word_lengths);
}

/* Only ends inside the vocabulary, each once: they are raised once. */
static void clean_ends(ek_sampling *sampling, uint32_t *ends, uint32_t vocab_size) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < sampling->end_count; i++) {
        uint32_t j = 0;
        while (j < count && ends[j] != ends[i]) j++;
        if (j == count && ends[i] < vocab_size) ends[count++] = ends[i];
    }
    sampling->end_count = count;
}

static int check_ids(const char *name, const uint32_t *ids, uint32_t count, uint32_t vocab_size, ek_error *error) {
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] >= vocab_size)
            return ek_fail(error, EK_ARGUMENT, "%s: token id %u is outside the vocabulary of %u", name,
                           (uint64_t)ids[i], (uint64_t)vocab_size);
    return EK_OK;
}

static int check_sampling(const ek_sampling *s, uint32_t vocab_size, ek_error *error) {
    const double most = 1.7e308;
    const struct { const char *name; double value, least, largest; } numbers[] = {
        {"temperature", s->temperature, 0.0, most},
        {"top_p", s->top_p, 0.0, 1.0},
        {"min_p", s->min_p, 0.0, 1.0},
        {"repetition_penalty", s->repetition_penalty, 0x1p-1074, most},
        {"presence_penalty", s->presence_penalty, -2.0, 2.0},
        {"frequency_penalty", s->frequency_penalty, -2.0, 2.0},
        {"decay_factor", s->decay_factor, 0.0, most},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!(numbers[i].value >= numbers[i].least && numbers[i].value <= numbers[i].largest))
            return ek_fail(error, EK_ARGUMENT, "%s is out of range", numbers[i].name);
    if (!vocab_size || vocab_size > INT32_MAX) return ek_fail(error, EK_ARGUMENT, "the vocabulary has no size");
    for (uint32_t i = 0; i < s->bad_word_count; i++)
        if (!s->bad_word_lengths[i]) return ek_fail(error, EK_ARGUMENT, "bad_words: a sequence is empty");
    int status = check_ids("bias", s->bias_ids, s->bias_count, vocab_size, error);
    if (!status) status = check_ids("banned", s->banned, s->banned_count, vocab_size, error);
    if (!status) status = check_ids("bad_words", s->bad_words, bad_word_ids(s), vocab_size, error);
    return status;
}

static int check_memory(void *memory, size_t size, size_t needed, ek_error *error) {
    if (!memory || (uintptr_t)memory % EK_ALIGNMENT)
        return ek_fail(error, EK_MEMORY, "the sampler's memory is not aligned to %u bytes", (uint64_t)EK_ALIGNMENT);
    if (size < needed)
        return ek_fail(error, EK_MEMORY, "the sampler needs %u bytes, not %u", (uint64_t)needed, (uint64_t)size);
    return EK_OK;
}

/* ---- the text so far ---- */

static int is_seen(const ek_sampler *s, uint32_t id) { return s->is_seen[id / 8] >> id % 8 & 1; }

static void remember(ek_sampler *s, uint32_t id) {
    if (s->tracks_seen && !is_seen(s, id)) {
        s->is_seen[id / 8] = (uint8_t)(s->is_seen[id / 8] | 1u << id % 8);
        s->seen[s->seen_count++] = id;
    }
    if (s->keeps_ids) s->ids[s->count++] = id;
}

static void remember_text(ek_sampler *s, uint32_t id) {
    if (s->counts_text) s->counts[id]++;
    remember(s, id);
}

static int is_full(const ek_sampler *s) {
    return (s->keeps_ids && s->count == s->capacity) || (s->lean && s->seen_count == s->capacity);
}

static int init(ek_sampler **sampler, void *memory, size_t size, const ek_sampling *sampling, uint32_t vocab_size,
                uint32_t capacity, int lean, const uint32_t *prompt, uint32_t prompt_count, ek_error *error) {
    int status = check_sampling(sampling, vocab_size, error);
    size_t needed = layout(NULL, NULL, sampling, vocab_size, capacity, lean);
    if (!status) status = check_memory(memory, size, needed, error);
    if (!status) status = check_ids("prompt", prompt, prompt_count, vocab_size, error);
    if (status) return status;
    ek_sampler *s = memory;
    __builtin_memset(s, 0, sizeof *s);
    layout(s, memory, sampling, vocab_size, capacity, lean);
    s->lean = (uint8_t)lean, s->tracks_seen = (uint8_t)(!lean || tracks_seen(sampling));
    copy_arrays(&s->sampling, sampling);
    clean_ends(&s->sampling, (uint32_t *)(uintptr_t)s->sampling.ends, vocab_size);
    s->loops = ek_loops_best();
    s->vocab_size = vocab_size, s->capacity = capacity, s->mixed_seed = ek_mix(sampling->seed);
    s->has_rules = (uint8_t)has_rules(sampling), s->counts_text = (uint8_t)counts_text(sampling);
    s->keeps_ids = s->has_rules || s->counts_text;
    s->only_lowers = !s->keeps_ids && !sampling->bias_count && !sampling->banned_count &&
                     sampling->repetition_penalty >= 1.0;
    if ((s->keeps_ids || lean) && prompt_count > capacity)
        return ek_fail(error, EK_CONTEXT, "the prompt has %u tokens, but the sampler is for %u", (uint64_t)prompt_count,
                       (uint64_t)capacity);
    if (s->tracks_seen) __builtin_memset(s->is_seen, 0, vocab_size / 8 + 1);
    if (s->counts_text) __builtin_memset(s->counts, 0, vocab_size * sizeof *s->counts);
    for (uint32_t i = 0; i < prompt_count; i++) remember(s, prompt[i]);
    s->prompt_count = s->count;
    *sampler = s;
    return EK_OK;
}

int ek_sampler_init(ek_sampler **sampler, void *memory, size_t size, const ek_sampling *sampling, uint32_t vocab_size,
                    uint32_t capacity, const uint32_t *prompt, uint32_t prompt_count, ek_error *error) {
    return init(sampler, memory, size, sampling, vocab_size, capacity, 0, prompt, prompt_count, error);
}

int ek_lean_sampler_init(ek_sampler **sampler, void *memory, size_t size, const ek_sampling *sampling,
                         uint32_t vocab_size, uint32_t capacity, const uint32_t *prompt, uint32_t prompt_count,
                         ek_error *error) {
    return init(sampler, memory, size, sampling, vocab_size, capacity, 1, prompt, prompt_count, error);
}

float *ek_sampler_logits(ek_sampler *s) { return s->logits; }

int ek_sampler_accept(ek_sampler *s, uint32_t token) {
    if (token >= s->vocab_size) return EK_ARGUMENT;
    if (is_full(s)) return EK_CONTEXT;
    if (s->sampling.temperature > 0.0) s->step++;
    remember_text(s, token);
    return EK_OK;
}

ek_mark ek_sampler_mark(const ek_sampler *s) {
    ek_mark mark = {s->step, s->seen_count, s->count - s->prompt_count};
    return mark;
}

int ek_sampler_rewind(ek_sampler *s, ek_mark mark) {
    if (mark.seen > s->seen_count || mark.text > s->count - s->prompt_count) return EK_ARGUMENT;
    s->step = mark.step;
    while (s->seen_count > mark.seen) {
        uint32_t id = s->seen[--s->seen_count];
        s->is_seen[id / 8] = (uint8_t)(s->is_seen[id / 8] & ~(1u << id % 8));
    }
    while (s->count > s->prompt_count + mark.text) {
        s->count--;
        if (s->counts_text) s->counts[s->ids[s->count]]--;
    }
    return EK_OK;
}

int ek_sampler_move(ek_sampler **sampler, void *memory, size_t size, const ek_sampler *from, uint32_t capacity,
                    ek_error *error) {
    size_t needed = ek_sampler_size(&from->sampling, from->vocab_size, capacity);
    int status = check_memory(memory, size, needed, error);
    if (status) return status;
    if (capacity < from->capacity) return ek_fail(error, EK_ARGUMENT, "a sampler cannot be moved to a smaller one");
    ek_sampler *s = memory;
    __builtin_memcpy(s, from, ek_sampler_size(&from->sampling, from->vocab_size, from->capacity));
    layout(s, memory, &from->sampling, from->vocab_size, capacity, 0);
    s->capacity = capacity;
    *sampler = s;
    return EK_OK;
}

/* ---- choosing ---- */

static int filters(const ek_sampler *s) {
    const ek_sampling *sampling = &s->sampling;
    return (sampling->top_k && sampling->top_k < s->vocab_size) || sampling->top_p < 1.0 || sampling->min_p > 0.0;
}

/* The most likely token, without copying the logits where only a penalty above 1 applies: it lowers ids already seen
 * and raises none, so a most likely id that is new remains the most likely. */
static int most_likely(ek_sampler *s, const float *logits, const uint8_t *allowed) {
    if (s->only_lowers && !allowed) {
        int status = ek_only_best(s, logits);
        if (status) return status;
        if (s->sampling.repetition_penalty == 1.0 || !is_seen(s, s->best_id)) return (int)s->best_id;
    }
    int status = ek_process(s, logits, allowed);
    return status ? status : (int)s->best_id;
}

static int draw(ek_sampler *s, const float *logits, const uint8_t *allowed, double *probability) {
    int status = ek_process(s, logits, allowed);
    if (status) return status;
    if (!probability && !filters(s)) {
        float top = s->sampling.temperature == 1.0 ? s->best : s->best / (float)s->sampling.temperature;
        return top - top == 0.0f ? (int)ek_race_all(s, top) : EK_ARGUMENT;
    }
    if (s->lean) return ek_draw_lean(s);
    status = ek_filter(s);
    if (status) return status;
    uint32_t winner = s->kept > 1 ? ek_race(s) : 0;
    if (probability) {
        double total = 0.0;
        for (uint32_t i = 0; i < s->kept; i++) total += s->weights[i];
        *probability = s->weights[winner] / total;
    }
    return (int)s->candidates[winner];
}

/* ---- the calls, in the processor's usual floating-point mode ---- */

static int choose_token(ek_sampler *s, const float *logits, const uint8_t *allowed, double *probability) {
    if (is_full(s)) return EK_CONTEXT;
    int greedy = s->sampling.temperature <= 0.0, token;
    if (!greedy) token = draw(s, logits, allowed, probability);
    else if (!probability) token = most_likely(s, logits, allowed);
    else {
        token = ek_process(s, logits, allowed);
        if (token == EK_OK) token = (int)s->best_id, *probability = 1.0 / ek_sum_exp(s->logits, s->vocab_size, s->best);
    }
    if (token < 0) return token;
    s->step += !greedy;
    remember_text(s, (uint32_t)token);
    return token;
}

int ek_sampler_choose(ek_sampler *s, const float *logits, const uint8_t *allowed) {
    ek_fpmode mode = ek_fpmode_set();
    int token = choose_token(s, logits, allowed, NULL);
    ek_fpmode_restore(mode);
    return token;
}

int ek_sampler_guess(ek_sampler *s, const float *logits, const uint8_t *allowed, double *probability) {
    ek_fpmode mode = ek_fpmode_set();
    int token = choose_token(s, logits, allowed, probability);
    ek_fpmode_restore(mode);
    return token;
}

int ek_sampler_distribution(ek_sampler *s, const float *logits, const uint8_t *allowed, uint32_t *ids, double *weights) {
    int greedy = s->sampling.temperature <= 0.0;
    ek_fpmode mode = ek_fpmode_set();
    int status = ek_process(s, logits, allowed);
    if (!status && !greedy) status = ek_filter(s);
    ek_fpmode_restore(mode);
    if (status) return status;
    if (greedy) {
        ids[0] = s->best_id, weights[0] = 1.0;
        return 1;
    }
    __builtin_memcpy(ids, s->candidates, s->kept * sizeof *ids);
    __builtin_memcpy(weights, s->weights, s->kept * sizeof *weights);
    return (int)s->kept;
}
