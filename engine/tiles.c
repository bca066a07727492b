/* Repacks rows of a file into tiles; the layouts are in kernels.h. */
#include "quant.h"

int ek_format_of(uint32_t type) {
    switch (type) {
        case EK_TYPE_F16: return EK_TILE_F16;
        case EK_TYPE_Q8_0:
        case EK_TYPE_Q5_0:
        case EK_TYPE_IQ4_NL: return EK_TILE_S8;
        case EK_TYPE_Q4_0: return EK_TILE_N4;
        case EK_TYPE_Q4_1: return EK_TILE_N4M;
        case EK_TYPE_Q4_K: return EK_TILE_N4K;
        case EK_TYPE_Q5_1:
        case EK_TYPE_Q5_K: return EK_TILE_B8K;
        case EK_TYPE_Q6_K: return EK_TILE_S8H;
        default: return EK_TILE_F32;
    }
}

static const uint16_t HEAD[EK_TILES] = {0, 0, 64, 0, 64, 128, 256, 256, 256};
static const uint16_t BODY[EK_TILES] = {0, 0, 1024, 1024, 512, 512, 512, 1024, 1024};

uint64_t ek_tile_bytes(int format, uint64_t columns) {
    if (format == EK_TILE_F32) return ek_times(columns, 4 * EK_ROWS);
    if (format == EK_TILE_F16) return ek_times(columns, 2 * EK_ROWS);
    return ek_times((columns + EK_BLOCK - 1) / EK_BLOCK, (uint64_t)HEAD[format] + BODY[format]);
}

static void put_scales(int format, const ek_block *block, int row, uint8_t *to) {
    uint16_t *halves = (uint16_t *)to;
    float *floats = (float *)to;
    if (HEAD[format] == 256) {
        floats[row] = block->scale[0];
        floats[EK_ROWS + row] = format == EK_TILE_S8H ? block->scale[1] : block->min;
    } else {
        halves[row] = ek_to_half(block->scale[0]);
        if (format == EK_TILE_N4M) halves[EK_ROWS + row] = ek_to_half(block->min);
    }
}

static void put_bytes(const ek_block *block, int row, uint8_t *to) {
    uint32_t *groups = (uint32_t *)to;
    const uint8_t *w = (const uint8_t *)block->w;
    for (int g = 0; g < 8; g++) groups[g * EK_ROWS + row] = ek_native32(w + 4 * g);
}

/* Rows `row` and `row` + 16 share bytes; the second is written after the first. */
static void put_nibbles(const ek_block *block, int row, uint8_t *to) {
    uint32_t *groups = (uint32_t *)to;
    const uint8_t *w = (const uint8_t *)block->w;
    for (int g = 0; g < 8; g++) {
        uint32_t four = ek_native32(w + 4 * g);
        if (row < 16) groups[g * 16 + row] = four;
        else groups[g * 16 + row - 16] |= four << 4;
    }
}

static void pack_floats(const ek_matrix *matrix, const uint8_t *row, int r, uint8_t *tile) {
    for (size_t j = 0; j < matrix->columns; j++) {
        size_t at = j * EK_ROWS + (size_t)r;
        if (matrix->format == EK_TILE_F16) ((uint16_t *)tile)[at] = row ? ek_u16(row + 2 * j) : 0;
        else if (!row) ((float *)tile)[at] = 0;
        else if (matrix->type == EK_TYPE_F32) ((float *)tile)[at] = ek_f32(row + 4 * j);
        else ((float *)tile)[at] = ek_of_bfloat(ek_u16(row + 2 * j));
    }
}

static void pack_blocks(const ek_matrix *matrix, const uint8_t *row, int r, uint8_t *tile) {
    int format = matrix->format, head = HEAD[format];
    ek_block block = {{0}, {0, 0}, 0};
    for (size_t b = 0; b < (matrix->columns + EK_BLOCK - 1) / EK_BLOCK; b++, tile += head + BODY[format]) {
        if (row) ek_unpack(matrix->type, row, b, &block);
        put_scales(format, &block, r, tile);
        if (BODY[format] == 512) put_nibbles(&block, r, tile + head);
        else put_bytes(&block, r, tile + head);
    }
}

void ek_pack_tile(const ek_matrix *matrix, const uint8_t *file, size_t row_bytes, uint32_t t, uint8_t *tile) {
    for (int r = 0; r < EK_ROWS; r++) {
        uint32_t at = t * EK_ROWS + (uint32_t)r;
        const uint8_t *row = at < matrix->rows ? file + (size_t)ek_row_of(at, matrix->head_dim) * row_bytes : NULL;
        if (ek_is_quantized(matrix->format)) pack_blocks(matrix, row, r, tile);
        else pack_floats(matrix, row, r, tile);
    }
}
