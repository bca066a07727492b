#include "story.h"

/* Hands out the block from its beginning. */
typedef struct {
    uint8_t *at;
    size_t left;
} pool;

static void say(ek_error *error, const char *text) {
    size_t i = 0;
    while (text[i] && i + 1 < sizeof error->text) error->text[i] = text[i], i++;
    error->text[i] = 0;
}

/* The next `size` bytes; NULL, and a sentence, if fewer are left. */
static void *take(pool *memory, size_t size, ek_error *error) {
    uint8_t *block = memory->at;
    size_t whole = (size + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT;
    if (size > whole || whole > memory->left) {
        say(error, "the board has too little memory for this context: take a shorter one");
        return NULL;
    }
    memory->at += whole;
    memory->left -= whole;
    return block;
}

/* The ids of the prompt; more than `most` are counted and not written. */
static int64_t encode(const ek_tokenizer *tokenizer, const char *prompt, uint32_t *ids, uint32_t most, pool *memory,
                      ek_error *error) {
    size_t length = 0;
    while (prompt[length]) length++;
    pool rest = *memory; /* work memory is free again afterwards */
    size_t work = ek_encode_size(tokenizer, length);
    void *block = take(&rest, work, error);
    if (!block) return EK_MEMORY;
    return ek_encode(tokenizer, prompt, length, EK_ADD_BOS, ids, most, block, work);
}

static int tell(ek_generation *generation, story_write *write, story_report *report, ek_error *error) {
    ek_new_token token;
    for (;;) {
        int status = ek_generation_next(generation, &token);
        if (status < 0) say(error, "the model's numbers are not finite: the file is damaged");
        if (status < 0) return status;
        report->tokens++;
        write(token.text, token.length);
        if (token.finish) return (int)token.finish;
    }
}

int story_run(const void *file, size_t length, const char *prompt, const story_settings *settings, void *memory,
              size_t size, story_write *write, story_report *report, ek_error *error) {
    pool pool = {memory, size};
    ek_options options = {.context = settings->context, .kv = EK_KV_I8, .batch = 1, .direct = 1};
    ek_generating generating;
    ek_model *model;
    ek_tokenizer *tokenizer;
    ek_generation *generation;
    void *block;
    *report = (story_report){0};

    int status = ek_model_size(file, length, &options, &report->model, error);
    if (status) return status;
    if (!(block = take(&pool, report->model, error))) return EK_MEMORY;
    status = ek_model_open(file, length, &options, block, report->model, &model, error);
    if (status) return status;

    status = ek_tokenizer_size(file, length, EK_COMPACT, &report->tokenizer, error);
    if (status) return status;
    if (!(block = take(&pool, report->tokenizer, error))) return EK_MEMORY;
    status = ek_tokenizer_open(file, length, EK_COMPACT, block, report->tokenizer, &tokenizer, error);
    if (status) return status;

    uint32_t most = ek_model_context(model), *ids = take(&pool, most * sizeof *ids, error);
    if (!ids) return EK_MEMORY;
    int64_t count = encode(tokenizer, prompt, ids, most, &pool, error);
    if (count < 0) return (int)count;
    report->prompt = (uint32_t)count;

    status = ek_generating_defaults(file, length, &generating, error);
    if (status) return status;
    generating.sampling.seed = settings->seed;
    generating.max_new_tokens = settings->max_new_tokens;
    if (count <= most) { /* else the start fails, before it reads an id */
        report->generation = ek_generation_size(model, tokenizer, &generating, report->prompt);
        if (!(block = take(&pool, report->generation, error))) return EK_MEMORY;
    }
    status = ek_generation_start(&generation, block, report->generation, model, tokenizer, &generating, ids,
                                 report->prompt, error);
    if (status) return status;
    for (const char *end = prompt; *end || (write(prompt, (size_t)(end - prompt)), 0); end++) {}
    return tell(generation, write, report, error);
}
