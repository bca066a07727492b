/* What the files of the sampler share. */
#ifndef EDGEKIT_SAMPLER_H
#define EDGEKIT_SAMPLER_H

#include "strict.h"

#include "internal.h"

#define LANES 512   /* the largest logit of each lane: ids that are equal modulo LANES */
#define CLASSES 2048 /* of weights, to find the edge of top-p */

/* sampler_loops.c: the loops over the vocabulary, for an instruction set. */
typedef struct {
    int (*fill_lanes)(float *lanes, const float *logits, uint32_t n); /* whether one is not a number */
    uint32_t (*count_at_least)(const float *values, uint32_t n, float bound);
    void (*exp_all)(double *x, size_t n); /* in place */
    /* A bit for each of 16 ids from `id` on that could have a time below `least`. */
    uint32_t (*may_win)(const float *logits, float temperature, float top, uint64_t start, uint32_t id, double least);
} ek_loops;
const ek_loops *ek_loops_best(void);

#define EK_GAMMA 0x9E3779B97F4A7C15u

/* splitmix64's finalizer. */
static inline uint64_t ek_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* A number in (0, 1) for an id; `start` is of seed and step. */
static inline double ek_uniform(uint64_t start, uint32_t id) {
    uint64_t x = ek_mix(start + EK_GAMMA * ((uint64_t)id + 1));
    return ((double)(int64_t)(x >> 11) + 0.5) * 0x1p-53;
}

struct ek_sampler {
    const ek_loops *loops;
    ek_sampling sampling; /* its pointers are into this block */
    uint64_t mixed_seed, step;
    uint32_t vocab_size, capacity;
    uint32_t seen_count;  /* ids of prompt and text, each once, in the order of their first use */
    uint32_t prompt_count, count; /* ids of the prompt; of prompt and text. Only if `keeps_ids` */
    uint32_t kept;        /* what the filters left of the last logits */
    float best;           /* the largest of `logits` */
    uint32_t best_id;
    uint8_t counts_text, has_rules, keeps_ids, only_lowers;
    uint8_t lean, tracks_seen; /* lean: see ek_lean_sampler_init */
    float *logits;        /* (vocab_size,) after penalties, bias and bans */
    float *lanes;         /* (LANES,) */
    double *weights;      /* (vocab_size,), the first `kept`; NULL at temperature 0 and if lean, as are the next three */
    uint32_t *candidates;  /* (vocab_size,) */
    double *classes;      /* (CLASSES,) */
    double *sorted;       /* (vocab_size,) if there is top-p */
    uint32_t *seen;        /* (vocab_size,); if lean (capacity,) */
    uint32_t *counts;     /* (vocab_size,) of the text, if `counts_text` */
    uint8_t *is_seen;     /* a bit for each id */
    uint32_t *ids;         /* (capacity,) prompt and text, in order; last, so that `ek_sampler_move` can extend it */
};

/* sampler_math.c: binary64, rounded in the order written, so the same on every processor; error below 1 ulp. */
double ek_exp64(double x);                            /* x <= 0 */
double ek_log64(double x);                            /* normal x > 0 */
double ek_power(double x, uint32_t n);              /* at most 1e31 */
double ek_sum_exp(const float *x, size_t n, float best); /* the sum of exp(x - best), to about 1e-6 */

/* sampler_rules.c: fills `logits`, `lanes`, `best` and `best_id`. EK_OK, EK_NO_TOKEN or EK_NOT_FINITE. */
int ek_process(ek_sampler *s, const float *logits, const uint8_t *allowed);
int ek_only_best(ek_sampler *s, const float *logits); /* `lanes`, `best` and `best_id` alone */

/* sampler_filter.c: fills `candidates`, `weights` and `kept` from the logits at a temperature above 0. */
int ek_filter(ek_sampler *s);

/* The logit at a temperature, and the least logit that is not below `logit` there: the division makes some equal. */
static inline float ek_divided(const ek_sampler *s, float logit) {
    return s->sampling.temperature == 1.0 ? logit : logit / (float)s->sampling.temperature;
}
float ek_least_equal(const ek_sampler *s, float logit);

/* sampler_lean.c: filters and draws without `candidates` and `weights`. An id, or a negative status. */
int ek_draw_lean(const ek_sampler *s);

/* sampler_draw.c */
uint64_t ek_race_start(const ek_sampler *s);
uint32_t ek_race(const ek_sampler *s); /* the index that wins */
uint32_t ek_race_all(const ek_sampler *s, float top); /* the id that wins if nothing is filtered */

/* sampler_select.c */
int32_t ek_ordered(float x);
float ek_of_ordered(int32_t bits);
/* The k-th largest; `largest`: the first. */
float ek_largest(const ek_loops *loops, const float *values, uint32_t n, uint32_t k, float largest);
void ek_sort_few(const double *values, uint32_t n, double *sorted); /* descending */
void ek_sort_descending(double *values, uint32_t n);
void ek_sort_ids(uint32_t *ids, uint32_t n);

#endif
