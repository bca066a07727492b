/* Temperature, top-k, top-p and min-p: which ids may follow, and their weights, of which the largest is 1. */
#include "sampler.h"

#define MARGIN 1e-9 /* relative difference of two sums; the order of adding changes far less */
#define FEW 128     /* so many weights are sorted at once */

float ek_least_equal(const ek_sampler *s, float logit) {
    float quotient = ek_divided(s, logit);
    int32_t above = ek_ordered(logit), below = ek_ordered(-__builtin_inff());
    if (above == below || ek_divided(s, ek_of_ordered(above - 1)) < quotient) return logit;
    if (ek_divided(s, ek_of_ordered(below)) >= quotient) return ek_of_ordered(below);
    while ((int64_t)above - below > 1) { /* ek_divided(above) >= quotient > ek_divided(below) */
        int32_t middle = (int32_t)(((int64_t)above + below) >> 1);
        if (ek_divided(s, ek_of_ordered(middle)) >= quotient) above = middle;
        else below = middle;
    }
    return ek_of_ordered(above);
}

/* Ids whose logits are at least `bound`, ascending. If few lanes have one, only these are searched. */
static uint32_t at_least(ek_sampler *s, float bound) {
    uint32_t n = 0, lanes = 0;
    uint32_t *ids = s->candidates;
    for (uint32_t lane = 0; lane < LANES; lane++) lanes += s->lanes[lane] >= bound;
    if (lanes > LANES / 5) {
        for (uint32_t id = 0; id < s->vocab_size; id++) {
            ids[n] = id; /* n <= id */
            n += s->logits[id] >= bound;
        }
        return n;
    }
    for (uint32_t lane = 0; lane < LANES && lane < s->vocab_size; lane++)
        if (s->lanes[lane] >= bound)
            for (uint32_t id = lane; id < s->vocab_size; id += LANES) {
                ids[n] = id;
                n += s->logits[id] >= bound;
            }
    ek_sort_ids(ids, n);
    return n;
}

/* The k largest logits and all that equal the smallest of them after the division; their number. */
static uint32_t top_k(ek_sampler *s, uint32_t k) {
    float *logits = (float *)(void *)s->weights;
    if (k > LANES / 2) return at_least(s, ek_least_equal(s, ek_largest(s->loops, s->logits, s->vocab_size, k, s->best)));
    /* At least k logits reach the k-th largest of the lanes' largest, and seldom many more. */
    float bound = ek_largest(s->loops, s->lanes, LANES, k, s->best);
    uint32_t n = at_least(s, bound), kept = 0;
    for (uint32_t i = 0; i < n; i++) logits[i] = s->logits[s->candidates[i]];
    float edge = ek_least_equal(s, ek_largest(s->loops, logits, n, k, s->best));
    if (edge < bound) return at_least(s, edge);
    for (uint32_t i = 0; i < n; i++) {
        s->candidates[kept] = s->candidates[i];
        kept += logits[i] >= edge;
    }
    return kept;
}

/* A bound below all logits whose weight could reach min_p. */
static float bound_of_min_p(const ek_sampler *s, float top) {
    double log = ek_log64(s->sampling.min_p), size = (top < 0.0f ? -(double)top : (double)top) - log + 1.0;
    double bound = ((double)top + log - 1e-5 * size) * (double)(float)s->sampling.temperature;
    return bound < -3e38 ? -__builtin_inff() : (float)bound;
}

static uint32_t everything(ek_sampler *s) {
    for (uint32_t i = 0; i < s->vocab_size; i++) s->candidates[i] = i;
    return s->vocab_size;
}

static void weigh(ek_sampler *s, uint32_t n, float top) {
    float temperature = (float)s->sampling.temperature;
    if (n == s->vocab_size) { /* a loop that compilers vectorize */
        if (s->sampling.temperature == 1.0) temperature = 1.0f;
        for (uint32_t i = 0; i < n; i++) s->weights[i] = (double)(s->logits[i] / temperature) - (double)top;
    } else {
        for (uint32_t i = 0; i < n; i++)
            s->weights[i] = (double)ek_divided(s, s->logits[s->candidates[i]]) - (double)top;
    }
    s->loops->exp_all(s->weights, n);
}

/* Keeps the weights of at least `least`, and of those equal to `edge` only the first `equal`. */
static void keep(ek_sampler *s, uint32_t n, double least, double edge, uint32_t equal) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        double weight = s->weights[i];
        int stays = weight >= least;
        if (weight == edge && stays) {
            stays = equal > 0;
            equal -= (uint32_t)stays;
        }
        s->candidates[kept] = s->candidates[i];
        s->weights[kept] = weight;
        kept += (uint32_t)stays;
    }
    s->kept = kept;
}

/* The edge of top-p among weights in descending order: how many of them are needed until `before` and their sum reach
 * `target`. `close`: whether a sum is so near to the target that only the specified order of adding could tell. */
