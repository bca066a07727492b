/* Damaged tokenizer files and hostile texts, for AddressSanitizer and UndefinedBehaviorSanitizer.
 *
 *     build/checked/tokenizers [ROUNDS] [SEED]
 *
 * A `.vocab` file and GGUF files of each kind are written in memory, damaged, and opened from a block of exactly their
 * size into a block of exactly the size that was asked for. What opens must encode and decode: no id outside the
 * vocabulary, no count that depends on the capacity. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../edgekit.h"

static uint64_t state = 1;

static uint32_t draw(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % below;
}

static void check(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "tokenizers: %s\n", what);
    exit(1);
}

/* ---- files ---- */

typedef struct {
    uint8_t bytes[1 << 16];
    size_t size;
} buffer;

static void put(buffer *b, const void *bytes, size_t size) {
    check(b->size + size <= sizeof b->bytes, "the test's file is too large");
    memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

static void put_number(buffer *b, uint64_t number, size_t size) {
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(number >> 8 * i);
        put(b, &byte, 1);
    }
}

static void put_string(buffer *b, const char *text) {
    put_number(b, strlen(text), 8);
    put(b, text, strlen(text));
}

typedef struct {
    uint8_t bytes[41], length, flags, words;
    uint32_t id;
    int duplicate;
} token;

static token tokens[400];
static uint32_t count;

static int by_length(const void *left, const void *right) {
    const token *a = left, *b = right;
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    return memcmp(a->bytes, b->bytes, a->length);
}

static int is_letter(uint8_t c) { return (c >= 'a' && c <= 'z') || c >= 0xC3; }

static void add_token(const char *bytes, size_t length, uint32_t id, int duplicate) {
    token *t = &tokens[count++];
    memset(t, 0, sizeof *t);
    memcpy(t->bytes, bytes, length);
    t->length = (uint8_t)length;
    t->id = id;
    t->duplicate = duplicate;
    for (size_t i = 0; i + 1 < length; i++)
        if (bytes[i] == ' ' && is_letter((uint8_t)bytes[i + 1])) t->words++;
    t->flags = (uint8_t)(is_letter((uint8_t)bytes[length - 1]) | is_letter((uint8_t)bytes[0]) << 1 |
                         (bytes[0] == ' ') << 2 | (length == 1) << 7);
    if (t->words == 1 && bytes[0] == ' ') t->flags |= 32;
    if (bytes[0] == '<' && length > 1) t->flags = 64;
}

/* A vocabulary of single bytes and some words, with duplicates of the words that begin with a letter. */
static void write_vocab(buffer *b, unsigned level, unsigned flags) {
    static const char *const words[] = {"th", "the", " the", " th", "he", " cat", "cat", " sat on", " sat", "ing", "e ",
                                        ", ", "...", "\n\n", "<eos>", " a", "12", " 12", "\xc3\xa9", "\xcc\x81"};
    char marker = level == 1 ? 0x7F : 'D';
    uint32_t id = 0, singles = 0;
    count = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        char single = (char)byte;
        if (level == 2 && byte >= 'A' && byte <= 'Z' && !strchr("CDW", (int)byte)) continue;
        add_token(&single, 1, id++, 0);
    }
    singles = id;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char marked[48] = {marker, ' '};
        add_token(words[i], strlen(words[i]), id, 0);
        strcpy(marked + 2, words[i]);
        if (level && is_letter((uint8_t)words[i][0])) add_token(marked, strlen(marked), id, 1);
        id++;
    }
    qsort(tokens, count, sizeof *tokens, by_length);
    b->size = 0;
    put_number(b, level | 1 << 8 | flags << 16, 8);
    uint32_t header[5] = {0xFFFFFF, id, id, count, 0xFFFFFF};
    for (uint32_t i = 0; i < singles && level; i++)
        if (tokens[i].bytes[0] == (uint8_t)marker) header[4] = tokens[i].id;
    for (int i = 0; i < 5; i++) put_number(b, header[i], 3);
    put_number(b, tokens[count - 1].length, 1);
    for (uint32_t i = 0; i < count; i++) {
        const token *t = &tokens[i];
        uint32_t alternatives[2] = {0xFFFFFF, 0xFFFFFF};
        for (uint32_t k = i, found = 0; k-- && found < 2;)
            if (tokens[k].length < t->length && !memcmp(tokens[k].bytes, t->bytes, tokens[k].length))
                alternatives[found++] = k;
        put_number(b, t->length, 1);
        put(b, t->bytes, t->length);
        put_number(b, t->flags | t->words << 8, 2);
        put_number(b, alternatives[0], 3);
        put_number(b, alternatives[1], 3);
        put_number(b, t->id, 3);
        put_number(b, t->duplicate ? 0xBF800000u : 0, 4);
    }
    for (unsigned byte = 0; byte < 256; byte++)
        put_number(b, is_letter((uint8_t)byte) ? 1 : byte == ' ' ? 12 : strchr(".,\n\x7f", (int)byte) ? 10 : 0, 1);
    put_number(b, 0, 3);
}

