/* The k-th largest of some values, and sorting. No recursion, and no input that makes them slow. */
#include "sampler.h"

static void sift_down(float *heap, uint32_t n, uint32_t i, float value) { /* the smallest on top */
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (!(heap[child] < value)) break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

/* 1 <= k <= n; meant for a small k. */
float ek_largest(float *values, uint32_t n, uint32_t k) {
    for (uint32_t i = k / 2; i-- > 0;) sift_down(values, k, i, values[i]);
    for (uint32_t i = k; i < n; i++)
        if (values[i] > values[0]) sift_down(values, k, 0, values[i]);
    return values[0];
}

/* Whole numbers in the order of the floats; both zeros are one. */
static uint32_t key_of(float x) {
    uint32_t bits;
    x += 0.0f;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float of_key(uint32_t key) {
    uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

/* The same for any k: three passes, each of which finds 11 bits of the key. */
float ek_largest_of_many(const float *values, uint32_t n, uint32_t k, uint32_t *counters) {
    uint32_t key = 0;
    for (int shift = 22;; shift = shift > 11 ? shift - 11 : 0) { /* 10 bits, 11, 11 */
        for (uint32_t i = 0; i < CLASSES; i++) counters[i] = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t other = key_of(values[i]);
            if (shift == 22 || other >> (shift + 11) == key >> (shift + 11)) counters[other >> shift & (CLASSES - 1)]++;
        }
        uint32_t digit = CLASSES - 1;
        while (counters[digit] < k) k -= counters[digit--];
        key |= digit << shift;
        if (!shift) return of_key(key);
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
