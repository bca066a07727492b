/* Opens the tokenizer of a GGUF or `.vocab` file, and passes calls on to its kind. */
#include "tokenizer.h"

#include "normalizer.h"

static const char *const tokenizer_keys[EK_KEYS] = {
    "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores", "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id", "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix", "edgekit.file.tokenmonster.vocab",
    "edgekit.file.config.json", "edgekit.file.generation_config.json", "edgekit.file.tokenizer_config.json",
    "llama.vocab_size",
};

/* What a file holds, and how its tokenizer's memory is divided. */
typedef struct {
    ek_value values[EK_KEYS];
    uint32_t kind, vocabulary;
    const uint8_t *vocab; /* the `.vocab` file, of a TokenMonster tokenizer */
    size_t vocab_length;
    size_t inner;         /* bytes of the vocabulary's own tables */
    size_t specials;      /* at most so many spellings */
    size_t texts;         /* bytes of spellings that the file does not have */
} tokenizer_plan;

static int tokenizer_is_gguf(const uint8_t *file, size_t length) {
    return length >= 4 && file[0] == 'G' && file[1] == 'G' && file[2] == 'U' && file[3] == 'F';
}

static ek_text tokenizer_text(const ek_value *value) {
    ek_text text = {(const char *)value->data, value->type == EK_STRING && !value->array ? value->length : 0};
    return text;
}

static int tokenizer_is(const ek_value *value, const char *name) {
    ek_text text = tokenizer_text(value);
    size_t same = 0;
    while (same < text.length && name[same] && text.bytes[same] == name[same]) same++;
    return same == text.length && !name[same];
}

/* TokenMonster: how many ids the model has, and how many special tokens the vocabulary. */
static int tokenizer_plan_monster(tokenizer_plan *plan, uint32_t options, ek_error *error) {
    int status = ek_vocabulary_size(plan->vocab, plan->vocab_length, options & EK_COMPACT, &plan->inner, error);
    if (status) return status;
    uint32_t table_size = plan->vocab[14] | (uint32_t)plan->vocab[15] << 8 | (uint32_t)plan->vocab[16] << 16;
    uint32_t count = plan->vocab[17] | (uint32_t)plan->vocab[18] << 8 | (uint32_t)plan->vocab[19] << 16;
    uint64_t rows = (table_size + 2 + 127) / 128 * 128; /* as files_for in edgekit/tokenizers/tokenmonster */
    if (options & EK_BARE) rows = table_size;
    else if (plan->values[EK_KEY_TOKENS].type == EK_STRING) rows = plan->values[EK_KEY_TOKENS].count;
    else if (plan->values[EK_KEY_VOCAB_SIZE].type != EK_ABSENT)
        ek_value_unsigned(&plan->values[EK_KEY_VOCAB_SIZE], 0, &rows);
    if (rows < table_size || rows > 1u << 24)
        return ek_fail(error, EK_DAMAGED, "the vocabulary has %u ids, the model's embedding %u rows",
                       (uint64_t)table_size, rows);
    plan->vocabulary = (uint32_t)rows;
    size_t place = 24;
    for (uint32_t i = 0; i < count; i++) { /* (lengths are checked) */
        uint32_t size = plan->vocab[place];
        if (plan->vocab[place + 1 + size] & EK_TM_SPECIAL) {
            plan->specials++;
            plan->texts += 2 * (size_t)size + 8;
        }
        place += 1 + size + 15;
    }
    plan->specials += 2;
    plan->texts += 2 * (EK_SPECIAL_LONGEST + 1);
    return EK_OK;
}

static int tokenizer_plan_bpe(tokenizer_plan *plan, ek_error *error) {
    int status = ek_bpe_size(plan->values, &plan->inner, error);
    if (status) return status;
    plan->vocabulary = (uint32_t)plan->values[EK_KEY_TOKENS].count;
    const ek_value *types = &plan->values[EK_KEY_TYPES];
    for (uint32_t id = 0; id < plan->vocabulary && types->type != EK_ABSENT; id++) {
        uint32_t type = ek_u32(types->data + 4 * (size_t)id);
        plan->specials += type == EK_GGUF_CONTROL || type == EK_GGUF_UNKNOWN || type == EK_GGUF_USER_DEFINED;
    }
    return EK_OK;
}

