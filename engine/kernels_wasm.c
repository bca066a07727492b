/* Kernels for WebAssembly's 16-byte registers, compiled where -msimd128 is given. With -mrelaxed-simd nibbles use the
 * relaxed product of signed bytes with numbers below 128, two of which are added in 16 bits: 2 x 15 x 127 fits, so what
 * the standard leaves open cannot occur.
 *
 * Otherwise bytes are widened to 16 bits and multiplied in pairs. A register has 4 columns of 4 rows; sums are of pairs of
 * columns until the end of a block. */
#include "kernels.h"

#if defined(__wasm_simd128__)
#include <wasm_simd128.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("clang loop unroll(full)")
#define PARTS 8 /* of 4 rows */

INLINE v128_t halves(const uint8_t *p) { /* ek_of_half, four at once */
    v128_t half = wasm_u32x4_load16x4(p), magnitude = wasm_i32x4_shl(wasm_v128_and(half, wasm_i32x4_splat(0x7fff)), 13);
    v128_t value = wasm_f32x4_mul(magnitude, wasm_f32x4_splat(0x1p112f));
    v128_t special = wasm_u32x4_ge(magnitude, wasm_i32x4_splat(0x0f800000));
    v128_t sign = wasm_i32x4_shl(wasm_v128_and(half, wasm_i32x4_splat(0x8000)), 16);
    value = wasm_v128_or(value, wasm_v128_and(special, wasm_i32x4_splat(0x7f800000)));
    return wasm_v128_or(value, sign);
}

INLINE v128_t scaled(v128_t dots, v128_t scale, float d) {
    return wasm_f32x4_mul(wasm_f32x4_convert_i32x4(dots), wasm_f32x4_mul(scale, wasm_f32x4_splat(d)));
}

/* dots * (scale * d), and what the format adds; `rows` are 4 of the tile's 32. */
INLINE v128_t term(int format, const uint8_t *block, int rows, v128_t dots, float d, float s) {
    const uint8_t *p = block + (format == EK_TILE_N4K || format == EK_TILE_B8K ? 16 : 8) * rows;
    if (format == EK_TILE_S8V) return wasm_f32x4_mul(wasm_f32x4_convert_i32x4(dots), wasm_f32x4_splat(d));
    if (format == EK_TILE_S8 || format == EK_TILE_N4) return scaled(dots, halves(p), d);
    v128_t scale = format == EK_TILE_N4M ? halves(p) : wasm_v128_load(p);
    v128_t min = format == EK_TILE_N4M ? halves(p + 64) : wasm_v128_load(p + 128);
    return wasm_f32x4_add(scaled(dots, scale, d), wasm_f32x4_mul(min, wasm_f32x4_splat(s)));
}

/* What a call works on: the tile, and a column of x. */
typedef struct {
    const uint8_t *tile;
    size_t columns;
    const ek_columns *x;
    size_t column;
    float *out;
} work;

INLINE size_t blocks_of(const work *w) { return (w->columns + EK_BLOCK - 1) / EK_BLOCK; }
INLINE const int8_t *q_of(const work *w, size_t b) { return w->x->q + w->column * w->x->stride + b * EK_BLOCK; }
INLINE size_t scale_at(const work *w, size_t b) { return w->column * (w->x->stride / EK_BLOCK) + b; }

INLINE int is_nibbles(int format) { return format == EK_TILE_N4 || format == EK_TILE_N4M || format == EK_TILE_N4K; }

INLINE size_t head_of(int format) {
    if (format == EK_TILE_S8V) return 0;
    return format == EK_TILE_S8 || format == EK_TILE_N4 ? 64 : format == EK_TILE_N4M ? 128 : 256;
}

/* a0 + a1, a2 + a3, b0 + b1, b2 + b3 */
INLINE v128_t pairs(v128_t a, v128_t b) {
    return wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7));
}