static void put_key(buffer *b, const char *key, uint32_t type) {
    put_string(b, key);
    put_number(b, type, 4);
}

static void put_array(buffer *b, const char *key, uint32_t type, uint64_t items) {
    put_key(b, key, 9);
    put_number(b, type, 4);
    put_number(b, items, 8);
}

static void put_text(buffer *b, const char *key, const char *text) {
    put_key(b, key, 8);
    put_string(b, text);
}

static void put_id(buffer *b, const char *key, uint32_t id) {
    put_key(b, key, 4);
    put_number(b, id, 4);
}

static void start_gguf(buffer *b, uint64_t keys) {
    b->size = 0;
    put(b, "GGUF", 4);
    put_number(b, 3, 4);
    put_number(b, 0, 8);
    put_number(b, keys, 8);
}

static const char *const merges[] = {"t h", "th e", "\xc4\xa0 t", "\xc4\xa0t he", "h e", "c a", "ca t", "a t"};

static void write_bpe(buffer *b, const char *pre) {
    start_gguf(b, 9);
    put_text(b, "tokenizer.ggml.model", "gpt2");
    put_text(b, "tokenizer.ggml.pre", pre);
    put_array(b, "tokenizer.ggml.tokens", 8, 3 + 256 + 8);
    put_string(b, "<|endoftext|>");
    put_string(b, "<tool>");
    put_string(b, "</s>");
    for (unsigned byte = 0, other = 0x100; byte < 256; byte++) {
        int plain = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
        unsigned point = plain ? byte : other++;
        char text[3] = {(char)point, 0, 0};
        if (point >= 0x80) {
            text[0] = (char)(0xC0 | point >> 6);
            text[1] = (char)(0x80 | (point & 63));
        }
        put_string(b, text);
    }
    for (int i = 0; i < 8; i++) {
        char text[16];
        const char *space = strchr(merges[i] + 1, ' ');
        snprintf(text, sizeof text, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        put_string(b, text);
    }
    put_array(b, "tokenizer.ggml.token_type", 5, 267);
    for (int i = 0; i < 267; i++) put_number(b, i == 1 ? 4 : i < 3 ? 3 : 1, 4);
    put_array(b, "tokenizer.ggml.merges", 8, 8);
    for (int i = 0; i < 8; i++) put_string(b, merges[i]);
    put_id(b, "tokenizer.ggml.bos_token_id", 0);
    put_id(b, "tokenizer.ggml.eos_token_id", 2);
    put_text(b, "general.architecture", "llama");
    put_array(b, "edgekit.file.config.json", 0, 23);
    put(b, "{\"eos_token_id\": [0, 2]}", 23);
}

static void write_sentencepiece(buffer *b) {
    static const char *const pieces[] = {"\xe2\x96\x81t", "he", "\xe2\x96\x81the", "\xe2\x96\x81", "t", "h", "e", "a", "ca"};
    start_gguf(b, 6);
    put_text(b, "tokenizer.ggml.model", "llama");
    put_array(b, "tokenizer.ggml.tokens", 8, 3 + 256 + 9);
    put_string(b, "<unk>");
    put_string(b, "<s>");
    put_string(b, "</s>");
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        put_string(b, text);
    }
    for (int i = 0; i < 9; i++) put_string(b, pieces[i]);
    put_array(b, "tokenizer.ggml.scores", 6, 268);
    for (uint32_t i = 0; i < 268; i++) put_number(b, 0xC0000000u + (i << 16), 4);
    put_array(b, "tokenizer.ggml.token_type", 5, 268);
    for (int i = 0; i < 268; i++) put_number(b, i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1, 4);
    put_id(b, "tokenizer.ggml.bos_token_id", 1);
    put_text(b, "general.architecture", "llama");
}

/* A GGUF of edgekit's: llama.cpp's kind `rwkv`, with the vocabulary inside. */
static void write_embedded(buffer *b) {
    static buffer vocab;
    write_vocab(&vocab, 2, 1);
    start_gguf(b, 4);
    put_text(b, "tokenizer.ggml.model", "rwkv");
    put_id(b, "llama.vocab_size", 384);
    put_id(b, "tokenizer.ggml.eos_token_id", 300);
    put_array(b, "edgekit.file.tokenmonster.vocab", 0, vocab.size);
    put(b, vocab.bytes, vocab.size);
}

static void write_file(buffer *b, uint32_t kind) {
    static const char *const pre[] = {"gpt-2", "smollm", "llama-bpe", "gpt-4o", "default"};
    static const unsigned flags[] = {1, 1, 8, 255, 2, 4};
    if (kind < 6) write_vocab(b, kind % 3, flags[kind]);
    else if (kind < 11) write_bpe(b, pre[kind - 6]);
    else if (kind == 11) write_sentencepiece(b);
    else write_embedded(b);
}

