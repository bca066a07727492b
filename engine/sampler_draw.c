/* The draw: each id has a number u in (0, 1) by splitmix64 (Steele, Lea, Flood 2014) over seed, step and id, and the
 * least -ln(u) / weight wins. */
#include "sampler.h"

#define SLACK (1.0 + 0x1p-40) /* more than all rounding errors of a bound */

uint64_t ek_race_start(const ek_sampler *s) { return ek_mix(s->mixed_seed + EK_GAMMA * (s->step + 1)); }

/* Logarithms are only computed where they could win: -ln(u) is at least 1 - u. */
uint32_t ek_race(const ek_sampler *s) {
    uint64_t start = ek_race_start(s);
    double least = -1.0;
    uint32_t winner = 0;
    for (uint32_t i = 0; i < s->kept; i++) {
        double u = ek_uniform(start, s->candidates[i]), weight = s->weights[i];
        if (least >= 0.0 && weight > 1e-200 && 1.0 - u > least * weight * SLACK) continue;
        double time = -ek_log64(u) / weight;
        if (least < 0.0 || time < least) least = time, winner = i;
    }
    return winner;
}

static void race_one(const ek_sampler *s, float top, uint64_t start, uint32_t id, double *least, uint32_t *winner) {
    float logit = s->logits[id];
    if (s->sampling.temperature != 1.0) logit /= (float)s->sampling.temperature;
    double weight = ek_exp64((double)logit - (double)top);
    if (!(weight > 0.0)) return;
    double time = -ek_log64(ek_uniform(start, id)) / weight;
    if (time < *least || (time == *least && id < *winner)) *least = time, *winner = id;
}

/* `ek_race` over all ids, with exp only where it could win too. `top`: the largest logit. */
uint32_t ek_race_all(const ek_sampler *s, float top) {
    float temperature = s->sampling.temperature == 1.0 ? 1.0f : (float)s->sampling.temperature;
    uint64_t start = ek_race_start(s);
    uint32_t winner = s->best_id, id = 0, n = s->vocab_size;
    double least = -ek_log64(ek_uniform(start, winner)); /* its weight is 1 */
    for (; id + 16 <= n; id += 16) {
        uint32_t some = s->loops->may_win(s->logits + id, temperature, top, start, id, least);
        for (uint32_t j = 0; some; j++, some >>= 1)
            if (some & 1) race_one(s, top, start, id + j, &least, &winner);
    }
    for (; id < n; id++) race_one(s, top, start, id, &least, &winner);
    return winner;
}