/* Groups [from, to) of 4 columns of a block of signed bytes. */
INLINE void dot_bytes(const uint8_t *p, const int8_t *q, int from, int to, v128_t *dots) {
    v128_t low[PARTS], high[PARTS];
    UNROLL for (int k = 0; k < PARTS; k++) low[k] = high[k] = wasm_i32x4_splat(0);
    for (int g = from; g < to; g++) {
        v128_t x = wasm_i16x8_extend_low_i8x16(wasm_v128_load32_splat(q + 4 * g));
        UNROLL for (int k = 0; k < PARTS; k++) {
            v128_t w = wasm_v128_load(p + 128 * g + 16 * k);
            low[k] = wasm_i32x4_add(low[k], wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(w), x));
            high[k] = wasm_i32x4_add(high[k], wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(w), x));
        }
    }
    UNROLL for (int k = 0; k < PARTS; k++) dots[k] = pairs(low[k], high[k]);
}

#if defined(__wasm_relaxed_simd__)
INLINE void dot_nibbles(const uint8_t *p, const int8_t *q, v128_t *dots) {
    const v128_t mask = wasm_i8x16_splat(15);
    v128_t sums[PARTS]; /* of pairs, in 16 bits: 8 x 2 x 15 x 127 fits */
    UNROLL for (int k = 0; k < PARTS; k++) sums[k] = wasm_i32x4_splat(0);
    for (int g = 0; g < 8; g++) {
        v128_t x = wasm_v128_load32_splat(q + 4 * g);
        UNROLL for (int k = 0; k < PARTS / 2; k++) {
            v128_t w = wasm_v128_load(p + 64 * g + 16 * k);
            v128_t low = wasm_i16x8_relaxed_dot_i8x16_i7x16(x, wasm_v128_and(w, mask));
            v128_t high = wasm_i16x8_relaxed_dot_i8x16_i7x16(x, wasm_u8x16_shr(w, 4));
            sums[k] = wasm_i16x8_add(sums[k], low);
            sums[k + PARTS / 2] = wasm_i16x8_add(sums[k + PARTS / 2], high);
        }
    }
    UNROLL for (int k = 0; k < PARTS; k++) dots[k] = wasm_i32x4_extadd_pairwise_i16x8(sums[k]);
}
#else
INLINE void dot_nibbles(const uint8_t *p, const int8_t *q, v128_t *dots) {
    const v128_t mask = wasm_i8x16_splat(15);
    UNROLL for (int half = 0; half < 2; half++) {
        v128_t low[PARTS / 2], high[PARTS / 2];
        UNROLL for (int k = 0; k < PARTS / 2; k++) low[k] = high[k] = wasm_i32x4_splat(0);
        for (int g = 0; g < 8; g++) {
            v128_t x = wasm_i16x8_extend_low_i8x16(wasm_v128_load32_splat(q + 4 * g));
            UNROLL for (int k = 0; k < PARTS / 2; k++) {
                v128_t w = wasm_v128_load(p + 64 * g + 16 * k);
                w = half ? wasm_u8x16_shr(w, 4) : wasm_v128_and(w, mask);
                low[k] = wasm_i32x4_add(low[k], wasm_i32x4_dot_i16x8(wasm_u16x8_extend_low_u8x16(w), x));
                high[k] = wasm_i32x4_add(high[k], wasm_i32x4_dot_i16x8(wasm_u16x8_extend_high_u8x16(w), x));
            }
        }
        UNROLL for (int k = 0; k < PARTS / 2; k++) dots[k + half * PARTS / 2] = pairs(low[k], high[k]);
    }
}
#endif

INLINE void store(const work *w, const v128_t *sums) {
    UNROLL for (int k = 0; k < PARTS; k++) wasm_v128_store(w->out + 4 * k, sums[k]);
}

