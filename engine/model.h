/* An open model: where everything lies in the caller's block. Not for users of the engine. */
#ifndef EDGEKIT_MODEL_H
#define EDGEKIT_MODEL_H

#include "config.h"
#include "quant.h"
#include "schedule.h"

#define EK_MOST_BATCH 64
#define EK_MOST_CONTEXT (1u << 24) /* positions are exact floats */
#define EK_MIXING 16               /* columns of attention's products at most */

/* Room for columns of activations in every form. */
typedef struct {
    float *f, *h, *d, *s;
    int8_t *q;
    int32_t *sum;
    size_t stride;
} ek_buffer;

/* A thread's own. */
typedef struct {
    ek_buffer input;   /* (batch, the widest matrix): inputs of products */
    ek_buffer query;   /* (columns, head_dim), columns: those of attention */
    ek_buffer weights; /* (columns, context): scores, then probabilities */
    float *mixed;      /* (columns, head_dim padded to EK_ROWS) */
    uint64_t phase;    /* of which `input` is */
} ek_scratch;

typedef struct {
    const float *vector[EK_LAYER_TENSORS]; /* norms and biases by place; NULL: none */
    ek_matrix matrix[EK_LAYER_REQUIRED];   /* by place */
    uint8_t *keys;       /* (kv_heads, context / 32 tiles): rows are positions, columns the numbers of a key */
    uint8_t *values;     /* (kv_heads, head_dim / 32 tiles): rows are the numbers of a value, columns positions */
    float *value_scales; /* int8: (kv_heads, context) */
} ek_layer;

struct ek_model {
    ek_info info;
    ek_file file;
    const ek_kernels *kernels;
    ek_threads *threads; /* NULL: one */
    uint32_t thread_count, context, batch, kv, direct;
    size_t length;   /* tokens in the cache */
    uint64_t passes; /* begun */

    ek_layer *layers;
    ek_matrix embedding, output; /* embedding: always the file's bytes */
    const float *output_norm;
    float *frequencies; /* (head_dim / 2) radians per position */

    int key_format, value_format;
    size_t key_tile, key_head;     /* bytes of a tile, and of all tiles of a head */
    size_t value_tile, value_head;
    uint32_t unit; /* key heads that a thread takes at once: the fewest whose rows are whole tiles */

    /* Shared by the threads: (batch, width padded to EK_ROWS). */
    float *x, *rope, *q, *k, *v, *mixed, *gate, *up, *out;
    size_t hidden_stride, q_stride, kv_stride, wide_stride;
    ek_scratch *scratch; /* one for each thread */
};

/* Tokens that go through the layers at once. */
typedef struct {
    ek_job job; /* the first: a pointer to it is one to the pass */
    ek_model *model;
    size_t n;      /* columns */
    size_t past;   /* tokens in the cache before them */
    float *logits; /* NULL: none */
    int every;
} ek_pass;

static inline size_t ek_padded(size_t n) { return (n + EK_ROWS - 1) / EK_ROWS * EK_ROWS; }

/* Columns [from, ...) of a buffer. */
static inline ek_columns ek_columns_of(const ek_buffer *b, size_t from) {
    size_t at = from * b->stride, block = at / EK_BLOCK;
    return (ek_columns){b->f + at, b->h + at, b->q + at, b->d + block, b->s + block, b->sum + block, b->stride};
}

/* Fills in the forms of columns [from, to) of `width` numbers that formats (bits 1 << EK_TILE_*) read beside f. */
void ek_prepare(const ek_model *model, const ek_buffer *buffer, uint32_t formats, size_t width, size_t from, size_t to);

/* attention.c: for the key heads [from, to). */
void ek_append(const ek_pass *pass, const ek_layer *layer, uint32_t from, uint32_t to);
void ek_attend(const ek_pass *pass, const ek_layer *layer, ek_scratch *scratch, uint32_t from, uint32_t to, size_t first);

#endif
