/* From a prompt's ids to a text: the loop of edgekit/inference/generate.py.
 *
 *     prompt -> choose -> hand out -> (the end?) -> step -> choose -> ...
 *
 * No step is made after the last token. */
#include "internal.h"

#include "stop_text.h"

struct ek_generation {
    ek_model *model;
    const ek_tokenizer *tokenizer;
    const uint32_t *prompt;
    uint32_t prompt_count, reuse;
    uint32_t count, limit; /* tokens so far, and the most */
    uint32_t last;         /* the last token, which the model has not read yet */
    uint32_t finish, ignore_ends, ban_replacement, lean;
    uint32_t mask_state;
    float *logits; /* the model's; if lean the sampler's, which changes them */
    uint8_t *ends; /* a bit for each id */
    ek_sampler *sampler;
    ek_mark before; /* the sampler before the last token was chosen, from the ids that were allowed */
    const uint8_t *allowed;
    ek_masks *masks;
    ek_decoder decoder;
    ek_stop_text text;
};

int ek_step(ek_model *model, uint32_t token, float *logits, ek_sampler *sampler, const uint8_t *allowed) {
    int status = ek_forward(model, &token, 1, logits, 0);
    return status ? status : ek_sampler_choose(sampler, logits, allowed);
}

/* ---- memory ---- */

typedef struct {
    size_t logits, ends, end_ids, sampler, masks, text, total; /* where each begins */
    size_t sampler_size, masks_size;
    uint32_t capacity, end_count;
    int lean; /* the model runs on the file's bytes: memory is more precious than time */
} ek_places;

static size_t piece(const void *tokenizer, uint32_t id, void *out, size_t capacity) {
    return ek_piece(tokenizer, id, out, capacity);
}

static int ends_text(const ek_tokenizer *tokenizer, uint32_t id) {
    return tokenizer && ek_token_type(tokenizer, id) & EK_STOP;
}

/* Special tokens that print nothing: between two characters the mask allows them. */
static int is_silent(const ek_tokenizer *tokenizer, uint32_t id) {
    uint32_t type = ek_token_type(tokenizer, id);
    return type & (EK_SPECIAL | EK_STOP) && !(type & EK_PADDING) && !ek_piece(tokenizer, id, NULL, 0);
}

static ek_places places(const ek_model *model, const ek_tokenizer *tokenizer, const ek_generating *settings,
                        uint32_t prompt_count) {
    ek_places p;
    uint32_t vocab_size = ek_model_info(model)->vocabulary, silent = 0, masked = settings->ban_replacement && tokenizer;
    ek_sampling sampling = settings->sampling;
    p.lean = ek_model_is_direct(model);
    p.end_count = sampling.end_count;
    for (uint32_t id = 0; id < vocab_size; id++) {
        p.end_count += ends_text(tokenizer, id) != 0;
        silent += masked && is_silent(tokenizer, id);
    }
    p.capacity = ek_model_context(model) + 1;
    if (prompt_count > p.capacity) p.capacity = prompt_count;
    sampling.end_count = p.end_count;
    p.sampler_size = p.lean ? ek_lean_sampler_size(&sampling, vocab_size, p.capacity)
                            : ek_sampler_size(&sampling, vocab_size, p.capacity);
    p.masks_size = masked ? ek_masks_size(piece, tokenizer, vocab_size) : 0;
    /* A decoder may write a piece and, at the end of a text, what it still holds. */
    size_t longest = tokenizer ? ek_tokenizer_describe(tokenizer)->longest : 0;
    size_t text = ek_stop_text_size(settings->stops, settings->stop_count, 2 * longest + 1);
    p.logits = ek_aligned(sizeof(ek_generation));
    p.ends = p.logits + (p.lean ? 0 : ek_aligned(vocab_size * sizeof(float)));
    p.end_ids = p.ends + ek_aligned((vocab_size + 7) / 8);
    p.sampler = p.end_ids + ek_aligned((silent > p.end_count ? silent : p.end_count) * sizeof(uint32_t));
    p.masks = p.sampler + ek_aligned(p.sampler_size);
    p.text = p.masks + ek_aligned(p.masks_size);
    p.total = p.text + ek_aligned(text);
    return p;
}

size_t ek_generation_size(const ek_model *model, const ek_tokenizer *tokenizer, const ek_generating *settings,
                          uint32_t prompt_count) {
    return places(model, tokenizer, settings, prompt_count).total;
}

