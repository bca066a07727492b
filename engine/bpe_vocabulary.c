/* The vocabulary of byte-pair encoding, from a GGUF file's keys: texts, scores or merges, types. */
#include "bpe.h"
#include "tokenizer.h"
#include "unicode.h"

#define BPE_MOST (1u << 22) /* tokens and merges */
#define BPE_MOST_BYTES 0x7FFFFFFFu

ek_text ek_bpe_text(const ek_bpe *bpe, uint32_t id) {
    const uint8_t *string = bpe->texts + bpe->offsets[id];
    ek_text text = {(const char *)string + 8, (size_t)ek_u64(string)};
    return text;
}

uint32_t ek_bpe_type(const ek_bpe *bpe, uint32_t id) {
    return bpe->types ? ek_u32(bpe->types + 4 * (size_t)id) : EK_GGUF_NORMAL;
}

static uint32_t bpe_hash(const uint8_t *text, size_t length) {
    uint32_t hash = EK_HASH;
    for (size_t i = 0; i < length; i++) hash = ek_hash(hash, text[i]);
    return ek_hash_end(hash);
}

/* The id of the text a + b, in place `place` of the hash table or after it. */
static uint32_t bpe_lookup(const ek_bpe *bpe, uint32_t place, const uint8_t *text, size_t length) {
    for (; bpe->table[place]; place = (place + 1) & bpe->mask) {
        ek_text other = ek_bpe_text(bpe, bpe->table[place] - 1);
        size_t same = 0;
        while (other.length == length && same < length && (uint8_t)other.bytes[same] == text[same]) same++;
        if (other.length == length && same == length) return bpe->table[place] - 1;
    }
    return EK_BPE_NONE;
}

uint32_t ek_bpe_find(const ek_bpe *bpe, const uint8_t *text, size_t length) {
    if (length > bpe->longest) return EK_BPE_NONE;
    return bpe_lookup(bpe, bpe_hash(text, length) & bpe->mask, text, length);
}

static int bpe_is_array(const ek_value *value, uint32_t type) { return value->array && value->type == type; }

/* Checks kinds and counts of the keys; bytes of memory of each part. */
int ek_bpe_size(const ek_value *values, size_t *size, ek_error *error) {
    const ek_value *tokens = &values[EK_KEY_TOKENS], *types = &values[EK_KEY_TYPES], *merges = &values[EK_KEY_MERGES];
    const ek_value *scores = &values[EK_KEY_SCORES];
    ek_text model = {(const char *)values[EK_KEY_MODEL].data, values[EK_KEY_MODEL].length};
    int by_score = model.length == 5; /* "llama", not "gpt2" */
    if (!bpe_is_array(tokens, EK_STRING) || !tokens->count)
        return ek_fail(error, EK_DAMAGED, "tokenizer.ggml.tokens is not a list of texts");
    if (tokens->count > BPE_MOST || merges->count > BPE_MOST || tokens->length > BPE_MOST_BYTES)
        return ek_fail(error, EK_UNSUPPORTED, "a tokenizer of %u tokens and %u merges", tokens->count, merges->count);
    if (types->type != EK_ABSENT && (!bpe_is_array(types, EK_INT32) || types->count != tokens->count))
        return ek_fail(error, EK_DAMAGED, "tokenizer.ggml.token_type does not have one type for each token");
    if (by_score && (!bpe_is_array(scores, EK_FLOAT32) || scores->count != tokens->count))
        return ek_fail(error, EK_DAMAGED, "tokenizer.ggml.scores does not have one score for each token");
    if (!by_score && !bpe_is_array(merges, EK_STRING))
        return ek_fail(error, EK_DAMAGED, "tokenizer.ggml.merges is missing or not a list of pairs");
    size_t count = (size_t)tokens->count, merge_count = by_score ? 0 : (size_t)merges->count;
    *size = sizeof(uint32_t) * (count + ek_table_size(count) + 3 * merge_count + ek_table_size(merge_count));
    return EK_OK;
}