static int tokenizer_make_plan(tokenizer_plan *plan, const uint8_t *file, size_t length, uint32_t options,
                               ek_error *error) {
    static const tokenizer_plan empty;
    *plan = empty;
    for (int i = 0; i < EK_KEYS; i++) plan->values[i].type = EK_ABSENT;
    if (!tokenizer_is_gguf(file, length)) {
        plan->kind = EK_TOKENMONSTER;
        plan->vocab = file;
        plan->vocab_length = length;
        return tokenizer_plan_monster(plan, options, error);
    }
    int status = ek_find(file, length, tokenizer_keys, EK_KEYS, plan->values, error);
    if (status) return status;
    const ek_value *model = &plan->values[EK_KEY_MODEL], *vocab = &plan->values[EK_KEY_VOCAB];
    plan->kind = tokenizer_is(model, "llama") ? EK_SENTENCEPIECE : tokenizer_is(model, "gpt2") ? EK_BYTE_BPE : 0;
    if (plan->kind && !(options & EK_BARE)) return tokenizer_plan_bpe(plan, error);
    if (vocab->type == EK_UINT8 && vocab->array) {
        plan->kind = EK_TOKENMONSTER;
        plan->vocab = vocab->data;
        plan->vocab_length = vocab->length;
        return tokenizer_plan_monster(plan, options, error);
    }
    if (model->type == EK_ABSENT) return ek_fail(error, EK_UNSUPPORTED, "the file has no tokenizer");
    return ek_fail(error, EK_UNSUPPORTED, "the file has a tokenizer of the kind %t, which this engine does not run",
                   tokenizer_text(model));
}

/* ---- the memory block ---- */

static size_t tokenizer_aligned(size_t size) { return (size + 15) & ~(size_t)15; }

static size_t tokenizer_specials_size(size_t count) {
    return tokenizer_aligned(count * sizeof(ek_special)) + tokenizer_aligned(ek_table_size(count) * sizeof(uint32_t));
}

static size_t tokenizer_total(const tokenizer_plan *plan) {
    return tokenizer_aligned(sizeof(ek_tokenizer)) + 2 * tokenizer_specials_size(plan->specials) +
           tokenizer_aligned(plan->inner) + tokenizer_aligned(plan->vocabulary) + plan->texts;
}

int ek_tokenizer_size(const void *file, size_t length, uint32_t options, size_t *size, ek_error *error) {
    tokenizer_plan plan;
    if (error) error->text[0] = 0;
    int status = tokenizer_make_plan(&plan, file, length, options, error);
    if (!status) *size = tokenizer_total(&plan);
    return status;
}

static void *tokenizer_take(uint8_t **at, size_t size) {
    uint8_t *part = *at;
    *at += tokenizer_aligned(size);
    return part;
}

static void tokenizer_start_specials(ek_specials *specials, uint8_t **at, size_t capacity) {
    specials->capacity = (uint32_t)capacity;
    specials->items = tokenizer_take(at, capacity * sizeof(ek_special));
    specials->mask = (uint32_t)ek_table_size(capacity) - 1;
    specials->table = tokenizer_take(at, ek_table_size(capacity) * sizeof(uint32_t));
    for (size_t i = 0; i <= specials->mask; i++) specials->table[i] = 0;
}

/* ---- TokenMonster ---- */

/* A special token is one of the vocabulary, or an id above it; the model may declare others (type CONTROL). */
static int tokenizer_may_stop(const ek_tokenizer *t, uint64_t id) {
    return id >= t->monster.table_size || t->types[id] & EK_SPECIAL;
}

/* A text of GGUF's rwkv vocabulary, a Python-like escape. Returns the length of what it stands for. */
static size_t tokenizer_unescape(ek_text text, uint8_t *out) {
    size_t size = 0;
    for (size_t i = 0; i < text.length && size < EK_SPECIAL_LONGEST; i++) {
        uint8_t c = (uint8_t)text.bytes[i];
        if (c == '\\' && i + 1 < text.length) {
            c = (uint8_t)text.bytes[++i];
            c = c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c;
            if (c == 'x' && i + 2 < text.length) {
                uint8_t value = 0;
                for (int k = 0; k < 2; k++) {
                    uint8_t digit = (uint8_t)text.bytes[++i];
                    value = (uint8_t)(value << 4 | (digit <= '9' ? digit - '0' : digit - 'a' + 10));
                }
                c = value;
            }
        }
        out[size++] = c;
    }
    return size;
}

static ek_text tokenizer_token_text(const ek_value *tokens, uint32_t id) {
    ek_strings strings = ek_value_strings(tokens);
    ek_text text = {"", 0};
    for (uint32_t i = 0; i <= id; i++)
        if (!ek_next_string(&strings, &text.bytes, &text.length)) break;
    return text;
}