static int check_generation(const ek_model *model, const ek_tokenizer *tokenizer, const ek_generating *settings,
                 const uint32_t *prompt, uint32_t prompt_count, ek_error *error) {
    uint32_t vocab_size = ek_model_info(model)->vocabulary, context = ek_model_context(model);
    if (!prompt_count) return ek_fail(error, EK_ARGUMENT, "the prompt is empty: the model needs a token to continue from");
    if (prompt_count > context)
        return ek_fail(error, EK_CONTEXT, "the prompt has %u tokens, but the context holds %u", (uint64_t)prompt_count,
                       (uint64_t)context);
    for (uint32_t i = 0; i < prompt_count; i++)
        if (prompt[i] >= vocab_size)
            return ek_fail(error, EK_ARGUMENT, "prompt: token id %u is outside the vocabulary of %u",
                           (uint64_t)prompt[i], (uint64_t)vocab_size);
    if (settings->reuse >= prompt_count || settings->reuse > ek_length(model))
        return ek_fail(error, EK_ARGUMENT, "reuse: the cache has no %u tokens of a prompt of %u, whose last one is read",
                       (uint64_t)settings->reuse, (uint64_t)prompt_count);
    if (!tokenizer && (settings->stop_count || settings->ban_replacement))
        return ek_fail(error, EK_ARGUMENT, "stops and ban_replacement need a tokenizer");
    for (uint32_t i = 0; i < settings->stop_count; i++)
        if (!settings->stops[i][0]) return ek_fail(error, EK_ARGUMENT, "stops: a text is empty");
    return EK_OK;
}

/* ---- the start ---- */

static int start_sampler(ek_generation *g, const ek_generating *settings, const ek_places *p, uint32_t *ids,
                         ek_error *error) {
    uint32_t vocab_size = ek_model_info(g->model)->vocabulary, count = 0;
    ek_sampling sampling = settings->sampling;
    for (uint32_t i = 0; i < sampling.end_count; i++) ids[count++] = sampling.ends[i];
    for (uint32_t id = 0; id < vocab_size; id++)
        if (ends_text(g->tokenizer, id)) ids[count++] = id;
    __builtin_memset(g->ends, 0, (vocab_size + 7) / 8);
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] < vocab_size) g->ends[ids[i] / 8] = (uint8_t)(g->ends[ids[i] / 8] | 1u << ids[i] % 8);
    sampling.ends = ids, sampling.end_count = count;
    char *block = (char *)g + p->sampler;
    int status = (p->lean ? ek_lean_sampler_init : ek_sampler_init)(&g->sampler, block, p->sampler_size, &sampling,
                                                                    vocab_size, p->capacity, g->prompt,
                                                                    g->prompt_count, error);
    if (status) return status;
    g->logits = p->lean ? ek_sampler_logits(g->sampler) : (float *)(void *)((char *)g + p->logits);
    return EK_OK;
}

static int start_masks(ek_generation *g, const ek_places *p, uint32_t *ids, ek_error *error) {
    uint32_t vocab_size = ek_model_info(g->model)->vocabulary, count = 0;
    for (uint32_t id = 0; id < vocab_size; id++)
        if (is_silent(g->tokenizer, id)) ids[count++] = id;
    int status = ek_masks_init(&g->masks, (char *)g + p->masks, p->masks_size, piece, g->tokenizer, vocab_size, ids,
                               count, ek_tokenizer_describe(g->tokenizer)->capcode, error);
    if (status) return status;
    g->mask_state = EK_MASKS_START;
    for (uint32_t i = 0; i < g->prompt_count; i++)
        g->mask_state = ek_masks_advance(g->masks, g->mask_state, g->prompt[i]);
    return EK_OK;
}

int ek_generation_start(ek_generation **generation, void *memory, size_t size, ek_model *model,
                        const ek_tokenizer *tokenizer, const ek_generating *settings, const uint32_t *prompt,
                        uint32_t prompt_count, ek_error *error) {
    int status = check_generation(model, tokenizer, settings, prompt, prompt_count, error);
    if (status) return status;
    ek_places p = places(model, tokenizer, settings, prompt_count);
    if (!memory || (uintptr_t)memory % EK_ALIGNMENT || size < p.total)
        return ek_fail(error, EK_MEMORY, "a generation needs %u bytes, aligned to %u", (uint64_t)p.total,
                       (uint64_t)EK_ALIGNMENT);
    ek_generation *g = memory;
    __builtin_memset(g, 0, sizeof *g);
    char *block = memory;
    uint32_t *ids = (uint32_t *)(void *)(block + p.end_ids);
    g->model = model, g->tokenizer = tokenizer, g->prompt = prompt, g->prompt_count = prompt_count;
    g->reuse = settings->reuse, g->ignore_ends = settings->ignore_ends, g->lean = (uint32_t)p.lean;
    g->limit = ek_model_context(model) + 1 - prompt_count; /* the last token needs no place in the cache */
    if (settings->max_new_tokens && settings->max_new_tokens < g->limit) g->limit = settings->max_new_tokens;
    g->ends = (uint8_t *)block + p.ends;
    g->text.stops = settings->stops, g->text.count = settings->stop_count, g->text.buffer = block + p.text;
    status = start_sampler(g, settings, &p, ids, error);
    if (!status && settings->ban_replacement) {
        g->ban_replacement = 1;
        status = start_masks(g, &p, ids, error);
    }
    if (status) return status;
    if (tokenizer) {
        ek_decoder_start(&g->decoder, tokenizer);
        for (uint32_t i = 0; i < prompt_count; i++) ek_decoder_feed(&g->decoder, prompt[i], g->text.buffer);
    }
    *generation = g;
    return EK_OK;
}

