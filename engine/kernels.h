/* What an instruction set provides: products of tiles with columns, and the steps between them.
 *
 * To add a set: write kernels_NAME.c with a `const ek_kernels ek_kernels_NAME`, guarded by the architecture's macros, and
 * list it in instructions.c. Entries may be those of kernels_c.c (ek_c_...). Every entry must give the bits of
 * kernels_c.c, which follows docs/arithmetic.md; tests/test_engine.py compares hashes.
 *
 * A matrix is stored as tiles of 32 rows, each with all columns of these rows; the last is padded with rows of zeros.
 * A tile of a quantized format is a sequence of blocks of 32 columns (the last padded with zeros):
 *
 *     S8   uint16 scale[32]                   int8 w[8][32][4]      q8_0, q5_0, iq4_nl, keys of an int8 cache
 *     S8V                                     int8 w[8][32][4]      values of an int8 cache: the scale is in x
 *     N4   uint16 scale[32]                   uint8 w[8][16][4]     q4_0: nibble - 8
 *     N4M  uint16 scale[32] uint16 min[32]    uint8 w[8][16][4]     q4_1
 *     N4K  float scale[32]  float min[32]     uint8 w[8][16][4]     q4_k
 *     B8K  float scale[32]  float min[32]     uint8 w[8][32][4]     q5_1, q5_k: at most 31
 *     S8H  float scale[2][32]                 int8 w[8][32][4]      q6_k: a scale for columns 0-15, one for 16-31
 *
 * w[g][r][k] is row r, column 4 g + k. In w[g][r][k] of N4.. the low nibble is row r, the high one row r + 16. uint16 is
 * a float16. Tiles of floats have no blocks, and any number of columns:
 *
 *     F32  float w[columns][32]               f32, bf16, and that cache
 *     F16  uint16 w[columns][32]              f16, and that cache
 *
 * Blocks and tiles are aligned to 64 bytes. One of 4 columns' groups of N4 is 64 bytes, of S8 128.
 */
#ifndef EDGEKIT_KERNELS_H
#define EDGEKIT_KERNELS_H

#include "strict.h"

#include "half.h"

#define EK_ROWS 32  /* of a tile */
#define EK_BLOCK 32 /* columns of a block */

enum {
    EK_TILE_F32, EK_TILE_F16, EK_TILE_S8, EK_TILE_S8V, EK_TILE_N4, EK_TILE_N4M, EK_TILE_N4K, EK_TILE_B8K, EK_TILE_S8H,
    EK_TILES
};

/* Activations: `n` columns of a product, column c at c * stride of f, h and q, and at c * (stride / 32) of d, s and sum.
 * A format reads F32: f. F16: h. The others: q, d, and s or sum. q is padded with zeros to a multiple of 32; f and h are
 * not padded. stride is a multiple of 32; every pointer is aligned to 64 bytes (d, s, sum of a column: to 4). */
typedef struct {
    const float *f;     /* x */
    const float *h;     /* x rounded to 13 significant bits */
    const int8_t *q;    /* x / d, rounded: -127 to 127 */
    const float *d;     /* of each block of 32 */
    const float *s;     /* (float)sum * d */
    const int32_t *sum; /* of q over each block */
    size_t stride;
} ek_columns;

/* out[c * out_stride + 32 * t + r] = row r of tile t times column c, for t < count, c < n, 0 <= r < 32; tile t is at
 * t * tile_bytes, and has `columns` columns. With w and q the integers of a block, and every operation rounded to
 * binary32 by itself, in this order, from sum = +0 over the blocks:
 *
 *     S8          sum += (float)(w . q) * (scale * d)
 *     S8V         sum += (float)(w . q) * d
 *     N4          sum += (float)(w . q - 8 * (1 . q)) * (scale * d)
 *     N4M N4K B8K sum += ((float)(w . q) * (scale * d)) + (min * s)
 *     S8H         sum += ((float)(w . q over columns 0-15) * (scale0 * d)) + ((float)(w . q over 16-31) * (scale1 * d))
 *     F32         even += w[j] * f[j] over even j, odd over odd j; even + odd
 *     F16         the same with h, where the product is exact: a fused multiply-add gives the same
 *
 * The result must not depend on n, count or what the neighbouring columns and tiles are. */
