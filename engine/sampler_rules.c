/* The logits of the next token after penalties, rules, bias and bans, and the largest of them. */
#include "sampler.h"

#define BANNED (-__builtin_inff())

static void penalize(ek_sampler *s) {
    float penalty = (float)s->sampling.repetition_penalty;
    for (uint32_t i = 0; i < s->seen_count; i++) {
        float *logit = &s->logits[s->seen[i]];
        *logit = *logit < 0.0f ? *logit * penalty : *logit / penalty;
    }
}

static int ends_with(const ek_sampler *s, const uint32_t *ids, uint32_t length) {
    for (uint32_t i = 0; i < length; i++)
        if (s->ids[s->count - length + i] != ids[i]) return 0;
    return 1;
}

/* Ids that came after the last n - 1 ids before. */
static void ban_repeated(ek_sampler *s, uint32_t n) {
    if (s->count < n) return;
    for (uint32_t i = 0; i + n <= s->count; i++)
        if (ends_with(s, s->ids + i, n - 1)) s->logits[s->ids[i + n - 1]] = BANNED;
}

static int is_end(const ek_sampling *sampling, uint32_t id) {
    for (uint32_t i = 0; i < sampling->end_count; i++)
        if (sampling->ends[i] == id) return 1;
    return 0;
}

static void ban_words(ek_sampler *s) {
    const uint32_t *word = s->sampling.bad_words;
    for (uint32_t i = 0; i < s->sampling.bad_word_count; i++) {
        uint32_t length = s->sampling.bad_word_lengths[i];
        /* transformers begins with a context as long as the whole word */
        int bans = length == 1 ? !is_end(&s->sampling, word[0]) : length <= s->count && ends_with(s, word, length - 1);
        if (bans) s->logits[word[length - 1]] = BANNED;
        word += length;
    }
}

/* The logits of the ends rise by |logit| (factor^over - 1), with `over` tokens more than `decay_start`. */
static void raise_ends(ek_sampler *s) {
    const double most = 1e30;
    uint32_t text = s->count - s->prompt_count;
    if (s->sampling.decay_factor <= 0.0 || text <= s->sampling.decay_start) return;
    double rise = ek_power(s->sampling.decay_factor, text - s->sampling.decay_start) - 1.0;
    float factor = (float)(rise < most ? rise : most);
    for (uint32_t i = 0; i < s->sampling.end_count; i++) {
        float *logit = &s->logits[s->sampling.ends[i]], size = *logit < 0.0f ? -*logit : *logit;
        if (*logit - *logit == 0.0f) *logit += size * factor; /* finite: transformers makes a banned one NaN */
    }
}

static void apply_rules(ek_sampler *s) {
    if (s->sampling.no_repeat_ngram_size) ban_repeated(s, s->sampling.no_repeat_ngram_size);
    ban_words(s);
    raise_ends(s);
    for (uint32_t i = 0; i < s->sampling.suppressed_count; i++) {
        uint32_t id = s->sampling.suppressed[i];
        if (id < s->vocab_size) s->logits[id] = BANNED;
    }
}

static void lower_text(ek_sampler *s) {
    for (uint32_t i = 0; i < s->seen_count; i++) {
        uint32_t count = s->counts[s->seen[i]];
        if (!count) continue;
        double lower = s->sampling.presence_penalty + s->sampling.frequency_penalty * (double)count;
        s->logits[s->seen[i]] -= (float)lower;
    }
}

static void mask(ek_sampler *s, const uint8_t *allowed) {
    uint32_t n = s->vocab_size;
    for (uint32_t i = 0; i < n; i += 8) {
        unsigned bits = allowed[i / 8];
        if (bits == 255) continue;
        for (uint32_t j = i; j < i + 8 && j < n; j++)
            if (!(bits >> (j - i) & 1)) s->logits[j] = BANNED;
    }
}

int ek_only_best(ek_sampler *s, const float *logits) {
    float *lanes = s->lanes, best = BANNED;
    uint32_t n = s->vocab_size;
    if (s->loops->fill_lanes(lanes, logits, n)) return EK_NOT_FINITE;
    float few[16];
    __builtin_memcpy(few, lanes, sizeof few);
    for (uint32_t i = 16; i < LANES; i += 16)
        for (uint32_t j = 0; j < 16; j++) few[j] = lanes[i + j] > few[j] ? lanes[i + j] : few[j];
    for (uint32_t j = 0; j < 16; j++) best = few[j] > best ? few[j] : best;
    if (best == BANNED) return EK_NO_TOKEN;
    if (best - best != 0.0f) return EK_NOT_FINITE;
    uint32_t first = n;
    for (uint32_t j = 0; j < LANES && j < n; j++) {
        if (lanes[j] < best) continue;
        uint32_t id = j;
        while (logits[id] < best) id += LANES;
        if (id < first) first = id;
    }
    s->best = best, s->best_id = first;
    return EK_OK;
}

int ek_process(ek_sampler *s, const float *logits, const uint8_t *allowed) {
    if (logits != s->logits) __builtin_memcpy(s->logits, logits, s->vocab_size * sizeof *logits);
    if (s->sampling.repetition_penalty != 1.0) penalize(s);
    if (s->has_rules) apply_rules(s);
    if (s->counts_text) lower_text(s);
    for (uint32_t i = 0; i < s->sampling.bias_count; i++) s->logits[s->sampling.bias_ids[i]] += s->sampling.biases[i];
    for (uint32_t i = 0; i < s->sampling.banned_count; i++) s->logits[s->sampling.banned[i]] = BANNED;
    if (allowed) mask(s, allowed);
    return ek_only_best(s, s->logits);
}
