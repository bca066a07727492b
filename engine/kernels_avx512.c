/* Kernels for AVX-512 with VNNI: vpdpbusd multiplies 64 pairs of bytes, of which the first is unsigned.
 *
 * A load has 4 columns of 16 rows, and one broadcast of 4 activations serves all of them. Decoding takes up to 4 tiles
 * at once, so that 8 sums hide the instruction's latency; a prompt takes 4 columns of one tile, which share its loads.
 */
#include "kernels.h"

#include "cpu_x86.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

EK_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define SUMS 4 /* tiles times columns at once, at most */

#include "steps.inc"

INLINE __m512i four(const int8_t *q) {
    int32_t bytes;
    __builtin_memcpy(&bytes, q, 4);
    return _mm512_set1_epi32(bytes);
}

INLINE __m512 halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

INLINE __m512 scaled(__m512i dots, __m512 scale, float d) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_mul_ps(scale, _mm512_set1_ps(d)));
}

/* dots * (scale * d), and what the format adds; half 0 is rows 0 to 15. */
INLINE __m512 term(int format, const uint8_t *block, int half, __m512i dots, float d, float s) {
    const uint8_t *p = block + (format == EK_TILE_N4K || format == EK_TILE_B8K ? 64 : 32) * half;
    if (format == EK_TILE_S8V) return _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(d));
    if (format == EK_TILE_S8 || format == EK_TILE_N4) return scaled(dots, halves(p), d);
    __m512 scale = format == EK_TILE_N4M ? halves(p) : _mm512_loadu_ps((const float *)p);
    __m512 min = format == EK_TILE_N4M ? halves(p + 64) : _mm512_loadu_ps((const float *)(p + 128));
    return _mm512_add_ps(scaled(dots, scale, d), _mm512_mul_ps(min, _mm512_set1_ps(s)));
}

/* What a call works on: tiles from `tile`, columns of x from `column`. */
typedef struct {
    const uint8_t *tile;
    size_t tile_bytes, columns;
    const ek_columns *x;
    size_t column;
    float *out;
    size_t out_stride;
} work;

INLINE size_t blocks_of(const work *w) { return (w->columns + EK_BLOCK - 1) / EK_BLOCK; }
INLINE const int8_t *q_of(const work *w, int c, size_t b) { return w->x->q + (w->column + (size_t)c) * w->x->stride + b * EK_BLOCK; }
INLINE size_t scale_at(const work *w, int c, size_t b) { return (w->column + (size_t)c) * (w->x->stride / EK_BLOCK) + b; }

INLINE void store(const work *w, int tiles, int columns, __m512 sums[SUMS][2]) {
    UNROLL for (int i = 0; i < tiles * columns; i++) {
        float *to = w->out + (w->column + (size_t)(i % columns)) * w->out_stride + (size_t)(i / columns) * EK_ROWS;
        _mm512_storeu_ps(to, sums[i][0]);
        _mm512_storeu_ps(to + 16, sums[i][1]);
    }
}

/* Rows r and r + 16 share a byte a + 16 b: the dot product of the bytes less that of the low nibbles is 16 times that
 * of the high ones. 8 is subtracted from every nibble by starting at -8 (1 . q), and at -8 * 17 for the whole byte. */
INLINE void nibbles(int format, int tiles, int columns, const work *w) {
    const size_t head = format == EK_TILE_N4 ? 64 : format == EK_TILE_N4M ? 128 : 256, blocks = blocks_of(w);
    const __m512i mask = _mm512_set1_epi8(15);
    __m512 sums[SUMS][2];
    UNROLL for (int i = 0; i < tiles * columns; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *block = w->tile + b * (head + 512);
        __m512i full[SUMS], low[SUMS];
        UNROLL for (int i = 0; i < tiles * columns; i++) {
            int32_t sum = format == EK_TILE_N4 ? w->x->sum[scale_at(w, i % columns, b)] : 0;
            low[i] = _mm512_set1_epi32(-8 * sum);
            full[i] = _mm512_set1_epi32(-136 * sum);
        }
        UNROLL for (int g = 0; g < 8; g++)
            UNROLL for (int t = 0; t < tiles; t++) {
                __m512i bytes = _mm512_loadu_si512(block + (size_t)t * w->tile_bytes + head + 64 * (size_t)g);
                __m512i lows = _mm512_and_si512(bytes, mask);
                UNROLL for (int c = 0; c < columns; c++) {
                    __m512i q = four(q_of(w, c, b) + 4 * g);
                    full[t * columns + c] = _mm512_dpbusd_epi32(full[t * columns + c], bytes, q);
                    low[t * columns + c] = _mm512_dpbusd_epi32(low[t * columns + c], lows, q);
                }
            }
        UNROLL for (int i = 0; i < tiles * columns; i++) {
            const uint8_t *head_of = block + (size_t)(i / columns) * w->tile_bytes;
            size_t at = scale_at(w, i % columns, b);
            float d = w->x->d[at], s = w->x->s[at];
            __m512i high = _mm512_srai_epi32(_mm512_sub_epi32(full[i], low[i]), 4);
            sums[i][0] = _mm512_add_ps(sums[i][0], term(format, head_of, 0, low[i], d, s));
            sums[i][1] = _mm512_add_ps(sums[i][1], term(format, head_of, 1, high, d, s));
        }
    }
    store(w, tiles, columns, sums);
}

