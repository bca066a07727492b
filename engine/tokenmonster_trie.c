/* The trie in which TokenMonster's longest matches are found, built from the records in place. */
#include "tokenmonster.h"

#define TRIE_DEPTH (EK_TM_LONGEST + 1)
#define TRIE_TRIES 256      /* places that are tried for a node's children before they are put at the end */
#define TRIE_BASE_USED 0x80000000u
#define TRIE_FREE (~0u)

static int trie_less(const ek_vocabulary *v, uint32_t a, uint32_t b) {
    const ek_tm_record *left = &v->records[a], *right = &v->records[b];
    const uint8_t *x = v->file + left->offset, *y = v->file + right->offset;
    for (unsigned i = 0; i < left->length && i < right->length; i++)
        if (x[i] != y[i]) return x[i] < y[i];
    return left->length < right->length;
}

/* Merges order[low..middle) and order[middle..high), both sorted, through the second half of `order`. */
static void trie_merge(const ek_vocabulary *v, uint32_t low, uint32_t middle, uint32_t high) {
    uint32_t *order = v->order, *out = v->order + v->count, left = low, right = middle;
    for (uint32_t i = low; i < high; i++) {
        int from_left = right == high || (left < middle && trie_less(v, order[left], order[right]));
        out[i] = from_left ? order[left++] : order[right++];
    }
    for (uint32_t i = low; i < high; i++) order[i] = out[i];
}

/* Puts the records that text may become into `order`, sorted by their bytes. They come sorted by (length, bytes), so
 * there is one sorted run for each length. Returns their number. */
static uint32_t trie_sort(ek_vocabulary *v, const uint8_t *silent) {
    uint32_t starts[TRIE_DEPTH + 1], count = 0, runs = 0;
    unsigned length = 0;
    for (uint32_t i = 0; i < v->count; i++) {
        if (silent && silent[v->records[i].id]) continue;
        if (v->records[i].length != length) starts[runs++] = count;
        length = v->records[i].length;
        v->order[count++] = i;
    }
    starts[runs] = count;
    while (runs > 1) {
        uint32_t merged = 0;
        for (uint32_t run = 0; run < runs; run += 2) {
            if (run + 1 < runs) trie_merge(v, starts[run], starts[run + 1], starts[run + 2]);
            starts[merged++] = starts[run];
        }
        starts[merged] = count;
        runs = merged;
    }
    return count;
}

/* An alternative that is silent is skipped; then the second takes the place of the first. */
static void trie_skip_silent(ek_vocabulary *v, const uint8_t *silent) {
    for (uint32_t i = 0; silent && i < v->count; i++) {
        int32_t *shorter = v->records[i].shorter;
        for (int k = 1; k >= 0; k--) {
            if (shorter[k] < 0 || !silent[v->records[shorter[k]].id]) continue;
            shorter[k] = k ? -1 : shorter[1];
            shorter[1] = -1;
        }
    }
}

/* The children of a node: their bytes, and where in `order` the tokens of each begin. */
typedef struct {
    uint8_t bytes[256];
    uint32_t firsts[257];
    uint32_t count;
} trie_children;

static void trie_find_children(const ek_vocabulary *v, uint32_t low, uint32_t high, unsigned depth, trie_children *c) {
    c->count = 0;
    for (uint32_t i = low; i < high; i++) {
        uint8_t byte = v->file[v->records[v->order[i]].offset + depth];
        if (c->count && c->bytes[c->count - 1] == byte) continue;
        c->bytes[c->count] = byte;
        c->firsts[c->count++] = i;
    }
    c->firsts[c->count] = high;
}

static int trie_fits(const ek_vocabulary *v, uint32_t base, const trie_children *c) {
    if ((uint32_t)v->trie[base].record & TRIE_BASE_USED) return 0;
    for (uint32_t i = 0; i < c->count; i++)
        if (v->trie[base + c->bytes[i]].link != TRIE_FREE) return 0;
    return 1;
}

typedef struct {
    uint32_t hint; /* before it nearly every node is in use */
    uint32_t end;  /* after the last node in use */
} trie_space;