INLINE void integers(int format, const work *w) {
    const size_t head = head_of(format), size = head + (is_nibbles(format) ? 512 : 1024), blocks = blocks_of(w);
    v128_t sums[PARTS];
    UNROLL for (int k = 0; k < PARTS; k++) sums[k] = wasm_f32x4_splat(0);
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *block = w->tile + b * size;
        size_t at = scale_at(w, b);
        v128_t dots[PARTS], less = wasm_i32x4_splat(format == EK_TILE_N4 ? 8 * w->x->sum[at] : 0);
        if (is_nibbles(format)) dot_nibbles(block + head, q_of(w, b), dots);
        else dot_bytes(block + head, q_of(w, b), 0, 8, dots);
        UNROLL for (int k = 0; k < PARTS; k++)
            sums[k] = wasm_f32x4_add(
                sums[k], term(format, block, k, wasm_i32x4_sub(dots[k], less), w->x->d[at], w->x->s[at]));
    }
    store(w, sums);
}

/* Two scales for 32 columns: the first 16 columns and the last are separate sums. */
INLINE void two_scales(const work *w) {
    v128_t sums[PARTS];
    UNROLL for (int k = 0; k < PARTS; k++) sums[k] = wasm_f32x4_splat(0);
    for (size_t b = 0; b < blocks_of(w); b++) {
        const uint8_t *block = w->tile + b * 1280;
        float d = w->x->d[scale_at(w, b)];
        v128_t first[PARTS], second[PARTS];
        dot_bytes(block + 256, q_of(w, b), 0, 4, first);
        dot_bytes(block + 256, q_of(w, b), 4, 8, second);
        UNROLL for (int k = 0; k < PARTS; k++) {
            const uint8_t *scale = block + 16 * k;
            v128_t both = wasm_f32x4_add(scaled(first[k], wasm_v128_load(scale), d),
                                         scaled(second[k], wasm_v128_load(scale + 128), d));
            sums[k] = wasm_f32x4_add(sums[k], both);
        }
    }
    store(w, sums);
}

INLINE void floats(int format, const work *w) {
    const size_t size = format == EK_TILE_F16 ? 2 : 4;
    const float *x = (format == EK_TILE_F16 ? w->x->h : w->x->f) + w->column * w->x->stride;
    v128_t sums[2][PARTS];
    UNROLL for (int k = 0; k < PARTS; k++) sums[0][k] = sums[1][k] = wasm_f32x4_splat(0);
    for (size_t j = 0; j < w->columns; j++) {
        const uint8_t *p = w->tile + j * size * EK_ROWS;
        v128_t f = wasm_f32x4_splat(x[j]);
        UNROLL for (int k = 0; k < PARTS; k++) {
            v128_t v = format == EK_TILE_F16 ? halves(p + 8 * k) : wasm_v128_load(p + 16 * k);
            sums[j & 1][k] = wasm_f32x4_add(sums[j & 1][k], wasm_f32x4_mul(v, f));
        }
    }
    UNROLL for (int k = 0; k < PARTS; k++) sums[0][k] = wasm_f32x4_add(sums[0][k], sums[1][k]);
    store(w, sums[0]);
}

INLINE void product(int format, const void *tiles, size_t tile_bytes, size_t count, size_t columns, const ek_columns *x,
                    size_t n, float *out, size_t out_stride) {
    for (size_t t = 0; t < count; t++)
        for (size_t c = 0; c < n; c++) {
            work w = {(const uint8_t *)tiles + t * tile_bytes, columns, x, c, out + c * out_stride + t * EK_ROWS};
            if (format == EK_TILE_F32 || format == EK_TILE_F16) floats(format, &w);
            else if (format == EK_TILE_S8H) two_scales(&w);
            else integers(format, &w);
        }
}

#include "products.inc"

#include "steps.inc"

static int available(void) { return 1; }

const ek_kernels ek_kernels_wasm = {
#if defined(__wasm_relaxed_simd__)
    "relaxed",
#else
    "simd128",
#endif
    available, {f32, f16, s8, s8v, n4, n4m, n4k, b8k, s8h}, quantize, round13, norm, softmax, swiglu,
};
#else
typedef int ek_no_wasm; /* a file must not be empty */
#endif
