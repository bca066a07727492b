/* Byte-pair encoding of a text: pairs of neighbours are joined, the best first and of equals the leftmost.
 *
 * As in llama.cpp: pairs wait in a heap, and those that another join has changed meanwhile are skipped. So a text of any
 * length takes n log n. The work memory has the text as the vocabulary spells it, the parts, and the heap. */
#include "bpe.h"

#define BPE_NO_PART 0xFFFFFFFFu

typedef struct {
    uint32_t start, length; /* in the spelled text; 0: joined to the one on its left */
    uint32_t previous, next;
    uint32_t id;
} bpe_part;

typedef struct {
    uint64_t order; /* rank or score, then place: the smallest is next */
    uint32_t right;
    uint32_t length; /* of both parts when the pair was found */
} bpe_pair;

typedef struct {
    const ek_bpe *bpe;
    bpe_part *parts;
    bpe_pair *heap;
    uint32_t waiting; /* pairs in the heap */
    uint8_t *text;    /* spelled */
    uint32_t size;
} bpe_work;

/* For n characters at most n parts and 2n pairs: n - 1 at first, and each join removes one and adds at most two.
 * SentencePiece spells a space with three bytes, GPT-2 other bytes with two. */
size_t ek_bpe_work(const ek_bpe *bpe, size_t length) {
    (void)bpe;
    return 16 + (length + 1) * (2 * sizeof(bpe_pair) + sizeof(bpe_part) + 3);
}

static void bpe_start(bpe_work *w, const ek_bpe *bpe, uint8_t *memory, size_t length) {
    w->bpe = bpe;
    memory += (16 - (uintptr_t)memory % 16) % 16;
    w->heap = (bpe_pair *)(void *)memory;
    w->parts = (bpe_part *)(void *)(w->heap + 2 * (length + 1));
    w->text = (uint8_t *)(w->parts + length + 1);
    w->waiting = w->size = 0;
}

static void bpe_push(bpe_work *w, bpe_pair pair) {
    uint32_t place = w->waiting++;
    while (place && w->heap[(place - 1) / 2].order > pair.order) {
        w->heap[place] = w->heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    w->heap[place] = pair;
}

static bpe_pair bpe_pop(bpe_work *w) {
    bpe_pair top = w->heap[0], last = w->heap[--w->waiting];
    uint32_t place = 0;
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= w->waiting) break;
        if (child + 1 < w->waiting && w->heap[child + 1].order < w->heap[child].order) child++;
        if (w->heap[child].order >= last.order) break;
        w->heap[place] = w->heap[child];
        place = child;
    }
    if (w->waiting) w->heap[place] = last;
    return top;
}

/* The place of a score among all, as a number: the highest score is first, NaN last. */
static uint32_t bpe_order_of_score(uint32_t bits) {
    if ((bits & 0x7FFFFFFF) > 0x7F800000u) return 0xFFFFFFFFu;
    if (bits == 0x80000000u) bits = 0; /* -0 equals 0 */
    return bits >> 31 ? bits : 0x7FFFFFFF - bits;
}

/* Lets a pair of neighbours wait if joining them makes a token. */
static void bpe_consider(bpe_work *w, uint32_t left, uint32_t right) {
    if (left == BPE_NO_PART || right == BPE_NO_PART) return;
    const bpe_part *a = &w->parts[left], *b = &w->parts[right];
    uint32_t length = a->length + b->length, order;
    if (w->bpe->by_score) {
        uint32_t id = ek_bpe_find(w->bpe, w->text + a->start, length);
        if (id == EK_BPE_NONE || ek_bpe_type(w->bpe, id) != EK_GGUF_NORMAL) return;
        order = bpe_order_of_score(ek_u32(w->bpe->scores + 4 * (size_t)id));
    } else {
        order = ek_bpe_rank(w->bpe, a->id, b->id);
        if (order == EK_BPE_NONE) return;
    }
    bpe_pair pair = {(uint64_t)order << 32 | left, right, length};
    bpe_push(w, pair);
}

/* Joins parts 0..count until no pair makes a token. */
static void bpe_join(bpe_work *w, uint32_t count) {
    w->waiting = 0;
    for (uint32_t i = 0; i < count; i++) {
        w->parts[i].previous = i ? i - 1 : BPE_NO_PART;
        w->parts[i].next = i + 1 < count ? i + 1 : BPE_NO_PART;
    }
    for (uint32_t i = 1; i < count; i++) bpe_consider(w, i - 1, i);
    while (w->waiting) {
        bpe_pair pair = bpe_pop(w);
        uint32_t left = (uint32_t)pair.order;
        bpe_part *a = &w->parts[left], *b = &w->parts[pair.right];
        if (!a->length || !b->length || a->length + b->length != pair.length) continue;
        if (!w->bpe->by_score) a->id = w->bpe->result[pair.order >> 32];
        a->length = pair.length;
        b->length = 0;
        a->next = b->next;
        if (a->next != BPE_NO_PART) w->parts[a->next].previous = left;
        bpe_consider(w, a->previous, left);
        bpe_consider(w, left, a->next);
    }
}