/* A base at which all children find free nodes, or 0 if the memory is used up. */
static uint32_t trie_place(const ek_vocabulary *v, const trie_children *c, trie_space *space) {
    uint32_t first = c->bytes[0], base = space->hint > first ? space->hint - first : 1, tries = 0, full = 0;
    for (; tries < TRIE_TRIES && base + 512 < v->nodes; tries++, base++) {
        if (trie_fits(v, base, c)) break;
        full += v->trie[base + first].link != TRIE_FREE;
    }
    if (tries > 16 && full * 8 > tries * 7) space->hint = base + first;
    if (tries == TRIE_TRIES || base + 512 >= v->nodes) base = space->end;
    while (base + 512 < v->nodes && !trie_fits(v, base, c)) base++;
    if (base + 512 >= v->nodes) return 0;
    uint32_t last = base + c->bytes[c->count - 1] + 1;
    if (last > space->end) space->end = last;
    return base;
}

/* Until a node is visited, `record` of it holds the best record so far; the top bit says that its index is a base. */
static void trie_set(ek_tm_node *node, uint32_t link, int32_t record) {
    node->link = link;
    node->record = (int32_t)(((uint32_t)record & ~TRIE_BASE_USED) | ((uint32_t)node->record & TRIE_BASE_USED));
}

typedef struct {
    uint32_t node, low, high; /* a child whose own children are next, and its tokens */
    uint32_t next, end;       /* its later siblings: tokens in `order` */
    int32_t best;
} trie_frame;

/* Places the children of a node, of tokens low..high at a depth. Returns its base; 0 without memory. */
static uint32_t trie_expand(ek_vocabulary *v, uint32_t low, uint32_t high, unsigned depth, trie_space *space) {
    trie_children c;
    trie_find_children(v, low, high, depth, &c);
    uint32_t base = trie_place(v, &c, space);
    if (!base) return 0;
    v->trie[base].record = (int32_t)((uint32_t)v->trie[base].record | TRIE_BASE_USED);
    for (uint32_t i = 0; i < c.count; i++) trie_set(&v->trie[base + c.bytes[i]], c.bytes[i] + 1u, -1);
    return base;
}

/* Gives a node its children and its record; depth first, over a stack as deep as the longest token. */
static int trie_build(ek_vocabulary *v, uint32_t count) {
    trie_frame stack[TRIE_DEPTH + 1];
    trie_space space = {257, 257};
    uint32_t leaf = v->nodes - 256; /* a base without children */
    unsigned depth = 0;
    trie_frame root = {0, 0, count, 0, 0, -1};
    stack[0] = root;
    for (;;) {
        trie_frame *frame = &stack[depth];
        uint32_t low = frame->low;
        if (low < frame->high && v->records[v->order[low]].length == depth) frame->best = (int32_t)v->order[low++];
        uint32_t base = low < frame->high ? trie_expand(v, low, frame->high, depth, &space) : leaf;
        if (!base) return 0;
        trie_set(&v->trie[frame->node], base << 9 | (v->trie[frame->node].link & 511), frame->best);
        frame->next = low;
        frame->end = frame->high;
        /* On to the first child, or to the next sibling of the nearest node that has one. */
        while (depth && stack[depth].next == stack[depth].end) depth--;
        frame = &stack[depth];
        if (frame->next == frame->end) return 1;
        trie_frame *child = &stack[depth + 1];
        uint8_t byte = v->file[v->records[v->order[frame->next]].offset + depth];
        child->low = frame->next;
        while (frame->next < frame->end && v->file[v->records[v->order[frame->next]].offset + depth] == byte)
            frame->next++;
        child->high = frame->next;
        child->node = (v->trie[frame->node].link >> 9) + byte;
        child->best = frame->best;
        depth++;
    }
}

int ek_vocabulary_index(ek_vocabulary *v, const uint8_t *silent, ek_error *error) {
    static const ek_tm_node unused = {TRIE_FREE, 0x7FFFFFFF};
    if (!v->trie) {
        v->silent = silent;
        return EK_OK;
    }
    for (uint32_t i = 0; i < v->nodes; i++) v->trie[i] = unused;
    v->trie[0].link = 0;
    trie_skip_silent(v, silent);
    uint32_t count = trie_sort(v, silent);
    if (v->nodes >= 1u << 23 || !trie_build(v, count))
        return ek_fail(error, EK_UNSUPPORTED, "the vocabulary's tokens do not fit into %u nodes", (uint64_t)v->nodes);
    for (uint32_t i = 0; i < v->nodes; i++) {
        ek_tm_node *node = &v->trie[i];
        if (node->link == TRIE_FREE) node->link = 0; /* no label */
        uint32_t record = (uint32_t)node->record & ~TRIE_BASE_USED;
        node->record = record == 0x7FFFFFFF ? -1 : (int32_t)record;
    }
    return EK_OK;
}
