/* The draw: each id has a number u in (0, 1) by splitmix64 (Steele, Lea, Flood 2014) over seed, step and id, and the
 * least -ln(u) / weight wins. */
#include "sampler.h"

#define GAMMA 0x9E3779B97F4A7C15u
#define SLACK (1.0 + 0x1p-40) /* more than all rounding errors of a bound */

uint64_t ek_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint64_t race_start(const ek_sampler *s) { return ek_mix(s->mixed_seed + GAMMA * (s->step + 1)); }

static double uniform(uint64_t start, uint32_t id) {
    uint64_t x = ek_mix(start + GAMMA * ((uint64_t)id + 1));
    return ((double)(int64_t)(x >> 11) + 0.5) * 0x1p-53;
}

/* Logarithms are only computed where they could win: -ln(u) is at least 1 - u. */
uint32_t ek_race(const ek_sampler *s) {
    uint64_t start = race_start(s);
    double least = -1.0;
    uint32_t winner = 0;
    for (uint32_t i = 0; i < s->kept; i++) {
        double u = uniform(start, s->candidates[i]), weight = s->weights[i];
        if (least >= 0.0 && weight > 1e-200 && 1.0 - u > least * weight * SLACK) continue;
        double time = -ek_log64(u) / weight;
        if (least < 0.0 || time < least) least = time, winner = i;
    }
    return winner;
}

/* At least exp(x), and at most 6.3 % more, for -700 <= x <= 0: 1 + f is at least 2^f for 0 <= f < 1. */
static double above_exp(double x) {
    int64_t bits = (int64_t)((x * 0x1.71547652b82fep+0 + 1023.0 + 0x1p-30) * 0x1p52);
    double y;
    __builtin_memcpy(&y, &bits, sizeof y);
    return y;
}

/* `ek_race` over all ids, with exp only where it could win too. `top`: the largest logit. */
uint32_t ek_race_all(const ek_sampler *s, float top) {
    const double hopeless = -42.0; /* even the largest u gives a time above 90, and the likeliest id's is at most 37.5 */
    float temperature = (float)s->sampling.temperature;
    int divides = s->sampling.temperature != 1.0;
    uint64_t start = race_start(s);
    uint32_t winner = s->best_id;
    double least = -ek_log64(uniform(start, winner));
    for (uint32_t id = 0; id < s->vocab_size; id++) {
        float logit = divides ? s->logits[id] / temperature : s->logits[id];
        double x = (double)logit - (double)top;
        if (x < hopeless) continue;
        double u = uniform(start, id);
        if (1.0 - u > least * above_exp(x)) continue;
        double time = -ek_log64(u) / ek_exp64(x);
        if (time < least || (time == least && id < winner)) least = time, winner = id;
    }
    return winner;
}
