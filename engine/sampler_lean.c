/* Top-k, top-p and min-p, and the draw, without arrays as long as the vocabulary: for devices with little memory. The
 * tokens are those of sampler_filter.c and sampler_draw.c; weights are computed as often as they are needed. */
#include "sampler.h"

#define SOME 256    /* ids that are sorted at once */
#define MARGIN 1e-9 /* relative difference of two sums; the order of adding changes far less */

typedef struct {
    const ek_sampler *s;
    float top;   /* the largest logit at this temperature */
    float floor; /* logits below it do not count */
} lean;

typedef struct {
    double sum, before; /* of the weights down to the edge, and without the last */
    double weight;  /* the smallest that was added */
    float logit;    /* the last one */
    uint32_t equal; /* how many weights were equal to `weight` */
} lean_edge;

static double weight_of(const lean *l, uint32_t id) {
    return ek_exp64((double)ek_divided(l->s, l->s->logits[id]) - (double)l->top);
}

/* Whether an id comes first: the larger logit, and of equal ones the smaller id. */
static int comes_first(const float *logits, uint32_t a, uint32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* ids[0..n) is a heap: each comes after its children, so the first is the last of all. */
static void sink(const float *logits, uint32_t *ids, uint32_t n, uint32_t at) {
    uint32_t id = ids[at];
    for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && comes_first(logits, ids[child], ids[child + 1])) child++;
        if (!comes_first(logits, id, ids[child])) break;
        ids[at] = ids[child];
    }
    ids[at] = id;
}

/* The next SOME ids after `last` (NULL: from the beginning), in order. Returns how many there are. */
static uint32_t next_ids(const lean *l, const uint32_t *last, uint32_t *ids) {
    const float *logits = l->s->logits;
    uint32_t n = 0;
    for (uint32_t id = 0; id < l->s->vocab_size; id++) {
        if (logits[id] < l->floor || (last && !comes_first(logits, *last, id))) continue;
        if (n < SOME) {
            ids[n++] = id;
            for (uint32_t at = n / 2; n == SOME && at--;) sink(logits, ids, n, at);
        } else if (comes_first(logits, id, ids[0])) {
            ids[0] = id;
            sink(logits, ids, n, 0);
        }
    }
    for (uint32_t at = n / 2; n < SOME && at--;) sink(logits, ids, n, at);
    for (uint32_t left = n; left-- > 1;) {
        uint32_t id = ids[left];
        ids[left] = ids[0], ids[0] = id;
        sink(logits, ids, left, 0);
    }
    return n;
}

/* Adds weights, the largest first, until their sum is `target`; all of them if it never is. */
static lean_edge add_down(const lean *l, double target) {
    uint32_t ids[SOME], last = 0, n;
    lean_edge edge = {0.0, 0.0, 0.0, l->s->best, 0};
    for (int first = 1; (n = next_ids(l, first ? NULL : &last, ids)); first = 0) {
        for (uint32_t i = 0; i < n; i++) {
            double weight = weight_of(l, ids[i]);
            if (!(weight > 0.0)) return edge; /* so are all others */
            edge.equal = weight == edge.weight ? edge.equal + 1 : 1;
            edge.weight = weight, edge.logit = l->s->logits[ids[i]];
            edge.before = edge.sum, edge.sum += weight;
            if (edge.sum >= target) return edge;
        }
        if (n < SOME) break;
        last = ids[n - 1];
    }
    return edge;
}

/* Where top-p ends. The sum of all weights is that of the ids' order, unless it is so close that only the specified
 * order, the largest first, could tell. */
static lean_edge find_edge(const lean *l, double top_p) {
    const ek_sampler *s = l->s;
    double total = 0.0;
    for (uint32_t id = 0; id < s->vocab_size; id++)
        if (s->logits[id] >= l->floor) total += weight_of(l, id);
    double target = top_p * total, margin = MARGIN * target;
    lean_edge edge = add_down(l, target);
    if (edge.sum - target >= margin && target - edge.before >= margin) return edge;
    return add_down(l, top_p * add_down(l, __builtin_inf()).sum);
}

/* The race of ek_race between the ids that are kept: weights of at least `least`, and of those equal to `edge` only the
 * first `equal`. */
static int race(const lean *l, double least, double edge, uint32_t equal) {
    const ek_sampler *s = l->s;
    uint64_t start = ek_race_start(s);
    double shortest = -1.0;
    uint32_t winner = s->best_id;
    for (uint32_t id = 0; id < s->vocab_size; id++) {
        if (s->logits[id] < l->floor) continue;
        double weight = weight_of(l, id);
        if (!(weight >= least) || (weight == edge && !equal)) continue;
        equal -= weight == edge;
        double time = -ek_log64(ek_uniform(start, id)) / weight;
        if (shortest < 0.0 || time < shortest) shortest = time, winner = id;
    }
    return (int)winner;
}

int ek_draw_lean(const ek_sampler *s) {
    const ek_sampling *sampling = &s->sampling;
    lean l = {s, ek_divided(s, s->best), -__builtin_inff()};
    double least = sampling->min_p > 0x1p-1074 ? sampling->min_p : 0x1p-1074;
    if (l.top - l.top != 0.0f) return EK_ARGUMENT; /* the temperature is too small to divide by */
    if (sampling->top_k && sampling->top_k < s->vocab_size)
        l.floor = ek_least_equal(s, ek_largest(s->loops, s->logits, s->vocab_size, sampling->top_k, s->best));
    if (sampling->top_p >= 1.0) return race(&l, least, -1.0, 0);
    lean_edge edge = find_edge(&l, sampling->top_p);
    float lowest = ek_least_equal(s, edge.logit); /* no lower logit has a weight that is kept */
    if (lowest > l.floor) l.floor = lowest;
    return race(&l, edge.weight > least ? edge.weight : least, edge.weight, edge.equal);
}