/* ---- a token ---- */

/* The text still inside the decoder; half a character is dropped if no U+FFFD may be printed. */
static void flush(ek_generation *g) {
    if (g->text.found) return;
    if (g->tokenizer) {
        size_t length = ek_decoder_flush(&g->decoder, ek_stop_text_end(&g->text));
        ek_stop_text_add(&g->text, g->ban_replacement ? 0 : length);
    }
    if (!g->text.found) ek_stop_text_flush(&g->text);
}

static int next_token(ek_generation *g) {
    g->allowed = g->masks ? ek_masks_get(g->masks, g->mask_state, g->limit - 1 - g->count) : NULL;
    g->before = ek_sampler_mark(g->sampler);
    if (g->count) return ek_step(g->model, g->last, g->logits, g->sampler, g->allowed);
    int status = ek_rewind(g->model, g->reuse);
    if (!status) status = ek_forward(g->model, g->prompt + g->reuse, g->prompt_count - g->reuse, g->logits, 0);
    return status ? status : ek_sampler_choose(g->sampler, g->logits, g->allowed);
}

static void hand_out(const ek_generation *g, ek_new_token *out) {
    out->token = g->last, out->finish = g->finish;
    out->text = g->text.buffer, out->length = g->text.out;
}

int ek_generation_next(ek_generation *g, ek_new_token *out) {
    if (g->finish) return 0;
    int token = next_token(g);
    if (token < 0) return token;
    g->last = (uint32_t)token, g->count++;
    ek_stop_text_next(&g->text);
    if (g->ends[g->last / 8] >> g->last % 8 & 1) g->finish = g->ignore_ends ? EK_CONTINUES : EK_STOPPED;
    else if (g->tokenizer) {
        if (g->masks) g->mask_state = ek_masks_advance(g->masks, g->mask_state, g->last);
        ek_stop_text_add(&g->text, ek_decoder_feed(&g->decoder, g->last, ek_stop_text_end(&g->text)));
    }
    if (!g->finish && g->count >= g->limit) g->finish = EK_LENGTH;
    if (g->finish) flush(g);
    if (g->text.found) g->finish = EK_STOPPED;
    hand_out(g, out);
    return 1;
}

void ek_generation_cancel(ek_generation *g, ek_new_token *out) {
    ek_stop_text_next(&g->text);
    if (!g->finish) {
        g->finish = EK_CANCELLED;
        flush(g);
    }
    hand_out(g, out);
}

int ek_generation_choice(ek_generation *g, const float **logits, uint32_t *ids, double *weights) {
    if (!g->count || g->lean) return EK_ARGUMENT;
    *logits = g->logits;
    int status = ek_sampler_rewind(g->sampler, g->before);
    if (status) return status;
    int count = ek_sampler_distribution(g->sampler, g->logits, g->allowed, ids, weights);
    status = ek_sampler_accept(g->sampler, g->last);
    return status ? status : count;
}

int ek_generate(void *memory, size_t size, ek_model *model, const ek_tokenizer *tokenizer,
                const ek_generating *settings, const uint32_t *prompt, uint32_t prompt_count, ek_on_token *on_token,
                void *context, ek_error *error) {
    ek_generation *g;
    ek_new_token token;
    int status = ek_generation_start(&g, memory, size, model, tokenizer, settings, prompt, prompt_count, error);
    while (!status) {
        status = ek_generation_next(g, &token);
        if (status < 0) return ek_fail(error, status, "the model or the sampler failed: status -%u", (uint64_t)-status);
        status = (int)token.finish;
        if (on_token(context, &token) && !status) {
            ek_generation_cancel(g, &token);
            status = (int)token.finish;
            on_token(context, &token);
        }
    }
    return status;
}
