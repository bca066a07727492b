/* The kernels in plain C: the definition that every other set is compared with. */
#include "kernels.h"

typedef struct {
    const uint8_t *block; /* of the tile */
    const int8_t *q;
    float d, s;
    int32_t sum;
} step;

typedef void step_function(float *sums, const step *at);

/* Walks over tiles, columns of x and blocks; `one` adds a block to 32 sums. */
static inline void walk(const void *tiles, size_t tile_bytes, size_t count, size_t columns, const ek_columns *x, size_t n,
                        float *out, size_t out_stride, size_t block_bytes, step_function *one) {
    size_t blocks = (columns + EK_BLOCK - 1) / EK_BLOCK, stride = x->stride / EK_BLOCK;
    for (size_t t = 0; t < count; t++) {
        for (size_t c = 0; c < n; c++) {
            float *sums = out + c * out_stride + t * EK_ROWS;
            for (int r = 0; r < EK_ROWS; r++) sums[r] = 0;
            for (size_t b = 0; b < blocks; b++) {
                size_t at = c * stride + b;
                step s = {(const uint8_t *)tiles + t * tile_bytes + b * block_bytes, x->q + c * x->stride + b * EK_BLOCK,
                          x->d[at], x->s[at], x->sum[at]};
                one(sums, &s);
            }
        }
    }
}

/* `w` is an int8_t pointer by design: GCC 12 drops a cast from uint8_t where it uses vpdpbusd. */
static inline void dot8(int32_t *dots, const int8_t *w, const int8_t *q, int from, int to) {
    for (int r = 0; r < EK_ROWS; r++) dots[r] = 0;
    for (int g = from; g < to; g++)
        for (int r = 0; r < EK_ROWS; r++)
            for (int k = 0; k < 4; k++) dots[r] += w[(g * EK_ROWS + r) * 4 + k] * q[4 * g + k];
}

static inline void dot4(int32_t *dots, const uint8_t *w, const int8_t *q) {
    for (int r = 0; r < EK_ROWS; r++) dots[r] = 0;
    for (int g = 0; g < 8; g++)
        for (int r = 0; r < 16; r++)
            for (int k = 0; k < 4; k++) {
                int byte = w[(g * 16 + r) * 4 + k];
                dots[r] += (byte & 15) * q[4 * g + k];
                dots[r + 16] += (byte >> 4) * q[4 * g + k];
            }
}

static void one_s8(float *sums, const step *at) {
    const uint16_t *scale = (const uint16_t *)at->block;
    int32_t dots[EK_ROWS];
    dot8(dots, (const int8_t *)at->block + 64, at->q, 0, 8);
    for (int r = 0; r < EK_ROWS; r++) sums[r] += (float)dots[r] * (ek_of_half(scale[r]) * at->d);
}

static void one_s8v(float *sums, const step *at) {
    int32_t dots[EK_ROWS];
    dot8(dots, (const int8_t *)at->block, at->q, 0, 8);
    for (int r = 0; r < EK_ROWS; r++) sums[r] += (float)dots[r] * at->d;
}

static void one_s8h(float *sums, const step *at) {
    const float *scale = (const float *)at->block;
    int32_t low[EK_ROWS], high[EK_ROWS];
    dot8(low, (const int8_t *)at->block + 256, at->q, 0, 4);
    dot8(high, (const int8_t *)at->block + 256, at->q, 4, 8);
    for (int r = 0; r < EK_ROWS; r++)
        sums[r] += (float)low[r] * (scale[r] * at->d) + (float)high[r] * (scale[r + EK_ROWS] * at->d);
}

static void one_n4(float *sums, const step *at) {
    const uint16_t *scale = (const uint16_t *)at->block;
    int32_t dots[EK_ROWS];
    dot4(dots, at->block + 64, at->q);
    for (int r = 0; r < EK_ROWS; r++) sums[r] += (float)(dots[r] - 8 * at->sum) * (ek_of_half(scale[r]) * at->d);
}