static void tokenizer_name(ek_tokenizer *t, const ek_value *tokens, int32_t id, const char *usual, uint8_t **texts) {
    if (id < 0) return;
    ek_text text = {usual, 0};
    while (usual[text.length]) text.length++;
    if (tokens->type == EK_STRING && tokens->array) text = tokenizer_token_text(tokens, (uint32_t)id);
    size_t length = tokenizer_unescape(text, *texts);
    ek_specials_add(&t->parsed, *texts, length, (uint32_t)id);
    *texts += length;
}

/* BOS and EOS are the ids after the vocabulary's, if the file does not name others. */
static void tokenizer_find_ends(ek_tokenizer *t, const ek_value *values) {
    uint32_t base = t->monster.table_size;
    int64_t bos = ek_key_id(values, EK_KEY_BOS, -1);
    ek_find_stops(t, values, tokenizer_may_stop);
    if (bos >= t->info.vocabulary || (bos >= 0 && !tokenizer_may_stop(t, (uint64_t)bos))) bos = -1;
    if (t->info.eos < 0) {
        uint32_t eos = bos == base ? base + 1 : base;
        if (eos < t->info.vocabulary) {
            t->info.eos = (int32_t)eos;
            t->types[eos] |= EK_SPECIAL | EK_STOP;
        }
    }
    for (uint32_t id = base + 2; id-- > base && bos < 0;)
        if (id < t->info.vocabulary && !(t->types[id] & EK_STOP)) bos = id;
    t->info.bos = (int32_t)bos;
    if (bos >= 0) t->types[bos] |= EK_SPECIAL;
}

static int tokenizer_open_monster(ek_tokenizer *t, const tokenizer_plan *plan, uint32_t options, void *memory,
                                  uint8_t *texts, ek_error *error) {
    ek_vocabulary *v = &t->monster;
    int status = ek_vocabulary_open(v, plan->vocab, plan->vocab_length, options & EK_COMPACT, memory, error);
    if (status) return status;
    t->info.capcode = v->level;
    t->info.longest = 2 * EK_TM_LONGEST + 16;
    if (options & EK_BARE) return ek_vocabulary_index(v, NULL, error);
    const ek_value *types = &plan->values[EK_KEY_TYPES];
    for (uint32_t id = v->table_size; id < t->info.vocabulary; id++) t->types[id] = EK_PADDING;
    for (uint32_t id = 0; id < v->table_size; id++) {
        uint64_t type = EK_GGUF_NORMAL;
        ek_value_unsigned(types, id, &type);
        int32_t base = ek_tm_base(v, id);
        int special = base >= 0 && ek_tm_at(v, (uint32_t)base).flags & EK_TM_SPECIAL;
        /* (Of UNK and ids without a token the type says nothing.) */
        if (special || (type == EK_GGUF_CONTROL && base >= 0)) t->types[id] = EK_SPECIAL;
    }
    tokenizer_find_ends(t, plan->values);
    for (uint32_t id = v->table_size; id < t->info.vocabulary; id++)
        if (t->types[id] & EK_SPECIAL) t->types[id] &= (uint8_t)~EK_PADDING;
    tokenizer_name(t, &plan->values[EK_KEY_TOKENS], t->info.eos, "</s>", &texts);
    tokenizer_name(t, &plan->values[EK_KEY_TOKENS], t->info.bos, "<s>", &texts);
    for (uint32_t id = 0; id < v->table_size; id++) {
        int32_t base = ek_tm_base(v, id);
        if (base < 0 || !(ek_tm_at(v, (uint32_t)base).flags & EK_TM_SPECIAL)) continue;
        ek_undo undo = {{0}, 0, 0, 0, 0, 0};
        const ek_tm_record record = ek_tm_at(v, (uint32_t)ek_tm_piece(v, id));
        size_t length = ek_undo_feed(&undo, v->level, v->file + record.offset, record.length, texts);
        length += ek_undo_flush(&undo, v->level, texts + length);
        ek_specials_add(&t->parsed, texts, length, id);
        texts += length;
    }
    return ek_vocabulary_index(v, t->types, error);
}

/* ---- byte-pair encoding ---- */

static int tokenizer_any(const ek_tokenizer *t, uint64_t id) {
    (void)t;
    (void)id;
    return 1;
}