/* ---- use ---- */

static size_t write_text(uint8_t *text, size_t most) {
    static const char *const parts[] = {"the ", "THE ", "cat", "Cat's", "12", ". ", "\n\n", "\xc3\xa9", "\xcc\x81", "<eos>",
                                        "</s>", "<tool>", "<|endoftext|>", "\xf0\x9f\x99\x82", "\xff", "\xe2\x80", "A1"};
    size_t size = 0, length = draw((uint32_t)most);
    while (size < length) {
        const char *part = parts[draw(sizeof parts / sizeof *parts)];
        uint32_t times = draw(20) ? 1 : draw(60);
        for (uint32_t i = 0; i < times; i++)
            for (const char *c = part; *c && size < length; c++) text[size++] = (uint8_t)(draw(50) ? *c : (int)draw(256));
        if (!times && size < length) text[size++] = (uint8_t)draw(256);
    }
    return size;
}

static void use(const ek_tokenizer *t) {
    ek_tokenizer_info info = *ek_tokenizer_describe(t);
    uint8_t *text = malloc(6000), *out = malloc(info.longest);
    size_t length = write_text(text, draw(10) ? 300 : 6000);
    uint8_t *exact = malloc(length ? length : 1);
    memcpy(exact, text, length);
    uint32_t flags = draw(4);
    size_t work_size = ek_encode_size(t, length);
    void *work = malloc(work_size ? work_size : 1);
    int64_t n = ek_encode(t, (char *)exact, length, flags, NULL, 0, work, work_size);
    check(n >= 0 && n <= 8 * (int64_t)length + 8, "a count of ids that cannot be");
    uint32_t *ids = malloc(((size_t)n + 1) * sizeof *ids);
    check(ek_encode(t, (char *)exact, length, flags, ids, (size_t)n, work, work_size) == n, "two counts differ");
    if (work_size) check(ek_encode(t, (char *)exact, length, 0, ids, 0, work, work_size - 1) == EK_MEMORY, "no EK_MEMORY");
    ek_decoder decoder;
    ek_decoder_start(&decoder, t);
    for (int64_t i = 0; i < n + 40; i++) {
        if (i < n) check(ids[i] < info.vocabulary, "an id outside the vocabulary");
        uint32_t id = i < n ? ids[i] : draw(info.vocabulary + 3);
        check(ek_decoder_feed(&decoder, id, out) <= info.longest, "a feed is too long");
        check(ek_piece(t, id, out, info.longest) <= info.longest, "a piece is too long");
        ek_token_type(t, id);
    }
    check(ek_decoder_flush(&decoder, out) <= info.longest, "a flush is too long");
    free(ids), free(work), free(exact), free(out), free(text);
}

static void damage(buffer *b) {
    uint32_t changes = draw(5) ? 1 + draw(3) : 0;
    for (uint32_t i = 0; i < changes; i++) {
        size_t at = draw(20) ? draw((uint32_t)b->size) : draw(b->size < 64 ? (uint32_t)b->size : 64);
        b->bytes[at] = (uint8_t)(draw(2) ? draw(256) : b->bytes[at] ^ (1u << draw(8)));
    }
    if (changes && !draw(20)) b->size = draw((uint32_t)b->size + 1);
}

int main(int argc, char **argv) {
    static buffer file;
    uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 12000, opened = 0, refused = 0;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) * 2 + 1 : 88172645463325252u;
    for (uint32_t round = 0; round < rounds; round++) {
        ek_error error;
        ek_tokenizer *tokenizer;
        size_t size = 0;
        uint32_t options = (draw(8) ? 0 : EK_BARE) | (draw(3) ? 0 : EK_COMPACT);
        write_file(&file, draw(13));
        if (round >= 13) damage(&file);
        uint8_t *bytes = malloc(file.size ? file.size : 1);
        memcpy(bytes, file.bytes, file.size);
        int status = ek_tokenizer_size(bytes, file.size, options, &size, &error);
        if (!status && size < (8u << 20)) {
            size_t aligned = (size + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT;
            uint8_t *block = aligned_alloc(EK_ALIGNMENT, aligned);
            memset(block, 0xA5, aligned); /* memory is not zero */
            status = ek_tokenizer_open(bytes, file.size, options, block, size, &tokenizer, &error);
            if (!status) use(tokenizer);
            free(block);
        }
        check(status == EK_OK || error.text[0], "an error without a sentence");
        opened += status == EK_OK;
        refused += status != EK_OK;
        free(bytes);
    }
    printf("tokenizers: %u damaged files, %u opened and used, %u refused\n", rounds, opened, refused);
    check(opened > rounds / 8 && refused > rounds / 8, "too few files opened, or too few were refused");
    return 0;
}