static uint32_t edge_of(const double *descending, uint32_t n, double before, double target, int *close) {
    double sum = 0.0, margin = MARGIN * target;
    for (uint32_t i = 0; i < n; i++) {
        double last = before + sum;
        sum += descending[i];
        if (before + sum >= target || i + 1 == n) {
            *close = (before + sum) - target < margin || target - last < margin;
            return i + 1;
        }
    }
    *close = 1;
    return n;
}

/* Equal to the last of the first `count`: how many of them are equal to it. */
static uint32_t equal_to_last(const double *descending, uint32_t count) {
    uint32_t equal = 1;
    while (equal < count && descending[count - equal - 1] == descending[count - 1]) equal++;
    return equal;
}

/* Top-p by adding in descending order, as the specification does. `sorted` has space for n weights. */
static void top_p_in_order(ek_sampler *s, uint32_t n, double least) {
    double *sorted = s->sorted;
    double total = 0.0, sum = 0.0;
    uint32_t count = 0;
    if (n <= FEW) ek_sort_few(s->weights, n, sorted);
    else {
        __builtin_memcpy(sorted, s->weights, n * sizeof *sorted);
        ek_sort_descending(sorted, n);
    }
    for (uint32_t i = 0; i < n; i++) total += sorted[i];
    do sum += sorted[count++];
    while (count < n && !(sum >= s->sampling.top_p * total));
    double edge = sorted[count - 1];
    keep(s, n, edge > least ? edge : least, edge, equal_to_last(sorted, count));
}

static uint32_t class_of(double weight) { /* 0: the largest; 64 classes an octave */
    uint64_t bits;
    __builtin_memcpy(&bits, &weight, sizeof bits);
    uint64_t class = (0x3ff0000000000000u - bits) >> 46;
    return class < CLASSES ? (uint32_t)class : CLASSES - 1;
}

static double sum_of(const double *weights, uint32_t n) {
    double lanes[8] = {0}, total = 0.0;
    for (uint32_t i = 0; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++) lanes[j] += weights[i + j];
    for (uint32_t i = n / 8 * 8; i < n; i++) total += weights[i];
    for (uint32_t j = 0; j < 8; j++) total += lanes[j];
    return total;
}

/* The weights of the class that contains the edge, in descending order, and the sum of all larger ones. */
static uint32_t class_of_edge(ek_sampler *s, uint32_t n, double target, double *before) {
    uint32_t class = 0, members = 0;
    for (uint32_t i = 0; i < CLASSES; i++) s->classes[i] = 0.0;
    for (uint32_t i = 0; i < n; i++) s->classes[class_of(s->weights[i])] += s->weights[i];
    while (class < CLASSES - 1 && *before + s->classes[class] < target) *before += s->classes[class++];
    for (uint32_t i = 0; i < n; i++) {
        s->sorted[members] = s->weights[i];
        members += class_of(s->weights[i]) == class;
    }
    ek_sort_descending(s->sorted, members);
    return members;
}

/* Top-p in a faster order of adding; 0 if a sum comes so close to p that only the specified order could tell. */
static int top_p_by_class(ek_sampler *s, uint32_t n, double least) {
    double total = sum_of(s->weights, n), target = s->sampling.top_p * total, before = 0.0;
    /* Weights below this cannot be kept: all of them together are less than the 1 - p that top-p drops. */
    double bound = (1.0 - MARGIN) * (total - target) / (double)n;
    uint32_t some = 0, members, count;
    for (uint32_t i = 0; i < n; i++) {
        double weight = s->weights[i];
        s->candidates[some] = s->candidates[i];
        s->weights[some] = weight;
        some += weight >= bound;
    }
    if (some <= FEW) {
        ek_sort_few(s->weights, some, s->sorted);
        members = some;
    } else {
        members = class_of_edge(s, some, target, &before);
    }
    int close;
    count = edge_of(s->sorted, members, before, target, &close);
    if (close || !count) return 0;
    double edge = s->sorted[count - 1];
    keep(s, some, edge > least ? edge : least, edge, equal_to_last(s->sorted, count));
    return 1;
}

/* The ids that top-k leaves, or at least all that min-p leaves. */
static uint32_t select_ids(ek_sampler *s, float top) {
    const ek_sampling *sampling = &s->sampling;
    if (sampling->top_k && sampling->top_k < s->vocab_size) return top_k(s, sampling->top_k);
    if (sampling->top_p >= 1.0 && sampling->min_p > 1e-300) return at_least(s, bound_of_min_p(s, top));
    return everything(s);
}

int ek_filter(ek_sampler *s) {
    float top = ek_divided(s, s->best);
    if (top - top != 0.0f) return EK_ARGUMENT; /* the temperature is too small to divide by */
    double least = s->sampling.min_p > 0x1p-1074 ? s->sampling.min_p : 0x1p-1074;
    uint32_t n = select_ids(s, top);
    weigh(s, n, top);
    if (s->sampling.top_p >= 1.0) {
        keep(s, n, least, -1.0, 0);
    } else if (n <= FEW) {
        top_p_in_order(s, n, least);
    } else if (!top_p_by_class(s, n, least)) {
        n = select_ids(s, top);
        weigh(s, n, top);
        top_p_in_order(s, n, least);
    }
    return EK_OK;
}