typedef void ek_product(const void *tiles, size_t tile_bytes, size_t count, size_t columns, const ek_columns *x,
                        size_t n, float *out, size_t out_stride);

typedef struct {
    const char *name;
    int (*available)(void); /* can this processor run it */
    ek_product *product[EK_TILES];
    /* n numbers in blocks of 32. m = the largest |x| of a block (compared as integers). m infinite or not a number:
     * q = 0 and d = m. Otherwise inv = m >= 2^-100 ? 127 / m : 0; q = x * inv, rounded by adding and subtracting
     * 1.5 * 2^23; d = m * (1 / 127). sum and s as in ek_columns. Pads with zeros. */
    void (*quantize)(const float *x, size_t n, int8_t *q, float *d, float *s, int32_t *sum);
    /* 13 significant bits, half to even; |x| < 2^-100 gives +0. */
    void (*round13)(const float *x, size_t n, float *out);
    /* out = x * (1 / sqrt(squares / n + epsilon)) * weight, left to right; squares: see ek_tree. */
    void (*norm)(const float *x, const float *weight, size_t n, float epsilon, float *out);
    /* x = exp(x - max) * (1 / sum) [* scale]; `scale` may be NULL. sum: see ek_tree. */
    void (*softmax)(float *x, size_t n, const float *scale);
    /* gate = gate / (1 + exp(-gate)) * up, left to right. */
    void (*swiglu)(float *gate, const float *up, size_t n);
} ek_kernels;

/* Sums over n numbers use 16 lanes, number i in lane i mod 16 in ascending order from +0; then i + (i + 8),
 * i + (i + 4), and (0 + 2) + (1 + 3). */
static inline float ek_tree(const float *lanes) {
    float four[4];
    for (int i = 0; i < 4; i++) four[i] = (lanes[i] + lanes[i + 8]) + (lanes[i + 4] + lanes[i + 12]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

#define EK_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number */

/* e ** x for x clamped to -87 ... 88 (not a number: -87); relative error 2e-7. */
static inline float ek_exp(float x) {
    x = x > -87.0f ? x : -87.0f;
    x = x < 88.0f ? x : 88.0f;
    float t = x * 1.44269504f + EK_MAGIC;
    float n = t - EK_MAGIC;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345205e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = (p * (r * r) + r) + 1.0f;
    return ek_float(ek_bits(p) + (ek_bits(t) << 23)); /* the low bits of t are n */
}

/* The square root, correctly rounded; no call of libm. */
float ek_sqrt(float x);

/* Bytes of a tile with that many columns, a multiple of 64. */
uint64_t ek_tile_bytes(int format, uint64_t columns);

/* The products and steps of kernels_c.c, for tables that do not replace all of them. */
extern const ek_kernels ek_kernels_c;
ek_product ek_c_f32, ek_c_f16, ek_c_s8, ek_c_s8v, ek_c_n4, ek_c_n4m, ek_c_n4k, ek_c_b8k, ek_c_s8h;
void ek_c_quantize(const float *x, size_t n, int8_t *q, float *d, float *s, int32_t *sum);
void ek_c_round13(const float *x, size_t n, float *out);
void ek_c_norm(const float *x, const float *weight, size_t n, float epsilon, float *out);
void ek_c_softmax(float *x, size_t n, const float *scale);
void ek_c_swiglu(float *gate, const float *up, size_t n);

/* The set of that name (NULL: the best) that this processor can run; NULL if there is none. */
const ek_kernels *ek_kernels_named(const char *name);

#endif
