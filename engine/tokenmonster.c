/* TokenMonster's choice of tokens: from a normalized byte stream to ids, exactly those of the reference library.
 *
 * At each step the longest match, and two shorter ones that the vocabulary names, are each scored together with the
 * longest match that would come next, with and without a delete marker and a space inserted before that one. The stream
 * passes through a window, so a text of any length needs no memory. */
#include "tokenmonster.h"

#include "normalizer.h"

#define TM_WINDOW 4096
/* A choice looks at two tokens and one byte more. */
#define TM_AHEAD (2 * EK_TM_LONGEST + 2 + EK_CAPCODE_MARGIN)
#define TM_WORST (-1000000)
#define TM_SLOTS 16 /* a choice reads 8 records, and its token is one of the 8 before */

typedef struct {
    const ek_vocabulary *v;
    ek_normalizer normalizer;
    uint8_t *place, *end; /* what is left of the window */
    int ended;            /* no more text comes after the window */
    uint32_t space;       /* the node after one space, or 0; compact: whether it may be inserted */
    ek_tm_record slots[TM_SLOTS]; /* compact: the records in use, the oldest is overwritten */
    uint32_t next_slot;
    uint8_t window[TM_WINDOW + 1];
} tm_encoder;

static void tm_refill(tm_encoder *e) {
    size_t left = (size_t)(e->end - e->place);
    for (size_t i = 0; i < left; i++) e->window[i] = e->place[i];
    left = ek_capcode_fill(&e->normalizer, e->window, left, TM_WINDOW);
    e->ended = ek_normalizer_done(&e->normalizer);
    e->place = e->window;
    e->end = e->window + left;
    *e->end = 0; /* the byte after the text counts as 0 */
}

/* The same record until TM_SLOTS others were asked for. */
static inline const ek_tm_record *tm_record(tm_encoder *e, int32_t index) {
    if (e->v->records) return &e->v->records[index];
    ek_tm_record *slot = &e->slots[e->next_slot++ % TM_SLOTS];
    *slot = ek_tm_at(e->v, (uint32_t)index);
    return slot;
}

/* The longest record from a node on, or -1. */
static inline int32_t tm_walk_trie(const ek_tm_node *trie, uint32_t node, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at++) {
        uint32_t child = (trie[node].link >> 9) + *at;
        if ((trie[child].link & 511) != *at + 1u) break;
        node = child;
    }
    return trie[node].record;
}

/* Compact: the longest of the records that the text begins with; `spaced`: with a space before it. */
static int32_t tm_search(const ek_vocabulary *v, int spaced, const uint8_t *at, const uint8_t *end) {
    uint8_t key[EK_TM_LONGEST];
    size_t length = 0;
    if (spaced) key[length++] = ' ';
    while (length < EK_TM_LONGEST && at < end) key[length++] = *at++;
    for (; length; length--) {
        int32_t index = ek_tm_find(v, key, length);
        if (index >= 0) return index;
    }
    return -1;
}

/* The longest record at a place of the text, or of a space and the text; -1: none. */
static inline int32_t tm_longest(const tm_encoder *e, int spaced, const uint8_t *at) {
    if (!e->v->trie) return tm_search(e->v, spaced, at, e->end);
    return tm_walk_trie(e->v->trie, spaced ? e->space : 0, at, e->end);
}

typedef struct {
    int score;
    const ek_tm_record *first, *next;
    uint8_t *at;
} tm_choice;

static inline int tm_bonus(unsigned after) { return after > 1 ? 98 + (int)after : 0; }

/* Terms of a score that depend on both tokens and the byte after them. `split`: a word is split between them. */
static inline int tm_pair(const ek_tm_record *first, const ek_tm_record *next, unsigned after, int split) {
    int score = tm_bonus(after);
    if (split) score -= 103;
    if (first->flags & EK_TM_ENDS_MARKER && next->flags & EK_TM_BEGINS_MARKER) score -= 100;
    if (after == 1 && next->flags & EK_TM_ENDS_LETTER) score -= 3;
    return score;
}

