/* Products with the rows of a file as they are: slower than tiles, with the same bits. */
#include "quant.h"

static float row_floats(uint32_t type, const uint8_t *row, size_t columns, const float *x) {
    float sums[2] = {0, 0};
    for (size_t j = 0; j < columns; j++) {
        float w = type == EK_TYPE_F32   ? ek_f32(row + 4 * j)
                  : type == EK_TYPE_F16 ? ek_of_half(ek_u16(row + 2 * j))
                                        : ek_of_bfloat(ek_u16(row + 2 * j));
        sums[j & 1] += w * x[j];
    }
    return sums[0] + sums[1];
}

/* A block's term of the sum, as in kernels.h. */
static float term(int format, const ek_block *block, const int8_t *q, float d, float s, int32_t sum) {
    int32_t dots[2] = {0, 0};
    for (int i = 0; i < EK_BLOCK; i++) dots[i / 16] += block->w[i] * q[i];
    int32_t dot = dots[0] + dots[1];
    if (format == EK_TILE_S8H) return (float)dots[0] * (block->scale[0] * d) + (float)dots[1] * (block->scale[1] * d);
    if (format == EK_TILE_N4) dot -= 8 * sum;
    float product = (float)dot * (block->scale[0] * d);
    return format == EK_TILE_S8 || format == EK_TILE_N4 ? product : product + block->min * s;
}

void ek_direct(const ek_matrix *matrix, uint32_t row, uint32_t count, const ek_columns *x, size_t n, float *out,
               size_t out_stride) {
    int format = matrix->format;
    size_t blocks = matrix->columns / EK_BLOCK;
    for (uint32_t r = 0; r < count; r++) {
        const uint8_t *bytes = matrix->data + ek_row_of(row + r, matrix->head_dim) * matrix->tile_bytes;
        for (size_t c = 0; c < n; c++) {
            size_t at = c * x->stride;
            float *sum = out + c * out_stride + r;
            if (!ek_is_quantized(format)) {
                const float *values = format == EK_TILE_F16 ? x->h : x->f;
                *sum = row_floats(matrix->type, bytes, matrix->columns, values + at);
                continue;
            }
            *sum = 0;
        }
        for (size_t b = 0; b < blocks && ek_is_quantized(format); b++) {
            ek_block block;
            ek_unpack(matrix->type, bytes, b, &block);
            for (size_t c = 0; c < n; c++) {
                size_t at = c * x->stride / EK_BLOCK + b;
                out[c * out_stride + r] += term(format, &block, x->q + at * EK_BLOCK, x->d[at], x->s[at], x->sum[at]);
            }
        }
    }
}
