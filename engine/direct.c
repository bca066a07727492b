/* Products with the rows of a file as they are: slower than tiles, with the same bits. Rows of q4_0 and q8_0, which small
 * devices have, are computed without unpacking their blocks. */
#include "quant.h"

#include "dots.h"

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

static float row_q4_0(const uint8_t *row, size_t blocks, const int8_t *q, const float *d, const int32_t *sum) {
    float total = 0;
    for (size_t b = 0; b < blocks; b++, row += 18, q += EK_BLOCK)
        total += (float)(ek_dot_nibbles(row + 2, q) - 8 * sum[b]) * (ek_of_half(ek_u16(row)) * d[b]);
    return total;
}

static float row_q8_0(const uint8_t *row, size_t blocks, const int8_t *q, const float *d) {
    float total = 0;
    for (size_t b = 0; b < blocks; b++, row += 34, q += EK_BLOCK)
        total += (float)ek_dot_bytes((const int8_t *)row + 2, q) * (ek_of_half(ek_u16(row)) * d[b]);
    return total;
}

/* A block's term of the sum, as in kernels.h. */
static float term(int format, const ek_block *block, const int8_t *q, float d, float s, int32_t sum) {
    if (format == EK_TILE_S8H)
        return (float)ek_dot_half(block->w, q) * (block->scale[0] * d) +
               (float)ek_dot_half(block->w + 16, q + 16) * (block->scale[1] * d);
    int32_t dot = ek_dot_bytes(block->w, q);
    if (format == EK_TILE_N4) dot -= 8 * sum;
    float product = (float)dot * (block->scale[0] * d);
    return format == EK_TILE_S8 || format == EK_TILE_N4 ? product : product + block->min * s;
}

/* Any quantized type: a block is unpacked once for all columns. */
static void row_blocks(const ek_matrix *matrix, const uint8_t *row, const ek_columns *x, size_t n, float *out,
                       size_t out_stride) {
    for (size_t c = 0; c < n; c++) out[c * out_stride] = 0;
    for (size_t b = 0; b < matrix->columns / EK_BLOCK; b++) {
        ek_block block;
        ek_unpack(matrix->type, row, b, &block);
        for (size_t c = 0; c < n; c++) {
            size_t at = c * x->stride / EK_BLOCK + b;
            out[c * out_stride] += term(matrix->format, &block, x->q + at * EK_BLOCK, x->d[at], x->s[at], x->sum[at]);
        }
    }
}

void ek_direct(const ek_matrix *matrix, uint32_t row, uint32_t count, const ek_columns *x, size_t n, float *out,
               size_t out_stride) {
    size_t blocks = matrix->columns / EK_BLOCK, columns = matrix->columns;
    for (uint32_t r = 0; r < count; r++, out++) {
        const uint8_t *bytes = matrix->data + ek_row_of(row + r, matrix->head_dim) * matrix->tile_bytes;
        uint32_t type = matrix->type;
        if (ek_is_quantized(matrix->format) && type != EK_TYPE_Q4_0 && type != EK_TYPE_Q8_0) {
            row_blocks(matrix, bytes, x, n, out, out_stride);
            continue;
        }
        for (size_t c = 0; c < n; c++) {
            size_t at = c * x->stride, block = at / EK_BLOCK;
            if (type == EK_TYPE_Q4_0)
                out[c * out_stride] = row_q4_0(bytes, blocks, x->q + at, x->d + block, x->sum + block);
            else if (type == EK_TYPE_Q8_0)
                out[c * out_stride] = row_q8_0(bytes, blocks, x->q + at, x->d + block);
            else
                out[c * out_stride] = row_floats(type, bytes, columns, (type == EK_TYPE_F16 ? x->h : x->f) + at);
        }
    }
}