/* Scores one candidate for the token at the current place, with what would follow it. */
static inline void tm_try(tm_encoder *e, const ek_tm_record *first, int carry, const uint8_t *longest_end,
                          tm_choice *plain, tm_choice *spaced) {
    const ek_vocabulary *v = e->v;
    uint8_t *at = e->place + first->length - carry;
    int32_t index = tm_longest(e, 0, at);
    if (index < 0) return;
    const ek_tm_record *next = tm_record(e, index);
    const uint8_t *stop = at + next->length;
    unsigned after = v->follow[*stop];
    int own = first->first - (carry ? (first->words > 1 ? 102 : 101) : 0);
    int split = first->flags & EK_TM_ENDS_LETTER && next->flags & EK_TM_BEGINS_LETTER;
    int score = own + next->second + tm_pair(first, next, after, split);
    if (stop <= longest_end) score -= stop < longest_end ? 100 : 10000; /* shorter than the longest match alone */
    if (score > plain->score) {
        tm_choice better = {score, first, next, at};
        *plain = better;
    }
    if (after != 1 || !e->space || next->words || !(next->flags & EK_TM_BEGINS_LETTER)) return;
    /* The next token would stop inside a word: look for a longer one that begins with a space. */
    index = tm_longest(e, 1, at);
    const ek_tm_record *longer = index < 0 ? NULL : tm_record(e, index);
    if (!longer || longer->length <= next->length + 1) return;
    next = longer;
    stop = at + next->length - 1;
    score = own + next->first - 2 + tm_pair(first, next, v->follow[*stop], first->flags & EK_TM_ENDS_LETTER);
    if (stop <= longest_end) score -= stop < longest_end ? 100 : 10000;
    if (score > spaced->score) {
        tm_choice better = {score, first, next, at};
        *spaced = better;
    }
}

/* Encodes from a token on, until a place where the next one is matched afresh. */
static void tm_chain(tm_encoder *e, const ek_tm_record *token, ek_ids *out) {
    const ek_vocabulary *v = e->v;
    int carry = 0; /* 1 while the token's leading space is virtual, that is, not in the text */
    for (;;) {
        if (!e->ended && e->end - e->place < TM_AHEAD) tm_refill(e);
        uint8_t *end = e->place + token->length - carry;
        if (end == e->end || (token->flags & EK_TM_WHOLE_WORD && v->follow[*end] == 3)) {
            ek_ids_add(out, token->id);
            e->place = end;
            return;
        }
        tm_choice plain = {TM_WORST, token, token, end}, spaced = plain;
        tm_try(e, token, carry, end, &plain, &spaced);
        for (int k = 0; k < 2 && token->shorter[k] >= 0; k++)
            tm_try(e, tm_record(e, token->shorter[k]), carry, end, &plain, &spaced);
        if (plain.score == TM_WORST) {
            ek_ids_add(out, token->id);
            e->place = end;
            return;
        }
        int inserted = spaced.score > plain.score;
        const tm_choice *best = inserted ? &spaced : &plain;
        ek_ids_add(out, best->first->id);
        if (inserted) ek_ids_add(out, v->delete_token);
        e->place = best->at;
        token = best->next;
        carry = inserted;
    }
}

void ek_vocabulary_encode(const ek_vocabulary *v, const uint8_t *text, size_t length, uint8_t *work, ek_ids *out) {
    tm_encoder e;
    if (v->flags & EK_BYTE_FLAGS) {
        length = ek_normalize_bytes(text, length, v->flags, work);
        text = work;
    }
    e.v = v;
    e.place = e.end = e.window;
    ek_normalizer_start(&e.normalizer, text, length, v->flags, v->level);
    uint32_t space = v->trie ? (v->trie[0].link >> 9) + ' ' : 1;
    e.space = v->delete_token != EK_TM_NONE && (!v->trie || (v->trie[space].link & 511) == ' ' + 1u) ? space : 0;
    e.next_slot = 0;
    tm_refill(&e);
    while (e.place < e.end || !e.ended) {
        if (!e.ended && e.end - e.place < TM_AHEAD) tm_refill(&e);
        int32_t index = tm_longest(&e, 0, e.place);
        if (index >= 0) {
            tm_chain(&e, tm_record(&e, index), out);
        } else if (e.place < e.end) {
            if (v->unk != EK_TM_NONE) ek_ids_add(out, v->unk);
            e.place++;
        }
    }
}
