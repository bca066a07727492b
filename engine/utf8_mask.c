/* Masks of ids that keep a text well-formed UTF-8. edgekit/tokenizers/utf8_mask.py explains the automaton; its tables are
 * in utf8_tables.inc. */
#include "internal.h"

#include "utf8_tables.inc"

#define STATES 153 /* the most of a level, with state 0: U+FFFD was printed */
#define NEVER 255  /* no number of ids finishes the character */
#define SLOTS 8    /* masks that are kept; a text needs two or three */

static const struct {
    const uint8_t (*strict)[19]; /* the next state by class; 0 once the text is ill-formed */
    const uint8_t (*real)[19];   /* the same for a decoder, which prints U+FFFD and continues */
    const uint8_t (*classes)[32];
    const uint8_t *clean; /* may a text end here */
    uint32_t states;
} LEVELS[] = {
    {strict0, real0, classes0, clean0, sizeof clean0},
    {strict1, real1, classes1, clean1, sizeof clean1},
    {strict2, real2, classes2, clean2, sizeof clean2},
};

struct ek_masks {
    uint32_t vocab_size, level, special_count, next_slot;
    uint32_t keys[SLOTS];      /* state * 8 + remaining; 0: empty */
    uint8_t distance[STATES];  /* the fewest ids that finish the character of a state; 0 if none is pending */
    uint32_t *ends;            /* (vocab_size,) where the classes of each id end */
    uint32_t *specials;
    uint8_t *classes;          /* of all bytes of all ids */
    uint8_t *slots;            /* (SLOTS, mask_bytes) */
};

static size_t mask_bytes(uint32_t vocab_size) { return ((size_t)vocab_size + 7) / 8; }

static size_t total_bytes(ek_piece_of *piece, const void *context, uint32_t vocab_size) {
    size_t total = 0;
    for (uint32_t id = 0; id < vocab_size; id++) total += piece(context, id, NULL, 0);
    return total;
}

static size_t size_of(uint32_t vocab_size, uint32_t specials, size_t bytes) {
    return ek_aligned(sizeof(ek_masks)) + ek_aligned(vocab_size * sizeof(uint32_t)) + ek_aligned(specials * sizeof(uint32_t)) +
           ek_aligned(bytes) + ek_aligned(SLOTS * mask_bytes(vocab_size));
}

size_t ek_masks_size(ek_piece_of *piece, const void *context, uint32_t vocab_size) {
    return size_of(vocab_size, vocab_size, total_bytes(piece, context, vocab_size));
}

/* ---- walking ---- */

static uint32_t walk_classes(const uint8_t (*table)[19], uint32_t state, const uint8_t *classes, uint32_t count) {
    for (uint32_t i = 0; i < count && state; i++) state = table[state][classes[i]];
    return state;
}

static uint32_t piece_start(const ek_masks *m, uint32_t id) { return id ? m->ends[id - 1] : 0; }

/* The state after an id; 0 if it prints nothing or makes the text ill-formed. */
static uint32_t after(const ek_masks *m, uint32_t state, uint32_t id) {
    uint32_t start = piece_start(m, id), count = m->ends[id] - start;
    return count ? walk_classes(LEVELS[m->level].strict, state, m->classes + start, count) : 0;
}

/* From a state inside a character, an id that leads to a state at distance d makes the distance d + 1 at most. */
static void measure(ek_masks *m) {
    uint32_t states = LEVELS[m->level].states;
    uint8_t reached[STATES][STATES / 8 + 1] = {{0}};
    for (uint32_t state = 0; state < STATES; state++) m->distance[state] = NEVER;
    for (uint32_t state = 1; state < states; state++) {
        if (LEVELS[m->level].clean[state]) m->distance[state] = 0;
        else
            for (uint32_t id = 0; id < m->vocab_size; id++) {
                uint32_t next = after(m, state, id);
                reached[state][next / 8] = (uint8_t)(reached[state][next / 8] | 1u << next % 8);
            }
    }
    for (int changed = 1; changed;) {
        changed = 0;
        for (uint32_t state = 1; state < states; state++) {
            uint32_t best = m->distance[state];
            for (uint32_t i = 1; i < states && best; i++)
                if (reached[state][i / 8] >> i % 8 & 1 && m->distance[i] + 1u < best) best = m->distance[i] + 1u;
            if (best < m->distance[state]) m->distance[state] = (uint8_t)best, changed = 1;
        }
    }
}

