/* The engine as a WebAssembly module, for edgekit/web/javascript. It imports nothing. An instance has one model, and
 * JavaScript closes the model by dropping the instance: that frees its whole memory.
 *
 *     [ data and stack | the file | model and tokenizer | blocks of calls, the last one on top ]
 *
 * Numbers go in as arguments and come out in arrays of double, whose order is written here and in engine.js, and whose
 * length engine.js checks. */
#include "../internal.h"

#define EXPORT(name) __attribute__((export_name(name)))
#define PAGE 65536u

/* The linker's symbol: memory from here on is free. */
extern unsigned char __heap_base; /* NOLINT */

static uint64_t top;      /* free from here on */
static uint32_t length;   /* of the file */
static ek_model *model;
static ek_tokenizer *tokenizer;
static ek_generation *generation;
static ek_generating settings;
static ek_error error;
static ek_value value;
static double numbers[20];

static unsigned char *file(void) { return &__heap_base + (EK_ALIGNMENT - (uintptr_t)&__heap_base % EK_ALIGNMENT); }

/* ---- memory ---- */

/* Grows the memory so that it has `end` bytes. */
static int reach(uint64_t end) {
    uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) * PAGE;
    if (end <= have) return EK_OK;
    uint64_t pages = (end - have + PAGE - 1) / PAGE;
    if (end < (uint64_t)1 << 32 && __builtin_wasm_memory_grow(0, (size_t)pages) != (size_t)-1) return EK_OK;
    return ek_fail(&error, EK_MEMORY,
                   "the model needs %u MB of memory, more than can be had here: take a smaller model or a shorter context",
                   (end + 999999) / 1000000);
}

