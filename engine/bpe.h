/* Byte-pair encoding: SentencePiece's (by score) and GPT-2's (by rank). Not for the engine's users. */
#ifndef EDGEKIT_BPE_H
#define EDGEKIT_BPE_H

#include "bytes.h"
#include "tokenmonster.h"

/* How a text is split into words. */
typedef enum { EK_PRE_GPT2, EK_PRE_SMOLLM, EK_PRE_LLAMA, EK_PRE_QWEN2, EK_PRE_GPT4O, EK_PRE_TEKKEN, EK_PRE_DEFAULT } ek_pre;

/* Types of tokens in a GGUF file. */
enum { EK_GGUF_NORMAL = 1, EK_GGUF_UNKNOWN, EK_GGUF_CONTROL, EK_GGUF_USER_DEFINED, EK_GGUF_UNUSED, EK_GGUF_BYTE };

#define EK_BPE_NONE 0xFFFFFFFFu

typedef struct {
    int by_score;        /* SentencePiece */
    int whole_words;     /* a word that is a token is taken as it is, whatever the merges */
    int space_prefix;    /* SentencePiece: a text begins with a space that it does not have */
    ek_pre pre;
    uint32_t count, merge_count, longest, unknown;
    const uint8_t *texts;  /* strings of the GGUF file */
    const uint8_t *scores; /* float32, for SentencePiece */
    const uint8_t *types;  /* int32, or NULL */
    uint32_t *offsets;     /* count: of the strings in `texts` */
    uint32_t *table;       /* hash table of texts: id + 1 */
    uint32_t mask;
    uint32_t *left, *right, *result; /* merge_count: ids */
    uint32_t *merges;                /* hash table of pairs: rank + 1 */
    uint32_t merge_mask;
    uint32_t bytes[256]; /* ids of single bytes, or EK_BPE_NONE */
} ek_bpe;

ek_text ek_bpe_text(const ek_bpe *bpe, uint32_t id);
uint32_t ek_bpe_type(const ek_bpe *bpe, uint32_t id);
/* The id of a text, or EK_BPE_NONE. */
uint32_t ek_bpe_find(const ek_bpe *bpe, const uint8_t *text, size_t length);

/* The rank of the merge of two ids, or EK_BPE_NONE. */
uint32_t ek_bpe_rank(const ek_bpe *bpe, uint32_t left, uint32_t right);
/* The character that stands for a byte in GPT-2's vocabularies; returns its length, 1 or 2. */
size_t ek_bpe_spell_byte(uint8_t byte, uint8_t out[2]);

int ek_bpe_size(const ek_value *values, size_t *size, ek_error *error);
int ek_bpe_open(ek_bpe *bpe, const ek_value *values, void *memory, ek_error *error);

size_t ek_bpe_work(const ek_bpe *bpe, size_t length);
void ek_bpe_encode(const ek_bpe *bpe, const uint8_t *text, size_t length, uint8_t *work, ek_ids *out);
/* The bytes that a token prints; `out` has at least as many bytes as its text. */
size_t ek_bpe_piece(const ek_bpe *bpe, uint32_t id, uint8_t *out);

/* The end of the word that begins at text[place], place < length. */
size_t ek_pre_word(ek_pre pre, const uint8_t *text, size_t place, size_t length);
/* A pre-tokenizer by its name in GGUF files; *whole_words as in ek_bpe. False if it is not known. */
int ek_pre_by_name(ek_text name, ek_pre *pre, int *whole_words);

#define EK_HASH 2166136261u
static inline uint32_t ek_hash(uint32_t hash, uint8_t byte) { return (hash ^ byte) * 16777619u; }
/* Spreads the entropy of a hash to its low bits. */
static inline uint32_t ek_hash_end(uint32_t hash) { return (hash ^ hash >> 15) * 0x2C1B3C6Du ^ hash >> 12; }

/* The smallest power of two that leaves half of a hash table free. */
static inline size_t ek_table_size(size_t count) {
    size_t size = 4;
    while (size < 2 * count) size *= 2;
    return size;
}

#endif
