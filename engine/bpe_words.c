/* How byte-level BPE splits a text into words, which merges do not cross: the regular expressions of the pre-tokenizers
 * in llama.cpp's llama-vocab.cpp and of tokenizer.json files, by hand.
 *
 * Each function gives the end of the word that begins at `at`; the splits of several stages are nested, and the place
 * where a word ends is all that later words depend on. */
#include "bpe.h"
#include "unicode.h"

enum { PRE_LETTER = 1, PRE_NUMBER = 2, PRE_SPACE = 4, PRE_MARK = 8, PRE_BIG = 16, PRE_SMALL = 32, PRE_PUNCTUATION = 64 };

/* A character: its length and what it is. PRE_BIG and PRE_SMALL: may be in the first or second part of a word that is
 * split by case, [Lu Lt Lm Lo M] and [Ll Lm Lo M]. */
typedef struct {
    size_t length;
    uint32_t point;
    unsigned kind;
} pre_char;

static pre_char pre_read(const uint8_t *text, size_t at, size_t end) {
    enum { BIG = PRE_LETTER | PRE_BIG, SMALL = PRE_LETTER | PRE_SMALL, BOTH = BIG | SMALL,
           MARK = PRE_MARK | PRE_BIG | PRE_SMALL };
    static const uint8_t kinds[16] = {0, BIG, SMALL, BIG, BOTH, PRE_NUMBER, MARK, MARK, PRE_PUNCTUATION, PRE_SPACE,
                                      BIG, SMALL, BOTH, PRE_NUMBER, MARK, MARK};
    pre_char c = {0, 0, PRE_SPACE};
    if (at >= end) return c; /* (no word goes on after the end) */
    c.length = ek_utf8_read(text + at, end - at, &c.point);
    c.kind = kinds[ek_unicode_class(c.point)];
    return c;
}

/* The end of a run of characters that have one of the kinds; at most `most` of them. */
static size_t pre_run(const uint8_t *text, size_t at, size_t end, unsigned kinds, size_t most) {
    for (; at < end && most; most--) {
        pre_char c = pre_read(text, at, end);
        if (!(c.kind & kinds)) break;
        at += c.length;
    }
    return at;
}

/* The same for characters that have none of them. */
static size_t pre_run_without(const uint8_t *text, size_t at, size_t end, unsigned kinds) {
    while (at < end) {
        pre_char c = pre_read(text, at, end);
        if (c.kind & kinds) break;
        at += c.length;
    }
    return at;
}

#define PRE_ALL ((size_t)-1)
#define PRE_WORDLIKE (PRE_LETTER | PRE_NUMBER | PRE_SPACE)

/* 's 't 're 've 'm 'll 'd; the end of it, or `at`. */
static size_t pre_contraction(const uint8_t *text, size_t at, size_t end, int any_case) {
    uint8_t a, b;
    if (end - at < 2 || text[at] != '\'') return at;
    a = text[at + 1];
    b = end - at > 2 ? text[at + 2] : 0;
    if (any_case && a >= 'A' && a <= 'Z') a = (uint8_t)(a + 32);
    if (any_case && b >= 'A' && b <= 'Z') b = (uint8_t)(b + 32);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l')) return at + 3;
    return at;
}

