/* The cache of keys and values, and attention: the same products of tiles as those of weights. */
#include "model.h"

static float clamped(float x) {
    x = x < 65504.0f ? x : 65504.0f;
    return x > -65504.0f ? x : -65504.0f;
}

static void append_key(const ek_model *m, const float *key, size_t position, uint8_t *head) {
    uint8_t *tile = head + position / EK_ROWS * m->key_tile;
    size_t row = position % EK_ROWS;
    uint32_t width = m->info.head_dim;
    for (uint32_t i = 0; m->kv == EK_KV_F32 && i < width; i++) ((float *)tile)[i * EK_ROWS + row] = key[i];
    for (uint32_t i = 0; m->kv == EK_KV_F16 && i < width; i++)
        ((uint16_t *)tile)[i * EK_ROWS + row] = ek_to_half(clamped(key[i]));
    for (uint32_t at = 0; m->kv == EK_KV_I8 && at < width; at += EK_BLOCK, tile += 64 + 1024) {
        int8_t q[EK_BLOCK];
        float d, s;
        int32_t sum;
        m->kernels->quantize(key + at, width - at < EK_BLOCK ? width - at : EK_BLOCK, q, &d, &s, &sum);
        ((uint16_t *)tile)[row] = ek_to_half(clamped(d));
        uint32_t *groups = (uint32_t *)(tile + 64);
        for (int g = 0; g < 8; g++) groups[g * EK_ROWS + row] = ek_native32((const uint8_t *)q + 4 * g);
    }
}

/* One scale for a whole value: m, inv and d as in quantizing a block. */
static void append_value_i8(const ek_model *m, const float *value, size_t position, uint8_t *head, float *scale) {
    uint32_t largest = 0, width = m->info.head_dim;
    for (uint32_t i = 0; i < width; i++) {
        uint32_t magnitude = ek_bits(value[i]) & 0x7fffffffu;
        if (magnitude > largest) largest = magnitude;
    }
    int finite = largest < 0x7f800000u;
    float most = ek_float(largest), inverse = most >= 0x1p-100f ? 127.0f / most : 0.0f;
    *scale = finite ? most * (1.0f / 127.0f) : most;
    int8_t *column = (int8_t *)head + position / EK_BLOCK * 1024 + position % EK_BLOCK / 4 * 128 + position % 4;
    for (uint32_t i = 0; i < width; i++)
        column[i / EK_ROWS * m->value_tile + i % EK_ROWS * 4] =
            finite ? (int8_t)((value[i] * inverse + EK_MAGIC) - EK_MAGIC) : 0;
}

static void append_value(const ek_model *m, const float *value, size_t position, uint8_t *head) {
    for (uint32_t i = 0; i < m->info.head_dim; i++) {
        uint8_t *tile = head + i / EK_ROWS * m->value_tile;
        size_t at = position * EK_ROWS + i % EK_ROWS;
        if (m->kv == EK_KV_F32) ((float *)tile)[at] = value[i];
        else ((uint16_t *)tile)[at] = ek_to_half(clamped(value[i]));
    }
}

void ek_append(const ek_pass *pass, const ek_layer *layer, uint32_t from, uint32_t to) {
    const ek_model *m = pass->model;
    for (uint32_t h = from; h < to; h++) {
        uint8_t *keys = layer->keys + h * m->key_head, *values = layer->values + h * m->value_head;
        for (size_t i = 0; i < pass->n; i++) {
            size_t position = pass->past + i, at = i * m->kv_stride + h * m->info.head_dim;
            append_key(m, m->k + at, position, keys);
            if (m->kv == EK_KV_I8)
                append_value_i8(m, m->v + at, position, values, layer->value_scales + h * m->context + position);
            else
                append_value(m, m->v + at, position, values);
        }
    }
}

/* Query heads that share a key head, for each token: columns [from, to) of token * group + head. */
static void attend_columns(const ek_pass *pass, const ek_layer *layer, ek_scratch *scratch, uint32_t head, size_t from,
                           size_t to) {
    const ek_model *m = pass->model;
    uint32_t width = m->info.head_dim, group = m->info.heads / m->info.kv_heads;
    size_t n = to - from, longest = pass->past + (to - 1) / group + 1, stride = scratch->weights.stride;
    const float *scales = layer->value_scales ? layer->value_scales + head * m->context : NULL;
    for (size_t c = 0; c < n; c++) {
        size_t i = (from + c) / group, j = (from + c) % group;
        const float *query = m->q + i * m->q_stride + (head * group + j) * width;
        for (uint32_t k = 0; k < width; k++) scratch->query.f[c * scratch->query.stride + k] = query[k];
    }
    ek_prepare(m, &scratch->query, 1u << m->key_format, width, 0, n);
    ek_columns x = ek_columns_of(&scratch->query, 0);
    m->kernels->product[m->key_format](layer->keys + head * m->key_head, m->key_tile, ek_padded(longest) / EK_ROWS, width,
                                       &x, n, scratch->weights.f, stride);
    for (size_t c = 0; c < n; c++) {
        size_t length = pass->past + (from + c) / group + 1;
        float *scores = scratch->weights.f + c * stride;
        m->kernels->softmax(scores, length, scales);
        for (size_t k = length; k < longest; k++) scores[k] = 0;
    }
    ek_prepare(m, &scratch->weights, 1u << m->value_format, longest, 0, n);
    x = ek_columns_of(&scratch->weights, 0);
    size_t padded = ek_padded(width);
    m->kernels->product[m->value_format](layer->values + head * m->value_head, m->value_tile, padded / EK_ROWS, longest,
                                         &x, n, scratch->mixed, padded);
    for (size_t c = 0; c < n; c++) {
        size_t i = (from + c) / group, j = (from + c) % group;
        float *out = m->mixed + i * m->q_stride + (head * group + j) * width;
        for (uint32_t k = 0; k < width; k++) out[k] = scratch->mixed[c * padded + k];
    }
}

void ek_attend(const ek_pass *pass, const ek_layer *layer, ek_scratch *scratch, uint32_t from, uint32_t to, size_t first) {
    size_t group = pass->model->info.heads / pass->model->info.kv_heads, end = pass->n * group;
    for (uint32_t h = from; h < to; h++)
        for (size_t at = first * group; at < end; at += EK_MIXING)
            attend_columns(pass, layer, scratch, h, at, end - at < EK_MIXING ? end : at + EK_MIXING);
}
