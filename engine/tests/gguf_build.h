/* Builds small GGUF files in memory, and remembers where their numbers are; for tests. */
#ifndef EDGEKIT_GGUF_BUILD_H
#define EDGEKIT_GGUF_BUILD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 1;

static inline uint64_t rnd(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint64_t below(uint64_t n) { return n ? rnd() % n : 0; }

enum { MOST_BYTES = 1 << 20, MOST_FIELDS = 4096 };

typedef struct {
    uint8_t bytes[MOST_BYTES];
    size_t size, data; /* data: where tensors begin */
    struct {
        uint32_t at, width;
    } fields[MOST_FIELDS]; /* counts, lengths, types, sizes, offsets and values */
    size_t field_count;
    uint64_t offset; /* of the next tensor */
} built;

static inline void put_number(built *b, uint64_t value, uint32_t width) {
    if (b->field_count < MOST_FIELDS) {
        b->fields[b->field_count].at = (uint32_t)b->size;
        b->fields[b->field_count++].width = width;
    }
    for (uint32_t i = 0; i < width; i++) b->bytes[b->size++] = (uint8_t)(value >> 8 * i);
}

static inline void put_text(built *b, const char *text) {
    put_number(b, strlen(text), 8);
    memcpy(b->bytes + b->size, text, strlen(text));
    b->size += strlen(text);
}

static inline void key_u32(built *b, const char *key, uint32_t value) {
    put_text(b, key);
    put_number(b, 4, 4);
    put_number(b, value, 4);
}

static inline void key_f32(built *b, const char *key, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    put_text(b, key);
    put_number(b, 6, 4);
    put_number(b, bits, 4);
}

static inline void key_text(built *b, const char *key, const char *value) {
    put_text(b, key);
    put_number(b, 8, 4);
    put_text(b, value);
}

static inline void key_texts(built *b, const char *key, uint32_t count) {
    char text[] = "token 00";
    put_text(b, key);
    put_number(b, 9, 4);
    put_number(b, 8, 4);
    put_number(b, count, 8);
    for (uint32_t i = 0; i < count; i++) {
        text[6] = (char)('0' + i / 10);
        text[7] = (char)('0' + i % 10);
        put_text(b, text);
    }
}

static inline uint64_t tensor_bytes(uint32_t type, uint64_t width, uint64_t rows) {
    static const uint32_t sizes[31][2] = {[0] = {1, 4},    [1] = {1, 2},     [2] = {32, 18},   [3] = {32, 20},
                                          [6] = {32, 22},  [7] = {32, 24},   [8] = {32, 34},   [12] = {256, 144},
                                          [13] = {256, 176}, [14] = {256, 210}, [20] = {32, 18}, [30] = {1, 2}};
    return width / sizes[type][0] * sizes[type][1] * rows;
}

static inline void tensor(built *b, const char *name, uint64_t width, uint64_t rows, uint32_t type) {
    put_text(b, name);
    put_number(b, rows ? 2 : 1, 4);
    put_number(b, width, 8);
    if (rows) put_number(b, rows, 8);
    put_number(b, type, 4);
    put_number(b, b->offset, 8);
    b->offset += (tensor_bytes(type, width, rows ? rows : 1) + 31) / 32 * 32;
}

typedef struct {
    uint32_t type, hidden, wide, layers, heads, kv_heads, head_dim, vocabulary;
    int untied, biases, divisors;
} shape;

/* The weights are random bytes: blocks of any scale, infinite and not a number among them. */
static inline void build(built *b, shape s) {
    static const char *const names[9] = {"attn_norm.weight", "attn_q.weight",   "attn_k.weight",
                                         "attn_v.weight",    "attn_output.weight", "ffn_norm.weight",
                                         "ffn_gate.weight",  "ffn_up.weight",   "ffn_down.weight"};
    static const char *const biases[7] = {"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias",
                                          "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"};
    uint32_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    uint32_t widths[9] = {s.hidden, s.hidden, s.hidden, s.hidden, q, s.hidden, s.hidden, s.hidden, s.wide};
    uint32_t rows[9] = {0, q, kv, kv, s.hidden, 0, s.wide, s.wide, s.hidden};
    uint32_t lengths[7] = {q, kv, kv, s.hidden, s.wide, s.wide, s.hidden};
    b->size = b->field_count = b->offset = 0;
    memcpy(b->bytes, "GGUF", b->size = 4);
    put_number(b, 3, 4);
    put_number(b, s.layers * (9u + (s.biases ? 7 : 0)) + 2 + (s.untied != 0) + (s.divisors != 0), 8);
    put_number(b, 13, 8);
    key_text(b, "general.architecture", "llama");
    key_u32(b, "general.alignment", 32);
    key_u32(b, "llama.context_length", 64);
    key_u32(b, "llama.embedding_length", s.hidden);
    key_u32(b, "llama.block_count", s.layers);
    key_u32(b, "llama.feed_forward_length", s.wide);
    key_u32(b, "llama.attention.head_count", s.heads);
    key_u32(b, "llama.attention.head_count_kv", s.kv_heads);
    key_u32(b, "llama.attention.key_length", s.head_dim);
    key_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    key_f32(b, "llama.rope.freq_base", 10000);
    key_text(b, "tokenizer.ggml.model", "llama");
    key_texts(b, "tokenizer.ggml.tokens", 20);
    tensor(b, "token_embd.weight", s.hidden, s.vocabulary, s.type);
    for (uint32_t i = 0; i < s.layers; i++) {
        char name[64] = "blk.0.";
        name[4] = (char)('0' + i);
        for (int k = 0; k < 9; k++) tensor(b, strcpy(name + 6, names[k]) - 6, widths[k], rows[k], rows[k] ? s.type : 0);
        for (int k = 0; s.biases && k < 7; k++) tensor(b, strcpy(name + 6, biases[k]) - 6, lengths[k], 0, 0);
    }
    tensor(b, "output_norm.weight", s.hidden, 0, 0);
    if (s.untied) tensor(b, "output.weight", s.hidden, s.vocabulary, s.type);
    if (s.divisors) tensor(b, "rope_freqs.weight", s.head_dim / 2, 0, 0);
    b->size = b->data = (b->size + 31) / 32 * 32;
    for (uint64_t i = 0; i < b->offset; i++) b->bytes[b->size++] = (uint8_t)rnd();
}

#endif