/* \s+(?!\S)|\s+ : all but the last white space before a word. */
static size_t pre_blanks(const uint8_t *text, size_t at, size_t end) {
    size_t last = at, place = at;
    while (place < end) {
        pre_char c = pre_read(text, place, end);
        if (!(c.kind & PRE_SPACE)) break;
        last = place;
        place += c.length;
    }
    return place < end && last > at ? last : place;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t pre_gpt2(const uint8_t *text, size_t at, size_t end) {
    size_t word = pre_contraction(text, at, end, 0);
    if (word > at) return word;
    word = at + (text[at] == ' ' && at + 1 < end);
    pre_char c = pre_read(text, word, end);
    if (c.kind & PRE_SPACE) return pre_blanks(text, at, end);
    if (c.kind & (PRE_LETTER | PRE_NUMBER)) return pre_run(text, word, end, c.kind & (PRE_LETTER | PRE_NUMBER), PRE_ALL);
    return pre_run_without(text, word, end, PRE_WORDLIKE);
}

/* ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`; with `slash` the first may end in / too. */
static size_t pre_rest(const uint8_t *text, size_t at, size_t end, int slash) {
    size_t word = at + (text[at] == ' ' && at + 1 < end), newline = at;
    if (!(pre_read(text, word, end).kind & PRE_WORDLIKE)) {
        word = pre_run_without(text, word, end, PRE_WORDLIKE);
        while (word < end && (text[word] == '\r' || text[word] == '\n' || (slash && text[word] == '/'))) word++;
        return word;
    }
    for (word = at; word < end;) {
        pre_char c = pre_read(text, word, end);
        if (!(c.kind & PRE_SPACE)) break;
        word += c.length;
        if (c.point == '\r' || c.point == '\n') newline = word;
    }
    return newline > at ? newline : pre_blanks(text, at, end);
}

static int pre_may_lead(pre_char c) {
    return c.length && c.point != '\r' && c.point != '\n' && !(c.kind & (PRE_LETTER | PRE_NUMBER));
}

/* (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| and the rest */
static size_t pre_llama(const uint8_t *text, size_t at, size_t end, size_t digits) {
    size_t word = pre_contraction(text, at, end, 1);
    if (word > at) return word;
    pre_char c = pre_read(text, at, end);
    word = at + (pre_may_lead(c) ? c.length : 0);
    if (word < end && pre_read(text, word, end).kind & PRE_LETTER) return pre_run(text, word, end, PRE_LETTER, PRE_ALL);
    if (c.kind & PRE_NUMBER) return pre_run(text, at, end, PRE_NUMBER, digits);
    return pre_rest(text, at, end, 0);
}

/* BIG*SMALL+ from `at`; `at` if there is no match. */
static size_t pre_big_small(const uint8_t *text, size_t at, size_t end) {
    size_t place = at, turn = at; /* turn: the end of the last character of BIG* that is also small */
    while (place < end) {
        pre_char c = pre_read(text, place, end);
        if (!(c.kind & PRE_BIG)) break;
        place += c.length;
        if (c.kind & PRE_SMALL) turn = place;
    }
    size_t small = pre_run(text, place, end, PRE_SMALL, PRE_ALL);
    return small > place ? small : turn;
}

/* LEAD?BIG*SMALL+|LEAD?BIG+SMALL* and then, if wanted, (?i:'s|...)?. `at` if there is no match. */
static size_t pre_cased(const uint8_t *text, size_t at, size_t end, int contractions) {
    pre_char c = pre_read(text, at, end);
    size_t lead = pre_may_lead(c) ? at + c.length : at, word = pre_big_small(text, lead, end);
    if (word == lead) word = lead > at ? pre_big_small(text, at, end) : at;
    if (word == at) {
        size_t big = pre_run(text, lead, end, PRE_BIG, PRE_ALL);
        if (big == lead) big = pre_run(text, lead = at, end, PRE_BIG, PRE_ALL);
        word = big > lead ? pre_run(text, big, end, PRE_SMALL, PRE_ALL) : at;
    }
    return word > at && contractions ? pre_contraction(text, word, end, 1) : word;
}

static size_t pre_by_case(const uint8_t *text, size_t at, size_t end, int contractions, size_t digits) {
    size_t word = pre_cased(text, at, end, contractions);
    if (word > at) return word;
    word = pre_run(text, at, end, PRE_NUMBER, digits);
    return word > at ? word : pre_rest(text, at, end, 1);
}

/* \p{N} alone, and GPT-2's words in what is between. */
static size_t pre_smollm(const uint8_t *text, size_t at, size_t end) {
    pre_char c = pre_read(text, at, end);
    if (c.kind & PRE_NUMBER) return at + c.length;
    return pre_gpt2(text, at, pre_run_without(text, at, end, PRE_NUMBER));
}

static int pre_is_sign(pre_char c) {
    if (c.kind & PRE_PUNCTUATION) return 1;
    return c.point == '$' || c.point == '+' || (c.point >= '<' && c.point <= '>') || c.point == '^' || c.point == '~' ||
           c.point == '|';
}

static int pre_three_digits(const uint8_t *text, size_t at, size_t end) {
    for (size_t i = 0; i < 3; i++)
        if (at + i >= end || text[at + i] < '0' || text[at + i] > '9') return 0;
    return 1;
}

/* [\p{P}\$\+<=>\^~\|]+, then GPT-2's, then \p{N}+, then [0-9][0-9][0-9] */
static size_t pre_default(const uint8_t *text, size_t at, size_t end) {
    int sign = pre_is_sign(pre_read(text, at, end));
    size_t stop = at;
    while (stop < end) {
        pre_char c = pre_read(text, stop, end);
        if (pre_is_sign(c) != sign) break;
        stop += c.length;
    }
    stop = pre_gpt2(text, at, stop);
    if (!(pre_read(text, at, stop).kind & PRE_NUMBER)) return pre_run_without(text, at, stop, PRE_NUMBER);
    stop = pre_run(text, at, stop, PRE_NUMBER, PRE_ALL);
    if (pre_three_digits(text, at, stop)) return at + 3;
    size_t digits = at;
    while (digits < stop && !pre_three_digits(text, digits, stop)) digits += pre_read(text, digits, stop).length;
    return digits;
}

size_t ek_pre_word(ek_pre pre, const uint8_t *text, size_t place, size_t length) {
    switch (pre) {
        case EK_PRE_GPT2: return pre_gpt2(text, place, length);
        case EK_PRE_SMOLLM: return pre_smollm(text, place, length);
        case EK_PRE_LLAMA: return pre_llama(text, place, length, 3);
        case EK_PRE_QWEN2: return pre_llama(text, place, length, 1);
        case EK_PRE_GPT4O: return pre_by_case(text, place, length, 1, 3);
        case EK_PRE_TEKKEN: return pre_by_case(text, place, length, 0, 1);
        default: return pre_default(text, place, length);
    }
}

int ek_pre_by_name(ek_text name, ek_pre *pre, int *whole_words) {
    static const struct {
        const char *name;
        ek_pre pre;
        int whole_words;
    } known[] = {
        {"gpt-2", EK_PRE_GPT2, 0},      {"smollm", EK_PRE_SMOLLM, 0},   {"starcoder", EK_PRE_SMOLLM, 0},
        {"refact", EK_PRE_SMOLLM, 0},   {"codeshell", EK_PRE_SMOLLM, 0}, {"exaone", EK_PRE_SMOLLM, 0},
        {"llama-bpe", EK_PRE_LLAMA, 1}, {"llama3", EK_PRE_LLAMA, 1},    {"llama-v3", EK_PRE_LLAMA, 1},
        {"falcon3", EK_PRE_LLAMA, 1},   {"pixtral", EK_PRE_LLAMA, 1},   {"qwen2", EK_PRE_QWEN2, 0},
        {"gpt-4o", EK_PRE_GPT4O, 0},    {"tekken", EK_PRE_TEKKEN, 1},   {"default", EK_PRE_DEFAULT, 0},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t same = 0;
        while (same < name.length && known[i].name[same] && known[i].name[same] == name.bytes[same]) same++;
        if (same < name.length || known[i].name[same]) continue;
        *pre = known[i].pre;
        *whole_words = known[i].whole_words;
        return 1;
    }
    return 0;
}