static int bpe_add_texts(ek_bpe *bpe, const ek_value *tokens, ek_error *error) {
    ek_strings strings = ek_value_strings(tokens);
    const char *bytes;
    size_t length;
    for (uint32_t id = 0; ek_next_string(&strings, &bytes, &length); id++) {
        bpe->offsets[id] = (uint32_t)((const uint8_t *)bytes - 8 - tokens->data);
        uint32_t hash = bpe_hash((const uint8_t *)bytes, length), place = hash & bpe->mask;
        if (length > bpe->longest) bpe->longest = (uint32_t)length;
        if (bpe_lookup(bpe, place, (const uint8_t *)bytes, length) != EK_BPE_NONE)
            return ek_fail(error, EK_DAMAGED, "token %u has the text of another one", (uint64_t)id);
        while (bpe->table[place]) place = (place + 1) & bpe->mask;
        bpe->table[place] = id + 1;
    }
    return EK_OK;
}

static uint32_t bpe_pair_place(const ek_bpe *bpe, uint32_t left, uint32_t right) {
    return ek_hash_end(left * 0x9E3779B1u + right * 0x85EBCA77u) & bpe->merge_mask;
}

uint32_t ek_bpe_rank(const ek_bpe *bpe, uint32_t left, uint32_t right) {
    if (left == EK_BPE_NONE || right == EK_BPE_NONE) return EK_BPE_NONE;
    for (uint32_t place = bpe_pair_place(bpe, left, right); bpe->merges[place];
         place = (place + 1) & bpe->merge_mask) {
        uint32_t rank = bpe->merges[place] - 1;
        if (bpe->left[rank] == left && bpe->right[rank] == right) return rank;
    }
    return EK_BPE_NONE;
}

static int bpe_add_merges(ek_bpe *bpe, const ek_value *merges, ek_error *error) {
    ek_strings strings = ek_value_strings(merges);
    const char *bytes;
    size_t length;
    for (uint32_t rank = 0; ek_next_string(&strings, &bytes, &length); rank++) {
        const uint8_t *text = (const uint8_t *)bytes;
        size_t split = 1;
        while (split < length && text[split] != ' ') split++;
        if (split >= length) return ek_fail(error, EK_DAMAGED, "merge %u is not a pair", (uint64_t)rank);
        bpe->left[rank] = ek_bpe_find(bpe, text, split);
        bpe->right[rank] = ek_bpe_find(bpe, text + split + 1, length - split - 1);
        uint32_t hash = EK_HASH;
        for (size_t i = 0; i < length; i++)
            if (i != split) hash = ek_hash(hash, text[i]);
        bpe->result[rank] = EK_BPE_NONE;
        for (uint32_t place = ek_hash_end(hash) & bpe->mask; bpe->table[place]; place = (place + 1) & bpe->mask) {
            ek_text other = ek_bpe_text(bpe, bpe->table[place] - 1);
            size_t same = 0;
            if (other.length != length - 1) continue;
            while (same + 1 < length && (uint8_t)other.bytes[same] == text[same + (same >= split)]) same++;
            if (same + 1 == length) bpe->result[rank] = bpe->table[place] - 1;
        }
        if (bpe->left[rank] == EK_BPE_NONE || bpe->right[rank] == EK_BPE_NONE || bpe->result[rank] == EK_BPE_NONE)
            return ek_fail(error, EK_UNSUPPORTED, "merge %u joins or makes a text that is not a token", (uint64_t)rank);
        if (ek_bpe_rank(bpe, bpe->left[rank], bpe->right[rank]) != EK_BPE_NONE) continue; /* the first counts */
        uint32_t place = bpe_pair_place(bpe, bpe->left[rank], bpe->right[rank]);
        while (bpe->merges[place]) place = (place + 1) & bpe->merge_mask;
        bpe->merges[place] = rank + 1;
    }
    return EK_OK;
}

/* GPT-2's table: printable bytes are written as themselves, the others as characters from U+0100 on. */
static uint32_t bpe_char_of_byte(uint32_t byte) {
    if (byte >= 0x21 && byte <= 0x7E) return byte;
    if (byte >= 0xA1 && byte != 0xAD) return byte;
    return byte < 0x21 ? 0x100 + byte : byte < 0xA1 ? 0x121 + byte - 0x7F : 0x143;
}

static int bpe_byte_of_char(uint32_t point) {
    if (point < 0x100) return bpe_char_of_byte(point) == point ? (int)point : -1;
    if (point < 0x121) return (int)(point - 0x100);
    if (point < 0x143) return (int)(point - 0x121 + 0x7F);
    return point == 0x143 ? 0xAD : -1;
}

size_t ek_bpe_spell_byte(uint8_t byte, uint8_t out[2]) {
    uint32_t point = bpe_char_of_byte(byte);
    out[0] = (uint8_t)(point < 0x80 ? point : 0xC0 | point >> 6);
    out[1] = (uint8_t)(0x80 | (point & 0x3F));
    return point < 0x80 ? 1 : 2;
}