/* ---- the calls of edgekit.h ---- */

int ek_masks_init(ek_masks **masks, void *memory, size_t size, ek_piece_of *piece, const void *context,
                  uint32_t vocab_size, const uint32_t *specials, uint32_t special_count, uint32_t capcode,
                  ek_error *error) {
    size_t bytes = total_bytes(piece, context, vocab_size), needed = size_of(vocab_size, special_count, bytes);
    if (capcode > 2 || !vocab_size || bytes > UINT32_MAX || special_count > vocab_size)
        return ek_fail(error, EK_ARGUMENT, "masks need a vocabulary, and a capcode level from 0 to 2");
    if (!memory || (uintptr_t)memory % EK_ALIGNMENT || size < needed)
        return ek_fail(error, EK_MEMORY, "the masks need %u bytes, aligned to %u", (uint64_t)needed,
                       (uint64_t)EK_ALIGNMENT);
    for (uint32_t i = 0; i < special_count; i++)
        if (specials[i] >= vocab_size)
            return ek_fail(error, EK_ARGUMENT, "specials: token id %u is outside the vocabulary of %u",
                           (uint64_t)specials[i], (uint64_t)vocab_size);
    ek_masks *m = memory;
    __builtin_memset(m, 0, sizeof *m);
    char *at = (char *)memory + ek_aligned(sizeof *m);
    m->ends = (uint32_t *)(void *)at, at += ek_aligned(vocab_size * sizeof *m->ends);
    m->specials = (uint32_t *)(void *)at, at += ek_aligned(special_count * sizeof *m->specials);
    m->classes = (uint8_t *)at, at += ek_aligned(bytes);
    m->slots = (uint8_t *)at;
    m->vocab_size = vocab_size, m->level = capcode, m->special_count = special_count;
    if (special_count) __builtin_memcpy(m->specials, specials, special_count * sizeof *specials);
    size_t end = 0;
    for (uint32_t id = 0; id < vocab_size; id++) {
        size_t length = piece(context, id, m->classes + end, bytes - end);
        if (length > bytes - end) return ek_fail(error, EK_ARGUMENT, "the pieces changed between two calls");
        for (size_t i = end; i < end + length; i++)
            m->classes[i] = LEVELS[capcode].classes[m->classes[i] / 32][m->classes[i] % 32];
        end += length;
        m->ends[id] = (uint32_t)end;
    }
    measure(m);
    *masks = m;
    return EK_OK;
}

uint32_t ek_masks_advance(const ek_masks *m, uint32_t state, uint32_t id) {
    if (id >= m->vocab_size || state >= LEVELS[m->level].states) return state;
    return walk_classes(LEVELS[m->level].real, state, m->classes + piece_start(m, id), m->ends[id] - piece_start(m, id));
}

static int fill(const ek_masks *m, uint8_t *mask, uint32_t state, uint32_t remaining) {
    uint32_t limit = remaining > 3 ? NEVER - 1 : remaining, any = 0;
    __builtin_memset(mask, 0, mask_bytes(m->vocab_size));
    for (uint32_t id = 0; id < m->vocab_size; id++) {
        uint32_t allowed = m->distance[after(m, state, id)] <= limit;
        mask[id / 8] = (uint8_t)(mask[id / 8] | allowed << id % 8);
        any |= allowed;
    }
    if (LEVELS[m->level].clean[state])
        for (uint32_t i = 0; i < m->special_count; i++) {
            mask[m->specials[i] / 8] = (uint8_t)(mask[m->specials[i] / 8] | 1u << m->specials[i] % 8);
            any = 1;
        }
    return (int)any;
}

const uint8_t *ek_masks_get(ek_masks *m, uint32_t state, uint32_t remaining) {
    if (!state || state >= LEVELS[m->level].states) state = EK_MASKS_START;
    if (remaining > 4) remaining = 4;
    uint32_t key = state * 8 + remaining;
    for (uint32_t i = 0; i < SLOTS; i++)
        if (m->keys[i] == key) return m->slots + i * mask_bytes(m->vocab_size);
    uint32_t slot = m->next_slot++ % SLOTS;
    uint8_t *mask = m->slots + slot * mask_bytes(m->vocab_size);
    m->keys[slot] = key;
    if (fill(m, mask, state, remaining)) return mask;
    if (remaining < 4 && fill(m, mask, state, 4)) return mask;
    if (state != EK_MASKS_START) fill(m, mask, EK_MASKS_START, 4);
    return mask;
}