/* An aligned block on top, or NULL: the reason is in `error`. */
static void *block(uint64_t size) {
    uint64_t at = (top + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT;
    if (reach(at + size)) return NULL;
    top = at + size;
    return (void *)(uintptr_t)at;
}

/* Space for a call's arguments and results; `release` gives back everything since `mark`. */
EXPORT("space") void *space(double size) { return block((uint64_t)size); }
EXPORT("mark") double mark(void) { return (double)top; }
EXPORT("release") void release(double to) { top = (uint64_t)to; }

/* Space for the file's first `size` bytes; what is in it stays when it grows. */
EXPORT("file_space") void *file_space(double size) {
    top = (uintptr_t)file();
    return block((uint64_t)size);
}

EXPORT("error_text") const char *error_text(void) { return error.text; }
EXPORT("numbers") const double *numbers_at(void) { return numbers; }

/* Hands out an array; returns its length, or the status if that is an error. */
static int record(const double *values, int count, int status) {
    for (int i = 0; i < count; i++) numbers[i] = values[i];
    return status ? status : count;
}

/* ---- the model ---- */

static int open_tokenizer(void) {
    size_t size = 0;
    int status = ek_tokenizer_size(file(), length, 0, &size, &error);
    void *memory = status ? NULL : block(size);
    if (!memory) return status ? status : EK_MEMORY;
    status = ek_tokenizer_open(file(), length, 0, memory, size, &tokenizer, &error);
    if (status) return status;
    uint32_t tokens = ek_tokenizer_describe(tokenizer)->vocabulary, rows = ek_model_info(model)->vocabulary;
    if (tokens != rows)
        return ek_fail(&error, EK_DAMAGED, "the tokenizer has %u tokens, but the embedding has %u rows",
                       (uint64_t)tokens, (uint64_t)rows);
    return EK_OK;
}

/* Opens the file of `bytes` bytes. `context`: 0, or the most positions of the cache. */
EXPORT("open") int open(double bytes, uint32_t context, uint32_t kv) {
    ek_info info;
    size_t size = 0;
    length = (uint32_t)bytes;
    int status = ek_inspect(file(), length, &info, &error);
    if (status) return status;
    ek_options options = {.context = context && context < info.context ? context : info.context, .kv = kv};
    status = ek_model_size(file(), length, &options, &size, &error);
    void *memory = status ? NULL : block(size);
    if (!memory) return status ? status : EK_MEMORY;
    status = ek_model_open(file(), length, &options, memory, size, &model, &error);
    return status ? status : open_tokenizer();
}

EXPORT("instructions") const char *instructions(void) { return ek_model_instructions(model); }

EXPORT("facts") int facts(void) {
    const ek_info *info = ek_model_info(model);
    const ek_tokenizer_info *text = ek_tokenizer_describe(tokenizer);
    double all[] = {info->vocabulary, ek_model_context(model), info->context, info->layers, info->hidden,
                    (double)info->parameters, text->bos, text->eos, text->add_bos, (double)length};
    return record(all, sizeof all / sizeof *all, EK_OK);
}

/* The value of a key. */
EXPORT("find") int find(const char *key) {
    int status = ek_find(file(), length, &key, 1, &value, &error);
    double all[] = {value.type, value.array, (double)value.count, (double)(uintptr_t)value.data, (double)value.length};
    return record(all, sizeof all / sizeof *all, status);
}

EXPORT("forward") int forward(const uint32_t *ids, uint32_t count, float *logits) {
    return ek_forward(model, ids, count, logits, 0);
}

EXPORT("rewind") int rewind(uint32_t to) { return ek_rewind(model, to); }

/* ---- text ---- */

/* Ids of a text, in a block on top of the caller's; its address is in numbers[0]. Returns their number. */
EXPORT("encode") int encode(const char *text, uint32_t bytes, uint32_t flags) {
    size_t size = ek_encode_size(tokenizer, bytes);
    void *work = block(size);
    if (!work) return EK_MEMORY;
    int64_t count = ek_encode(tokenizer, text, bytes, flags, NULL, 0, work, size);
    if (count < 0) return ek_fail(&error, (int)count, "the text is too long to be encoded");
    uint32_t *ids = block((uint64_t)count * 4);
    if (!ids) return EK_MEMORY;
    numbers[0] = (double)(uintptr_t)ids;
    return (int)ek_encode(tokenizer, text, bytes, flags, ids, (size_t)count, work, size);
}

/* The bytes of ids, likewise; a text is at most (count + 1) * longest. */
EXPORT("decode") int decode(const uint32_t *ids, uint32_t count) {
    ek_decoder decoder;
    uint64_t longest = ek_tokenizer_describe(tokenizer)->longest, size = 0;
    char *out = block((count + (uint64_t)1) * longest);
    if (!out) return EK_MEMORY;
    ek_decoder_start(&decoder, tokenizer);
    for (uint32_t i = 0; i < count; i++) size += ek_decoder_feed(&decoder, ids[i], out + size);
    size += ek_decoder_flush(&decoder, out + size);
    numbers[0] = (double)(uintptr_t)out;
    return (int)size;
}

/* The text of an id in the middle of a sentence, likewise, or a special token's spelling. */
EXPORT("piece") int piece(uint32_t id) {
    static const char *const key = "tokenizer.ggml.tokens";
    size_t size = 2 * ek_tokenizer_describe(tokenizer)->longest;
    uint32_t type = ek_token_type(tokenizer, id);
    if (type && !(type & EK_PADDING) && !ek_find(file(), length, &key, 1, &value, &error)) {
        ek_strings strings = ek_value_strings(&value);
        const char *spelling = NULL;
        for (uint32_t i = 0; i <= id; i++)
            if (!ek_next_string(&strings, &spelling, &size)) return 0;
        numbers[0] = (double)(uintptr_t)spelling;
        return (int)size;
    }
    ek_decoder decoder;
    int count = encode("a", 1, 0); /* before the id; nothing is capitalised after it */
    const uint32_t *context = (const uint32_t *)(uintptr_t)numbers[0];
    char *out = block(size);
    if (count < 0 || !out) return EK_MEMORY;
    ek_decoder_start(&decoder, tokenizer);
    for (int i = 0; i < count; i++) ek_decoder_feed(&decoder, context[i], out);
    size = ek_decoder_feed(&decoder, id, out);
    size += ek_decoder_flush(&decoder, out + size);
    numbers[0] = (double)(uintptr_t)out;
    return (int)size;
}

/* ---- generation ---- */

/* The model's settings, in the order of `start`. */
EXPORT("defaults") int defaults(void) {
    const ek_sampling *s = &settings.sampling;
    int status = ek_generating_defaults(file(), length, &settings, &error);
    double all[] = {s->temperature, s->top_k, s->top_p, s->min_p, s->repetition_penalty, s->presence_penalty,
                    s->frequency_penalty, settings.max_new_tokens, settings.ignore_ends, settings.ban_replacement};
    return record(all, sizeof all / sizeof *all, status);
}

/* Prepares a text with the settings in `numbers`, which were checked. `stops`: texts with a NUL after each. `ends`: ids
 * that end it besides the model's own. */
EXPORT("start") int start(uint64_t seed, const char *stops, uint32_t stop_count, const uint32_t *ends, uint32_t end_count,
                          const uint32_t *prompt, uint32_t count, uint32_t reuse) {
    ek_sampling *s = &settings.sampling;
    const char **pointers = block(stop_count * sizeof *pointers);
    if (!pointers) return EK_MEMORY;
    for (uint32_t i = 0; i < stop_count; i++) {
        pointers[i] = stops;
        while (*stops++) {}
    }
    s->temperature = numbers[0], s->top_k = (uint32_t)numbers[1], s->top_p = numbers[2], s->min_p = numbers[3];
    s->repetition_penalty = numbers[4], s->presence_penalty = numbers[5], s->frequency_penalty = numbers[6];
    s->seed = seed, s->ends = ends, s->end_count = end_count;
    settings.max_new_tokens = (uint32_t)numbers[7], settings.ignore_ends = (uint32_t)numbers[8];
    settings.ban_replacement = (uint32_t)numbers[9];
    settings.stops = pointers, settings.stop_count = stop_count, settings.reuse = reuse;
    size_t size = ek_generation_size(model, tokenizer, &settings, count);
    void *memory = block(size);
    if (!memory) return EK_MEMORY;
    return ek_generation_start(&generation, memory, size, model, tokenizer, &settings, prompt, count, &error);
}

static void hand_out(const ek_new_token *token) {
    numbers[0] = token->token, numbers[1] = token->finish;
    numbers[2] = (double)(uintptr_t)token->text, numbers[3] = (double)token->length;
}

/* 1 and a token in `numbers`, 0 after the last, or a negative status. */
EXPORT("next") int next(void) {
    ek_new_token token = {0, 0, NULL, 0};
    int status = ek_generation_next(generation, &token);
    hand_out(&token);
    switch (status) {
        case EK_ARGUMENT:
            return ek_fail(&error, status, "the temperature is too small to divide by: 0 takes the most likely token");
        case EK_NO_TOKEN: return ek_fail(&error, status, "every token is banned: nothing can follow");
        case EK_NOT_FINITE: return ek_fail(&error, status, "the logits are not finite: the model is damaged");
        default: return status;
    }
}

/* Ends the text: what was kept back is in `numbers`. */
EXPORT("cancel") void cancel(void) {
    ek_new_token token = {0, 0, NULL, 0};
    ek_generation_cancel(generation, &token);
    hand_out(&token);
}

/* What the last token was chosen from, in blocks on top: the logits, the ids that could be chosen, and their weights, of
 * which the addresses are in `numbers`. Returns the number of those ids. */
EXPORT("choice") int choice(void) {
    uint32_t vocabulary = ek_model_info(model)->vocabulary;
    const float *logits = NULL;
    double *weights = block((uint64_t)vocabulary * sizeof *weights);
    uint32_t *ids = block((uint64_t)vocabulary * sizeof *ids);
    if (!weights || !ids) return EK_MEMORY;
    int count = ek_generation_choice(generation, &logits, ids, weights);
    numbers[0] = (double)(uintptr_t)logits, numbers[1] = (double)(uintptr_t)ids, numbers[2] = (double)(uintptr_t)weights;
    return count;
}