static void bpe_find_bytes(ek_bpe *bpe) {
    static const char digits[] = "0123456789ABCDEF";
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint8_t text[6] = {'<', '0', 'x', (uint8_t)digits[byte >> 4], (uint8_t)digits[byte & 15], '>'};
        uint8_t single[2] = {(uint8_t)byte, 0};
        bpe->bytes[byte] = bpe->by_score ? ek_bpe_find(bpe, text, 6) : EK_BPE_NONE;
        if (bpe->bytes[byte] == EK_BPE_NONE)
            bpe->bytes[byte] = ek_bpe_find(bpe, single, bpe->by_score ? 1 : ek_bpe_spell_byte((uint8_t)byte, single));
    }
}

int ek_bpe_open(ek_bpe *bpe, const ek_value *values, void *memory, ek_error *error) {
    size_t size, count = (size_t)values[EK_KEY_TOKENS].count;
    int status = ek_bpe_size(values, &size, error);
    if (status) return status;
    uint32_t *at = memory;
    for (size_t i = 0; i < size / sizeof *at; i++) at[i] = 0;
    bpe->by_score = values[EK_KEY_MODEL].length == 5;
    bpe->count = (uint32_t)count;
    bpe->merge_count = bpe->by_score ? 0 : (uint32_t)values[EK_KEY_MERGES].count;
    bpe->texts = values[EK_KEY_TOKENS].data;
    bpe->types = values[EK_KEY_TYPES].type == EK_ABSENT ? NULL : values[EK_KEY_TYPES].data;
    bpe->scores = bpe->by_score ? values[EK_KEY_SCORES].data : NULL;
    bpe->offsets = at;
    bpe->table = bpe->offsets + count;
    bpe->mask = (uint32_t)ek_table_size(count) - 1;
    bpe->left = bpe->table + ek_table_size(count);
    bpe->right = bpe->left + bpe->merge_count;
    bpe->result = bpe->right + bpe->merge_count;
    bpe->merges = bpe->result + bpe->merge_count;
    bpe->merge_mask = (uint32_t)ek_table_size(bpe->merge_count) - 1;
    status = bpe_add_texts(bpe, &values[EK_KEY_TOKENS], error);
    if (!status && !bpe->by_score) status = bpe_add_merges(bpe, &values[EK_KEY_MERGES], error);
    if (!status) bpe_find_bytes(bpe);
    return status;
}

/* SentencePiece: a byte token, or the text with its marks of spaces as spaces. */
static size_t bpe_scored_piece(const ek_bpe *bpe, uint32_t id, ek_text text, uint8_t *out) {
    const uint8_t *bytes = (const uint8_t *)text.bytes;
    if (ek_bpe_type(bpe, id) == EK_GGUF_BYTE && text.length == 6) {
        for (uint32_t byte = 0; byte < 256; byte++)
            if (bpe->bytes[byte] == id) {
                out[0] = (uint8_t)byte;
                return 1;
            }
    }
    size_t size = 0;
    for (size_t i = 0; i < text.length; i++) {
        if (i + 2 < text.length && bytes[i] == 0xE2 && bytes[i + 1] == 0x96 && bytes[i + 2] == 0x81) {
            out[size++] = ' ';
            i += 2;
        } else {
            out[size++] = bytes[i];
        }
    }
    return size;
}

/* GPT-2: the bytes that the characters stand for. False if one of them stands for none. */
static int bpe_spelled_piece(ek_text text, uint8_t *out, size_t *size) {
    const uint8_t *bytes = (const uint8_t *)text.bytes;
    uint32_t point;
    *size = 0;
    for (size_t i = 0; i < text.length;) {
        i += ek_utf8_read(bytes + i, text.length - i, &point);
        int byte = bpe_byte_of_char(point);
        if (byte < 0) return 0;
        out[(*size)++] = (uint8_t)byte;
    }
    return 1;
}

size_t ek_bpe_piece(const ek_bpe *bpe, uint32_t id, uint8_t *out) {
    ek_text text = ek_bpe_text(bpe, id);
    size_t size;
    if (bpe->by_score) return bpe_scored_piece(bpe, id, text, out);
    if (bpe_spelled_piece(text, out, &size)) return size;
    for (size = 0; size < text.length; size++) out[size] = (uint8_t)text.bytes[size];
    return size;
}