/* Signed bytes are made unsigned by adding 128, which starting at -128 (1 . q) takes back. */
INLINE void bytes(int format, int tiles, int columns, const work *w) {
    const size_t head = format == EK_TILE_S8V ? 0 : format == EK_TILE_S8 ? 64 : 256, blocks = blocks_of(w);
    const __m512i flip = format == EK_TILE_B8K ? _mm512_setzero_si512() : _mm512_set1_epi8(-128);
    __m512 sums[SUMS][2];
    UNROLL for (int i = 0; i < tiles * columns; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *block = w->tile + b * (head + 1024);
        __m512i dots[SUMS][2];
        UNROLL for (int i = 0; i < tiles * columns; i++) {
            int32_t sum = format == EK_TILE_B8K ? 0 : w->x->sum[scale_at(w, i % columns, b)];
            dots[i][0] = dots[i][1] = _mm512_set1_epi32(-128 * sum);
        }
        UNROLL for (int g = 0; g < 8; g++)
            UNROLL for (int t = 0; t < tiles; t++) {
                const uint8_t *p = block + (size_t)t * w->tile_bytes + head + 128 * (size_t)g;
                __m512i first = _mm512_xor_si512(_mm512_loadu_si512(p), flip);
                __m512i second = _mm512_xor_si512(_mm512_loadu_si512(p + 64), flip);
                UNROLL for (int c = 0; c < columns; c++) {
                    __m512i q = four(q_of(w, c, b) + 4 * g), *to = dots[t * columns + c];
                    to[0] = _mm512_dpbusd_epi32(to[0], first, q);
                    to[1] = _mm512_dpbusd_epi32(to[1], second, q);
                }
            }
        UNROLL for (int i = 0; i < tiles * columns; i++) {
            const uint8_t *head_of = block + (size_t)(i / columns) * w->tile_bytes;
            size_t at = scale_at(w, i % columns, b);
            float d = w->x->d[at], s = w->x->s[at];
            UNROLL for (int h = 0; h < 2; h++)
                sums[i][h] = _mm512_add_ps(sums[i][h], term(format, head_of, h, dots[i][h], d, s));
        }
    }
    store(w, tiles, columns, sums);
}

