/* TokenMonster vocabularies: reading, and the choice of tokens. Not for the engine's users. */
#ifndef EDGEKIT_TOKENMONSTER_H
#define EDGEKIT_TOKENMONSTER_H

#include "internal.h"

#define EK_TM_NONE 0xFFFFFFu
#define EK_TM_LONGEST 40

/* Flags of a record. */
enum { EK_TM_ENDS_LETTER = 1, EK_TM_BEGINS_LETTER = 2, EK_TM_BEGINS_SPACE = 4, EK_TM_ENDS_MARKER = 8,
       EK_TM_BEGINS_MARKER = 16, EK_TM_WHOLE_WORD = 32, EK_TM_SPECIAL = 64, EK_TM_UNIFORM = 128 };

/* A token as the file stores it, ready for the encoder. */
typedef struct {
    uint32_t offset;      /* of its bytes in the file */
    uint32_t id;
    int32_t shorter[2];   /* records that are prefixes of it, or -1 */
    int16_t first, second; /* its score as the first and as the second of two, as far as it depends on nothing else */
    uint8_t length, flags, words, duplicate;
} ek_tm_record;

/* A node of the trie: `base << 9 | label + 1`, and the longest record that ends on the way here, or -1. The child by
 * byte c is node base + c, if its label is c; no two nodes have the same base. */
typedef struct {
    uint32_t link;
    int32_t record;
} ek_tm_node;

/* Compact: `pieces` alone is in memory. Records are read from the file, where those of a length have the same size, and
 * are searched for by halving; `records`, `trie`, `bases` and `order` are NULL. */
typedef struct {
    const uint8_t *file;
    uint32_t count, table_size, unk, delete_token;
    unsigned level, charset, flags;
    ek_tm_record *records;
    ek_tm_node *trie;
    uint32_t nodes;     /* for which there is memory */
    void *pieces;       /* table_size: the record whose bytes an id decodes to, see ek_tm_piece */
    uint32_t narrow;    /* 1: `pieces` has 16 bits each, 0: 32 */
    int32_t *bases;     /* table_size: its record without an added marker, or -1 */
    uint32_t *order;    /* 2 * count: records by their bytes; only used while opening */
    const uint8_t *silent;               /* compact: as given to ek_vocabulary_index */
    uint32_t firsts[EK_TM_LONGEST + 2]; /* the first record of at least that length */
    uint32_t places[EK_TM_LONGEST + 2]; /* where it is in the file */
    uint8_t follow[256]; /* classes of bytes: 0 undecided, 1 letter, 2 other, 3 space */
} ek_vocabulary;

/* Reads the header and the lengths of the records. Returns the bytes of memory that `ek_vocabulary_open` needs. */
int ek_vocabulary_size(const uint8_t *file, size_t length, int compact, size_t *size, ek_error *error);
/* `memory` is aligned to 8 bytes and holds the size that `ek_vocabulary_size` returned without an error. */
int ek_vocabulary_open(ek_vocabulary *vocabulary, const uint8_t *file, size_t length, int compact, void *memory,
                       ek_error *error);
/* Builds the trie of the records that are not `silent` (table_size bytes, not 0 for ids that text never becomes; may
 * be NULL). Alternatives that are silent are removed. Compact: builds nothing, and keeps `silent`. */
int ek_vocabulary_index(ek_vocabulary *vocabulary, const uint8_t *silent, ek_error *error);

/* tokenmonster_record.c: a record; the one whose bytes an id decodes to, and the id's without an added marker, or -1; the
 * record of these bytes that text may become, or -1. */
ek_tm_record ek_tm_at(const ek_vocabulary *vocabulary, uint32_t index);
ek_tm_record ek_tm_read(const ek_vocabulary *vocabulary, uint32_t index); /* from the file */
int32_t ek_tm_piece(const ek_vocabulary *vocabulary, uint32_t id);
void ek_tm_set_piece(ek_vocabulary *vocabulary, uint32_t id, int32_t record);
int32_t ek_tm_base(const ek_vocabulary *vocabulary, uint32_t id);
int32_t ek_tm_find(const ek_vocabulary *vocabulary, const uint8_t *bytes, size_t length);

static inline uint32_t ek_tm_u24(const uint8_t *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16;
}

/* Compares two tokens as bytes. */
static inline int ek_tm_compare(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length) {
    for (size_t i = 0; i < a_length && i < b_length; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return a_length < b_length ? -1 : a_length > b_length;
}

/* Where ids go: beyond the capacity they are only counted. */
typedef struct {
    uint32_t *ids;
    size_t capacity, count;
} ek_ids;

static inline void ek_ids_add(ek_ids *out, uint32_t id) {
    if (out->count < out->capacity) out->ids[out->count] = id;
    out->count++;
}

/* `work` is used for a vocabulary with byte flags only: length + 1 bytes. */
void ek_vocabulary_encode(const ek_vocabulary *vocabulary, const uint8_t *text, size_t length, uint8_t *work,
                          ek_ids *out);

#endif