/* ---- SentencePiece ---- */

static void bpe_add_bytes(const ek_bpe *bpe, const uint8_t *bytes, size_t length, ek_ids *out) {
    for (size_t i = 0; i < length; i++) {
        uint32_t id = bpe->bytes[bytes[i]];
        if (id == EK_BPE_NONE) id = bpe->unknown;
        if (id != EK_BPE_NONE) ek_ids_add(out, id);
    }
}

/* Spells the text, spaces as U+2581, one part for each character. Returns the number of parts. */
static uint32_t bpe_spell_marked(bpe_work *w, const uint8_t *text, size_t length) {
    static const uint8_t mark[3] = {0xE2, 0x96, 0x81};
    uint32_t count = 0;
    size_t place = 0;
    int prefix = w->bpe->space_prefix;
    while (prefix || place < length) {
        const uint8_t *from = text + place;
        size_t size = 1;
        if (prefix || *from == ' ') {
            from = mark;
            size = 3;
            place += !prefix;
            prefix = 0;
        } else {
            size = *from < 0xC0 ? 1 : *from < 0xE0 ? 2 : *from < 0xF0 ? 3 : 4;
            if (size > length - place) size = length - place;
            /* Unlike in llama.cpp, a space ends an ill-formed character: it is spelled otherwise. */
            for (size_t i = 1; i < size; i++)
                if (from[i] == ' ') size = i;
            place += size;
        }
        bpe_part *part = &w->parts[count++];
        part->start = w->size;
        part->length = (uint32_t)size;
        part->id = EK_BPE_NONE;
        for (size_t i = 0; i < size; i++) w->text[w->size++] = from[i];
    }
    return count;
}

static void bpe_encode_scored(bpe_work *w, const uint8_t *text, size_t length, ek_ids *out) {
    uint32_t count = bpe_spell_marked(w, text, length);
    bpe_join(w, count);
    for (uint32_t i = 0; i < count; i++) {
        const bpe_part *part = &w->parts[i];
        if (!part->length) continue;
        uint32_t id = ek_bpe_find(w->bpe, w->text + part->start, part->length);
        uint32_t type = id == EK_BPE_NONE ? EK_GGUF_UNUSED : ek_bpe_type(w->bpe, id);
        if (type == EK_GGUF_NORMAL || type == EK_GGUF_USER_DEFINED) ek_ids_add(out, id);
        else bpe_add_bytes(w->bpe, w->text + part->start, part->length, out);
    }
}

/* ---- GPT-2 ---- */

static void bpe_encode_word(bpe_work *w, const uint8_t *word, size_t length, ek_ids *out) {
    if (w->bpe->whole_words) {
        size_t size = 0;
        for (size_t i = 0; i < length && size <= w->bpe->longest; i++) size += ek_bpe_spell_byte(word[i], w->text + size);
        uint32_t id = ek_bpe_find(w->bpe, w->text, size);
        if (id != EK_BPE_NONE && ek_bpe_type(w->bpe, id) == EK_GGUF_NORMAL) {
            ek_ids_add(out, id);
            return;
        }
    }
    for (size_t i = 0; i < length; i++) {
        bpe_part part = {(uint32_t)i, 1, 0, 0, w->bpe->bytes[word[i]]};
        w->parts[i] = part;
    }
    bpe_join(w, (uint32_t)length);
    for (size_t i = 0; i < length; i++)
        if (w->parts[i].length && w->parts[i].id != EK_BPE_NONE) ek_ids_add(out, w->parts[i].id);
}

void ek_bpe_encode(const ek_bpe *bpe, const uint8_t *text, size_t length, uint8_t *work, ek_ids *out) {
    bpe_work w;
    bpe_start(&w, bpe, work, length);
    if (bpe->by_score) {
        if (length) bpe_encode_scored(&w, text, length, out);
        return;
    }
    for (size_t place = 0; place < length;) {
        size_t end = ek_pre_word(bpe->pre, text, place, length);
        bpe_encode_word(&w, text + place, end - place, out);
        place = end;
    }
}