/* Two scales for 32 columns: the first 16 columns and the last are separate sums. One tile and column at a time. */
INLINE void two_scales(int tiles, int columns, const work *w) {
    const __m512i flip = _mm512_set1_epi8(-128), ones = _mm512_set1_epi8(1);
    __m512 sums[SUMS][2];
    UNROLL for (int i = 0; i < tiles * columns; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks_of(w); b++)
        UNROLL for (int i = 0; i < tiles * columns; i++) {
            const uint8_t *block = w->tile + (size_t)(i / columns) * w->tile_bytes + b * 1280;
            const int8_t *q = q_of(w, i % columns, b);
            float d = w->x->d[scale_at(w, i % columns, b)];
            __m512 parts[2][2];
            UNROLL for (int part = 0; part < 2; part++) {
                __m512i dots[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, sum = _mm512_setzero_si512();
                UNROLL for (int g = 4 * part; g < 4 * part + 4; g++) {
                    __m512i activations = four(q + 4 * g);
                    sum = _mm512_dpbusd_epi32(sum, ones, activations);
                    UNROLL for (int h = 0; h < 2; h++)
                        dots[h] = _mm512_dpbusd_epi32(
                            dots[h], _mm512_xor_si512(_mm512_loadu_si512(block + 256 + 128 * g + 64 * h), flip),
                            activations);
                }
                sum = _mm512_slli_epi32(sum, 7);
                UNROLL for (int h = 0; h < 2; h++)
                    parts[part][h] = scaled(_mm512_sub_epi32(dots[h], sum),
                                            _mm512_loadu_ps((const float *)(block + 128 * part + 64 * h)), d);
            }
            UNROLL for (int h = 0; h < 2; h++)
                sums[i][h] = _mm512_add_ps(sums[i][h], _mm512_add_ps(parts[0][h], parts[1][h]));
        }
    store(w, tiles, columns, sums);
}

/* f32 multiplies, then adds; f16's products are exact, so a fused multiply-add gives the same bits. */
INLINE void floats(int format, int tiles, int columns, const work *w) {
    const size_t size = format == EK_TILE_F16 ? 2 : 4;
    const float *x = format == EK_TILE_F16 ? w->x->h : w->x->f;
    __m512 sums[2][SUMS][2];
    UNROLL for (int i = 0; i < tiles * columns; i++)
        sums[0][i][0] = sums[0][i][1] = sums[1][i][0] = sums[1][i][1] = _mm512_setzero_ps();
    for (size_t j = 0; j < w->columns; j += 2)
        UNROLL for (int odd = 0; odd < 2; odd++) {
            if (j + (size_t)odd >= w->columns) break;
            UNROLL for (int i = 0; i < tiles * columns; i++) {
                const uint8_t *p = w->tile + (size_t)(i / columns) * w->tile_bytes + (j + (size_t)odd) * size * EK_ROWS;
                __m512 f = _mm512_set1_ps(x[(w->column + (size_t)(i % columns)) * w->x->stride + j + (size_t)odd]);
                UNROLL for (int h = 0; h < 2; h++) {
                    __m512 *sum = &sums[odd][i][h];
                    if (format == EK_TILE_F16) *sum = _mm512_fmadd_ps(halves(p + 32 * h), f, *sum);
                    else *sum = _mm512_add_ps(*sum, _mm512_mul_ps(_mm512_loadu_ps((const float *)(p + 64 * h)), f));
                }
            }
        }
    UNROLL for (int i = 0; i < tiles * columns; i++)
        UNROLL for (int h = 0; h < 2; h++) sums[0][i][h] = _mm512_add_ps(sums[0][i][h], sums[1][i][h]);
    store(w, tiles, columns, sums[0]);
}

INLINE void part(int format, int tiles, int columns, const work *w) {
    if (format == EK_TILE_F32 || format == EK_TILE_F16) floats(format, tiles, columns, w);
    else if (format == EK_TILE_S8H) two_scales(tiles, columns, w);
    else if (format == EK_TILE_N4 || format == EK_TILE_N4M || format == EK_TILE_N4K) nibbles(format, tiles, columns, w);
    else bytes(format, tiles, columns, w);
}

/* 4 tiles of a single column, or 4 columns of a single tile, as far as there are so many. */
INLINE void product(int format, const void *tiles, size_t tile_bytes, size_t count, size_t columns, const ek_columns *x,
                    size_t n, float *out, size_t out_stride) {
    work w = {tiles, tile_bytes, columns, x, 0, out, out_stride};
    for (size_t t = 0; n >= 4 && t < count; t++) {
        w.tile = (const uint8_t *)tiles + t * tile_bytes;
        w.out = out + t * EK_ROWS;
        for (w.column = 0; w.column + 4 <= n; w.column += 4) part(format, 1, 4, &w);
    }
    for (w.column = n - n % 4; w.column < n; w.column++) {
        size_t t = 0;
        for (; t < count; t += t + 4 <= count ? 4 : t + 2 <= count ? 2 : 1) {
            w.tile = (const uint8_t *)tiles + t * tile_bytes;
            w.out = out + t * EK_ROWS;
            if (t + 4 <= count) part(format, 4, 1, &w);
            else if (t + 2 <= count) part(format, 2, 1, &w);
            else part(format, 1, 1, &w);
        }
    }
}

#include "products.inc"

EK_TARGET_END

static int available(void) { return (ek_x86_sets() & EK_AVX512_VNNI) != 0; }

const ek_kernels ek_kernels_avx512 = {
    "avx512vnni", available, {f32, f16, s8, s8v, n4, n4m, n4k, b8k, s8h}, quantize, round13, norm, softmax, swiglu,
};
#else
typedef int ek_no_avx512; /* a file must not be empty */
#endif