static int tokenizer_open_bpe(ek_tokenizer *t, const tokenizer_plan *plan, void *memory, ek_error *error) {
    const ek_value *values = plan->values;
    ek_bpe *bpe = &t->bpe;
    uint64_t flag;
    bpe->pre = EK_PRE_DEFAULT;
    if (plan->kind == EK_BYTE_BPE && values[EK_KEY_PRE].type != EK_ABSENT &&
        !ek_pre_by_name(tokenizer_text(&values[EK_KEY_PRE]), &bpe->pre, &bpe->whole_words))
        return ek_fail(error, EK_UNSUPPORTED, "the tokenizer splits words like %t, which this engine does not",
                       tokenizer_text(&values[EK_KEY_PRE]));
    int status = ek_bpe_open(bpe, values, memory, error);
    if (status) return status;
    t->info.longest = bpe->longest + 8;
    bpe->space_prefix = bpe->by_score && (ek_value_unsigned(&values[EK_KEY_SPACE_PREFIX], 0, &flag) || flag);
    bpe->unknown = EK_BPE_NONE;
    for (uint32_t id = bpe->count; id--;) {
        static const uint8_t types[] = {0, 0, EK_SPECIAL, EK_SPECIAL, 0, EK_PADDING, 0};
        uint32_t type = ek_bpe_type(bpe, id);
        ek_text text = ek_bpe_text(bpe, id);
        t->types[id] = type < sizeof types ? types[type] : 0;
        if (type == EK_GGUF_UNKNOWN) bpe->unknown = id;
        if (type == EK_GGUF_UNKNOWN || type == EK_GGUF_CONTROL || type == EK_GGUF_USER_DEFINED)
            ek_specials_add(&t->parsed, (const uint8_t *)text.bytes, text.length, id);
        if (type == EK_GGUF_USER_DEFINED)
            ek_specials_add(&t->always, (const uint8_t *)text.bytes, text.length, id);
    }
    ek_find_stops(t, values, tokenizer_any);
    int64_t usual = bpe->by_score ? 1 : 11; /* llama.cpp's, if it is a special token */
    if (usual >= bpe->count || !(t->types[usual] & EK_SPECIAL)) usual = -1;
    int64_t bos = ek_key_id(values, EK_KEY_BOS, usual);
    t->info.bos = bos < bpe->count ? (int32_t)bos : -1;
    if (t->info.bos >= 0) t->types[t->info.bos] |= EK_SPECIAL;
    flag = bpe->by_score || bpe->whole_words;
    ek_value_unsigned(&values[EK_KEY_ADD_BOS], 0, &flag);
    t->info.add_bos = flag && t->info.bos >= 0;
    return EK_OK;
}

int ek_tokenizer_open(const void *file, size_t length, uint32_t options, void *memory, size_t size,
                      ek_tokenizer **tokenizer, ek_error *error) {
    static const ek_tokenizer empty;
    tokenizer_plan plan;
    uint64_t flag = 0;
    if (error) error->text[0] = 0;
    int status = tokenizer_make_plan(&plan, file, length, options, error);
    if (status) return status;
    if (!memory || (uintptr_t)memory % EK_ALIGNMENT || size < tokenizer_total(&plan))
        return ek_fail(error, EK_MEMORY, "the tokenizer needs %u bytes, aligned to %u",
                       (uint64_t)tokenizer_total(&plan), (uint64_t)EK_ALIGNMENT);
    uint8_t *at = memory;
    ek_tokenizer *t = tokenizer_take(&at, sizeof(ek_tokenizer));
    *t = empty;
    t->info.kind = plan.kind;
    t->info.vocabulary = plan.vocabulary;
    t->info.bos = t->info.eos = -1;
    tokenizer_start_specials(&t->parsed, &at, plan.specials);
    tokenizer_start_specials(&t->always, &at, plan.specials);
    void *inner = tokenizer_take(&at, plan.inner);
    t->types = tokenizer_take(&at, plan.vocabulary);
    for (uint32_t id = 0; id < plan.vocabulary; id++) t->types[id] = 0;
    if (plan.kind == EK_TOKENMONSTER) {
        status = tokenizer_open_monster(t, &plan, options, inner, at, error);
        ek_value_unsigned(&plan.values[EK_KEY_ADD_BOS], 0, &flag);
        t->info.add_bos = flag && t->info.bos >= 0;
    } else {
        status = tokenizer_open_bpe(t, &plan, inner, error);
    }
    if (!status) *tokenizer = t;
    return status;
}
