/* Blocks of the file's types, and their places in tiles. Not for users of the engine. */
#ifndef EDGEKIT_QUANT_H
#define EDGEKIT_QUANT_H

#include "kernels.h"

#include "gguf.h"

/* 32 columns of a row: value i is w[i] * scale[i / 16] + min. */
typedef struct {
    int8_t w[EK_BLOCK];
    float scale[2], min;
} ek_block;

/* A matrix of the model, in tiles or in the file's own bytes. */
typedef struct {
    int format;        /* EK_TILE_* */
    uint32_t direct;   /* 1: `data` are the file's own bytes, not tiles */
    uint32_t type;     /* the file's */
    uint32_t rows, columns;
    uint32_t head_dim; /* not 0: rows of the file are pairs within heads of so many, see ek_row_of */
    size_t tile_bytes; /* of a tile, or of a row of the file */
    const uint8_t *data;
} ek_matrix;

/* The tile format of a file type. */
int ek_format_of(uint32_t type);

/* Whether products with that format read ek_columns' q. */
static inline int ek_is_quantized(int format) { return format > EK_TILE_F16; }

/* Unpacks block `index` of a row of a quantized type. */
void ek_unpack(uint32_t type, const uint8_t *row, size_t index, ek_block *out);

/* The first `count` numbers of a row of any type as float32. */
void ek_read_row(uint32_t type, const uint8_t *row, size_t count, float *out);

/* Row of the file that is row `row` of the model. llama.cpp rotates pairs of rows 2 i and 2 i + 1 of a head; the engine
 * rotates i and i + head_dim / 2, so rows of queries and keys are taken in that order. */
static inline uint32_t ek_row_of(uint32_t row, uint32_t head_dim) {
    if (!head_dim) return row;
    uint32_t i = row % head_dim, half = head_dim / 2;
    return row - i + (i < half ? 2 * i : 2 * (i - half) + 1);
}

/* Writes tile `t` of a matrix from the rows of a file. */
void ek_pack_tile(const ek_matrix *matrix, const uint8_t *file, size_t row_bytes, uint32_t t, uint8_t *tile);

/* As ek_product, for rows [row, row + count) of a matrix in the file's own bytes. */
void ek_direct(const ek_matrix *matrix, uint32_t row, uint32_t count, const ek_columns *x, size_t n, float *out,
               size_t out_stride);

#endif
