/* The parts of a tokenizer. Not for the engine's users. */
#ifndef EDGEKIT_TOKENIZER_H
#define EDGEKIT_TOKENIZER_H

#include "bpe.h"
#include "tokenmonster.h"

/* The spelling of a special token. */
typedef struct {
    const uint8_t *bytes;
    uint32_t length, id;
} ek_special;

/* Spellings are found by their hash, for each length that one of them has. */
#define EK_SPECIAL_LONGEST 255

typedef struct {
    ek_special *items;
    uint32_t count, capacity;
    uint32_t *table; /* hash table of item + 1 */
    uint32_t mask;
    uint8_t firsts[32], lengths[32]; /* bits: bytes that a spelling begins with, lengths of spellings */
} ek_specials;

struct ek_tokenizer {
    ek_tokenizer_info info;
    uint8_t *types; /* vocabulary: bits of ek_token_type */
    ek_specials parsed; /* with EK_PARSE_SPECIALS */
    ek_specials always; /* added tokens of BPE that are not special: text becomes them whatever the flags */
    ek_vocabulary monster;
    ek_bpe bpe;
};

/* Adds a spelling; one that is too long, empty or known is left out. */
void ek_specials_add(ek_specials *specials, const uint8_t *bytes, size_t length, uint32_t id);
/* The longest spelling at the beginning of a text, or NULL. */
const ek_special *ek_specials_find(const ek_specials *specials, const uint8_t *text, size_t length);

/* Values of a GGUF file's keys. */
enum {
    EK_KEY_MODEL, EK_KEY_PRE, EK_KEY_TOKENS, EK_KEY_TYPES, EK_KEY_SCORES, EK_KEY_MERGES, EK_KEY_BOS, EK_KEY_EOS,
    EK_KEY_EOT, EK_KEY_EOM, EK_KEY_UNKNOWN, EK_KEY_ADD_BOS, EK_KEY_SPACE_PREFIX, EK_KEY_VOCAB, EK_KEY_CONFIG,
    EK_KEY_GENERATION, EK_KEY_TOKENIZER_CONFIG, EK_KEY_VOCAB_SIZE, EK_KEYS
};

/* An id under a key, or `missing`. */
int64_t ek_key_id(const ek_value *values, int key, int64_t missing);

/* Marks the ids that end a text, as edgekit's Python does; `accept` says which ids may. */
typedef int ek_accept_id(const ek_tokenizer *tokenizer, uint64_t id);
void ek_find_stops(ek_tokenizer *tokenizer, const ek_value *values, ek_accept_id *accept);

#endif
