/* The cache of keys and values as bytes: a header, then for each layer and head the keys' tiles, the values' columns and
 * their scales, without what lies beyond the length. The layout is that of memory; numbers are little endian on every
 * processor that the engine is tested on. */
#include "model.h"

#define HEADER 32

typedef struct {
    uint8_t *bytes;
    size_t at;
} writer;

/* Which file and cache the bytes belong to: the shape and samples of the weights. */
static uint64_t fingerprint(const ek_model *m) {
    const ek_info *i = &m->info;
    uint64_t hash = 0xcbf29ce484222325u;
    uint64_t numbers[] = {1, i->vocabulary, i->hidden, i->intermediate, i->layers, i->heads, i->kv_heads, i->head_dim,
                          m->kv, m->file.size, ek_bits(i->rope_theta), ek_bits(i->rope_factor), ek_bits(i->epsilon)};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) hash = (hash ^ numbers[k]) * 0x100000001b3u;
    size_t step = (m->file.size - m->file.data) / 4096 + 1;
    for (size_t at = m->file.data; at < m->file.size; at += step) hash = (hash ^ m->file.bytes[at]) * 0x100000001b3u;
    return hash;
}

static void put32(uint8_t *to, uint32_t value) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> 8 * i);
}

static size_t column_bytes(const ek_model *m) { /* of a value tile, for a position */
    return m->kv == EK_KV_F32 ? 4 * EK_ROWS : m->kv == EK_KV_F16 ? 2 * EK_ROWS : EK_ROWS;
}

static size_t value_columns(const ek_model *m) { return m->kv == EK_KV_I8 ? ek_padded(m->length) : m->length; }

size_t ek_state_size(const ek_model *m) {
    size_t keys = ek_padded(m->length) / EK_ROWS * m->key_tile;
    size_t values = ek_padded(m->info.head_dim) / EK_ROWS * value_columns(m) * column_bytes(m);
    size_t scales = m->kv == EK_KV_I8 ? 4 * m->length : 0;
    return HEADER + (size_t)m->info.layers * m->info.kv_heads * (keys + values + scales);
}

static void copy(uint8_t *to, const uint8_t *from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = from[i];
}

/* Calls `move` for the pieces of the cache in the order of the file. */
typedef void mover(writer *w, uint8_t *piece, size_t count);

static void save_piece(writer *w, uint8_t *piece, size_t count) {
    copy(w->bytes + w->at, piece, count);
    w->at += count;
}

static void load_piece(writer *w, uint8_t *piece, size_t count) {
    copy(piece, w->bytes + w->at, count);
    w->at += count;
}

static void walk_cache(const ek_model *m, writer *w, mover *move) {
    size_t tiles = ek_padded(m->info.head_dim) / EK_ROWS;
    for (uint32_t i = 0; i < m->info.layers; i++)
        for (uint32_t h = 0; h < m->info.kv_heads; h++) {
            const ek_layer *layer = &m->layers[i];
            move(w, layer->keys + h * m->key_head, ek_padded(m->length) / EK_ROWS * m->key_tile);
            for (size_t t = 0; t < tiles; t++)
                move(w, layer->values + h * m->value_head + t * m->value_tile, value_columns(m) * column_bytes(m));
            if (layer->value_scales) move(w, (uint8_t *)(layer->value_scales + h * m->context), 4 * m->length);
        }
}

/* Zeros in the rows and columns of the last tiles that hold no position yet, so that equal caches have equal bytes. */
static void clear_beyond(const ek_model *m, ek_layer *layer, uint32_t h) {
    uint8_t *tile = layer->keys + h * m->key_head + m->length / EK_ROWS * m->key_tile;
    size_t used = m->length % EK_ROWS, width = m->info.head_dim, blocks = ek_padded(width) / EK_BLOCK;
    for (size_t r = used; r < EK_ROWS; r++) {
        for (size_t k = 0; m->kv == EK_KV_F32 && k < width; k++) ((float *)tile)[k * EK_ROWS + r] = 0;
        for (size_t k = 0; m->kv == EK_KV_F16 && k < width; k++) ((uint16_t *)tile)[k * EK_ROWS + r] = 0;
        for (size_t b = 0; m->kv == EK_KV_I8 && b < blocks; b++) {
            uint8_t *block = tile + b * (64 + 1024);
            ((uint16_t *)block)[r] = 0;
            for (int g = 0; g < 8; g++) ((uint32_t *)(block + 64))[g * EK_ROWS + r] = 0;
        }
    }
    for (size_t t = 0; m->kv == EK_KV_I8 && t < ek_padded(width) / EK_ROWS; t++) {
        uint8_t *block = layer->values + h * m->value_head + t * m->value_tile + m->length / EK_BLOCK * 1024;
        for (size_t k = 0; k < 1024; k++)
            if (k / 128 * 4 + k % 4 >= used) block[k] = 0;
    }
}

int ek_state_save(const ek_model *m, void *bytes, size_t size) {
    if (!bytes || size < ek_state_size(m)) return EK_MEMORY;
    writer w = {bytes, HEADER};
    uint64_t print = fingerprint(m);
    for (size_t i = 0; i < HEADER; i++) w.bytes[i] = 0;
    put32(w.bytes, 0x31534b45u); /* "EKS1" */
    put32(w.bytes + 4, (uint32_t)m->length);
    put32(w.bytes + 8, (uint32_t)print);
    put32(w.bytes + 12, (uint32_t)(print >> 32));
    for (uint32_t i = 0; m->length % EK_ROWS && i < m->info.layers; i++)
        for (uint32_t h = 0; h < m->info.kv_heads; h++) clear_beyond(m, &m->layers[i], h);
    walk_cache(m, &w, save_piece);
    return EK_OK;
}

int ek_state_load(ek_model *m, const void *bytes, size_t size) {
    writer w = {(uint8_t *)bytes, HEADER};
    m->length = 0;
    if (!bytes || size < HEADER || ek_u32(w.bytes) != 0x31534b45u || ek_u64(w.bytes + 8) != fingerprint(m))
        return EK_DAMAGED;
    if (ek_u32(w.bytes + 4) > m->context) return EK_CONTEXT;
    m->length = ek_u32(w.bytes + 4);
    if (size == ek_state_size(m)) {
        walk_cache(m, &w, load_piece);
        return EK_OK;
    }
    m->length = 0;
    return EK_DAMAGED;
}