static void one_n4m(float *sums, const step *at) {
    const uint16_t *scale = (const uint16_t *)at->block, *min = scale + EK_ROWS;
    int32_t dots[EK_ROWS];
    dot4(dots, at->block + 128, at->q);
    for (int r = 0; r < EK_ROWS; r++)
        sums[r] += (float)dots[r] * (ek_of_half(scale[r]) * at->d) + ek_of_half(min[r]) * at->s;
}

static inline void add_k(float *sums, const int32_t *dots, const step *at) {
    const float *scale = (const float *)at->block, *min = scale + EK_ROWS;
    for (int r = 0; r < EK_ROWS; r++) sums[r] += (float)dots[r] * (scale[r] * at->d) + min[r] * at->s;
}

static void one_n4k(float *sums, const step *at) {
    int32_t dots[EK_ROWS];
    dot4(dots, at->block + 256, at->q);
    add_k(sums, dots, at);
}

static void one_b8k(float *sums, const step *at) {
    int32_t dots[EK_ROWS];
    dot8(dots, (const int8_t *)at->block + 256, at->q, 0, 8);
    add_k(sums, dots, at);
}

#define ARGUMENTS                                                                                                        \
    const void *tiles, size_t tile_bytes, size_t count, size_t columns, const ek_columns *x, size_t n, float *out,      \
        size_t out_stride
#define WALK(bytes, one) walk(tiles, tile_bytes, count, columns, x, n, out, out_stride, bytes, one)

void ek_c_s8(ARGUMENTS) { WALK(64 + 1024, one_s8); }
void ek_c_s8v(ARGUMENTS) { WALK(1024, one_s8v); }
void ek_c_s8h(ARGUMENTS) { WALK(256 + 1024, one_s8h); }
void ek_c_n4(ARGUMENTS) { WALK(64 + 512, one_n4); }
void ek_c_n4m(ARGUMENTS) { WALK(128 + 512, one_n4m); }
void ek_c_n4k(ARGUMENTS) { WALK(256 + 512, one_n4k); }
void ek_c_b8k(ARGUMENTS) { WALK(256 + 1024, one_b8k); }

void ek_c_f32(ARGUMENTS) {
    for (size_t t = 0; t < count; t++)
        for (size_t c = 0; c < n; c++) {
            const float *w = (const float *)((const uint8_t *)tiles + t * tile_bytes), *f = x->f + c * x->stride;
            float sums[2][EK_ROWS] = {{0}};
            for (size_t j = 0; j < columns; j++, w += EK_ROWS)
                for (int r = 0; r < EK_ROWS; r++) sums[j & 1][r] += w[r] * f[j];
            for (int r = 0; r < EK_ROWS; r++) out[c * out_stride + t * EK_ROWS + r] = sums[0][r] + sums[1][r];
        }
}

void ek_c_f16(ARGUMENTS) {
    for (size_t t = 0; t < count; t++)
        for (size_t c = 0; c < n; c++) {
            const uint16_t *w = (const uint16_t *)((const uint8_t *)tiles + t * tile_bytes);
            const float *h = x->h + c * x->stride;
            float sums[2][EK_ROWS] = {{0}};
            for (size_t j = 0; j < columns; j++, w += EK_ROWS)
                for (int r = 0; r < EK_ROWS; r++) sums[j & 1][r] += ek_of_half(w[r]) * h[j];
            for (int r = 0; r < EK_ROWS; r++) out[c * out_stride + t * EK_ROWS + r] = sums[0][r] + sums[1][r];
        }
}

static int always(void) { return 1; }

const ek_kernels ek_kernels_c = {
    "c",
    always,
    {ek_c_f32, ek_c_f16, ek_c_s8, ek_c_s8v, ek_c_n4, ek_c_n4m, ek_c_n4k, ek_c_b8k, ek_c_s8h},
    ek_c_quantize,
    ek_c_round13,
    ek_c_norm,
    ek_c_softmax,
    ek_c_swiglu,
};
