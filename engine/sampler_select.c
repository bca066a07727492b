/* The k-th largest of some values, and sorting: without branches that a processor would guess wrong, where it matters. */
#include "sampler.h"

/* Whole numbers in the order of the floats, and back. */
int32_t ek_ordered(float x) {
    int32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

float ek_of_ordered(int32_t bits) {
    float x;
    if (bits < 0) bits ^= 0x7fffffff;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

static float least_above(const float *values, uint32_t n, float bound) {
    float least = __builtin_inff();
    for (uint32_t i = 0; i < n; i++)
        if (values[i] >= bound && values[i] < least) least = values[i];
    return least;
}

/* Bisection: at most 32 counts, of which compilers make a few instructions per 4 to 16 values. */
float ek_largest(const ek_loops *loops, const float *values, uint32_t n, uint32_t k, float largest) {
    int32_t low = ek_ordered(-__builtin_inff()), high = ek_ordered(largest); /* at least k values reach low */
    if (loops->count_at_least(values, n, largest) >= k) return largest;
    while ((int64_t)high - low > 1) {
        int32_t middle = (int32_t)(((int64_t)low + high) >> 1);
        float bound = ek_of_ordered(middle);
        uint32_t count = loops->count_at_least(values, n, bound);
        if (count == k) return least_above(values, n, bound);
        if (count > k) low = middle;
        else high = middle;
    }
    return ek_of_ordered(low);
}

/* Each weight goes to the place that the number of larger ones says, equal ones in their order. */
void ek_sort_few(const double *values, uint32_t n, double *sorted) {
    for (uint32_t i = 0; i < n; i++) {
        uint64_t place = 0;
        double value = values[i];
        for (uint32_t j = 0; j < i; j++) place += values[j] >= value;
        for (uint32_t j = i + 1; j < n; j++) place += values[j] > value;
        sorted[place] = value;
    }
}

void ek_sort_descending(double *values, uint32_t n) {
    for (uint32_t start = n / 2, end = n; end > 1;) { /* heapsort, the smallest on top */
        double value;
        if (start) value = values[--start];
        else {
            value = values[--end];
            values[end] = values[0];
        }
        uint32_t i = start;
        for (uint32_t child; (child = 2 * i + 1) < end; i = child) {
            if (child + 1 < end && values[child + 1] < values[child]) child++;
            if (!(values[child] < value)) break;
            values[i] = values[child];
        }
        values[i] = value;
    }
}

/* By rows of LANES they are nearly in order within their lane, and few: Shell's gaps are enough. */
void ek_sort_ids(uint32_t *ids, uint32_t n) {
    static const uint32_t gaps[] = {8929, 3905, 2161, 929, 505, 209, 109, 41, 19, 5, 1}; /* Sedgewick 1986 */
    for (size_t g = 0; g < sizeof gaps / sizeof gaps[0]; g++)
        for (uint32_t gap = gaps[g], i = gap; i < n; i++) {
            uint32_t id = ids[i];
            uint32_t j = i;
            for (; j >= gap && ids[j - gap] > id; j -= gap) ids[j] = ids[j - gap];
            ids[j] = id;
        }
}
