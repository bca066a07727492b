/* edgekit: runs a small Llama from a GGUF file.
 *
 * C99 without dependencies: no allocation, no operating system, no libm. The caller owns the file's bytes and one block
 * of memory for each object, whose size it can ask for. Everything read from a file is checked before it is used. The
 * logits have the same bits on every processor, with any number of threads; docs/arithmetic.md specifies how.
 *
 * An object belongs to one thread at a time. Functions return EK_OK or a negative status; the sentence about the last
 * error of a call that takes an `ek_error` is in it. Memory blocks must be aligned to EK_ALIGNMENT.
 */
#ifndef EDGEKIT_H
#define EDGEKIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EK_VERSION "0.4.0"
#define EK_INTERFACE 3 /* grows with every change of this file that breaks programs compiled before */
#define EK_ALIGNMENT 64

#if defined(_WIN32) && defined(EK_SHARED)
#define EK_API __declspec(dllexport)
#elif defined(__GNUC__)
#define EK_API __attribute__((visibility("default")))
#else
#define EK_API
#endif

/* ---- errors ---- */

typedef enum {
    EK_OK = 0,
    EK_DAMAGED = -1,     /* the file is cut short or contradicts itself */
    EK_UNSUPPORTED = -2, /* a valid file that this engine does not run: another architecture or type, named in the text */
    EK_MEMORY = -3,      /* the block of memory is too small or not aligned */
    EK_ARGUMENT = -4,    /* an argument is out of range */
    EK_CONTEXT = -5,     /* the tokens do not fit into the context; nothing was appended */
    EK_NO_TOKEN = -6,    /* every token is banned: nothing can follow */
    EK_NOT_FINITE = -7   /* the logits are not finite: a bias is too large, or the model is damaged */
} ek_status;

/* One sentence, NUL-terminated UTF-8; empty if there was no error. */
typedef struct {
    char text[256];
} ek_error;

EK_API const char *ek_version(void);
EK_API int ek_interface(void);

/* ---- metadata of a GGUF file: gguf.c ---- */

/* Types of a value, by GGUF's numbers. */
enum {
    EK_UINT8, EK_INT8, EK_UINT16, EK_INT16, EK_UINT32, EK_INT32, EK_FLOAT32, EK_BOOL, EK_STRING, EK_ARRAY, EK_UINT64,
    EK_INT64, EK_FLOAT64,
    EK_ABSENT = 255 /* the file does not have the key */
};

/* A value, in the file's bytes (little endian, not aligned). */
typedef struct {
    uint32_t type;       /* of the value, or of the items of an array */
    uint32_t array;      /* 1: an array */
    uint64_t count;      /* items; 1 if it is no array */
    const uint8_t *data; /* the number, the text without its length, or the first item */
    size_t length;       /* bytes of `data` */
} ek_value;

/* Finds the values of `count` keys in one pass: values[i] is that of keys[i], of type EK_ABSENT if there is none. Every
 * length and count in the metadata has been checked when it returns EK_OK. The values point into the file's bytes. */
EK_API int ek_find(const void *file, size_t length, const char *const *keys, size_t count, ek_value *values,
                   ek_error *error);

/* Item `i` of an integer, boolean or float value as a number. Returns EK_ARGUMENT for another type, an index out of
 * range, or (as an unsigned number) a negative value. */
EK_API int ek_value_unsigned(const ek_value *value, uint64_t i, uint64_t *out);
EK_API int ek_value_double(const ek_value *value, uint64_t i, double *out);

/* Walks over the strings of an EK_STRING value or array. Returns 1 and the next string, or 0 at the end. */
typedef struct {
    const uint8_t *at;
    uint64_t left;
    uint32_t array;
    size_t length; /* of a single string: value.length */
} ek_strings;
EK_API ek_strings ek_value_strings(const ek_value *value);
EK_API int ek_next_string(ek_strings *strings, const char **bytes, size_t *length);

/* ---- model: config.c, model.c, state.c, forward.c ---- */

typedef struct ek_model ek_model;

/* What a file's model is. */
typedef struct {
    uint32_t vocabulary; /* rows of the embedding: logits have so many values */
    uint32_t hidden, intermediate, layers, heads, kv_heads, head_dim;
    uint32_t context; /* positions that the file says it was trained for */
    float epsilon, rope_theta;
    float rope_factor; /* frequencies are divided by it; 1: no linear scaling */
    uint32_t tied;     /* 1: the embedding is the output matrix */
    uint32_t biases;   /* 1: some products have a bias */
    uint64_t parameters;
    uint64_t step_bytes; /* of the file that a step reads: all matrices once */
} ek_info;

/* Reads and checks a file's keys and tensors: a llama whose types this engine runs. */
EK_API int ek_inspect(const void *file, size_t length, ek_info *info, ek_error *error);

/* 1 if all values of a tensor are finite, 0 if one is not a number or infinite, or the type is none of F32, F16 and BF16
 * (GGUF's numbers 0, 1 and 30). Opening a model does not check it. */
EK_API int ek_all_finite(uint32_t type, const void *values, size_t count);

/* Types of the cache of keys and values. */
enum { EK_KV_F32 = 1, EK_KV_F16 = 2, EK_KV_I8 = 3 };

/* Threads that a host lends to models, one pass at a time. The core calls no operating system: threads_posix.c and
 * threads_windows.c do. Another host fills in the first four and starts count - 1 threads that call ek_threads_work until
 * they are to end. */
typedef struct ek_threads ek_threads;
struct ek_threads {
    uint32_t count; /* threads, with the caller's; more than 8 are not faster */
    /* Returns when *word is no longer `old`, or earlier. Spins shortly, then sleeps. */
    void (*wait)(ek_threads *self, const uint32_t *word, uint32_t old);
    /* *word has changed: wakes those who wait for that. */
    void (*wake)(ek_threads *self, const uint32_t *word);
    /* Nanoseconds of a steady clock; NULL: none. With it, steps are the caller's alone where other programs use the
     * processors too and sharing would only make it wait. */
    uint64_t (*now)(ek_threads *self);
    /* The engine's own, 0 at first. */
    const struct ek_job *job;
    uint64_t usual;
    uint32_t phase, chunks, state, alone, penalty;
};

/* Does a piece of the work that there is, or waits for some; thread is 1 to count - 1, each in use once. */
EK_API int ek_threads_work(ek_threads *threads, uint32_t thread);

/* Threads of POSIX systems; not in builds with EK_NO_THREADS, for WebAssembly or for bare machines. `count` includes the
 * caller's; the block of ek_threads_size(count) bytes is aligned to EK_ALIGNMENT and outlives them. Close the threads
 * before freeing it, and not while a model uses them. They do not survive a fork. */
EK_API size_t ek_threads_size(uint32_t count);
EK_API int ek_threads_open(uint32_t count, void *memory, size_t size, ek_threads **threads, ek_error *error);
EK_API void ek_threads_close(ek_threads *threads);

/* All zero: the defaults. */
typedef struct {
    uint32_t context;         /* positions of the cache; 0: info.context */
    uint32_t kv;              /* EK_KV_*; 0: f16 */
    uint32_t batch;           /* tokens of a prompt that are computed at once, 1 to 64; 0: 16. Changes no bit. */
    uint32_t direct;          /* 1: run on the file's own bytes; opens at once, and is slower. It and its generations
                               * take little memory. Changes no bit. */
    const char *instructions; /* a name of ek_instructions; NULL: the best that the processor has. Changes no bit. */
    ek_threads *threads;      /* NULL: the caller's alone. Changes no bit. */
} ek_options;

/* Names of instruction sets that this library has and this processor can run, the best first; NULL from `i` on. */
EK_API const char *ek_instructions(uint32_t i);

/* Bytes that ek_model_open needs. */
EK_API int ek_model_size(const void *file, size_t length, const ek_options *options, size_t *size, ek_error *error);

/* Opens a model in the caller's block of `size` bytes, aligned to EK_ALIGNMENT. The file's bytes and the block must
 * outlive it, and *model points into the block: to close it, free the block. */
EK_API int ek_model_open(const void *file, size_t length, const ek_options *options, void *memory, size_t size,
                         ek_model **model, ek_error *error);

EK_API const ek_info *ek_model_info(const ek_model *model);
EK_API uint32_t ek_model_context(const ek_model *model);
EK_API const char *ek_model_instructions(const ek_model *model);

/* Appends n >= 1 tokens. `logits`: float32 (vocabulary) for the last token; with `every` not 0 (n, vocabulary), one row
 * a token; NULL: none are computed. Errors, after which nothing has been appended: EK_ARGUMENT (a token outside the
 * vocabulary, or n is 0), EK_CONTEXT. */
EK_API int ek_forward(ek_model *model, const uint32_t *tokens, size_t n, float *logits, int every);

/* Tokens in the cache. */
EK_API size_t ek_length(const ek_model *model);

/* Keeps the first `length` tokens. EK_ARGUMENT if there are fewer. */
EK_API int ek_rewind(ek_model *model, size_t length);

/* The cache as bytes, which any model of the same file, cache type and engine version takes, whatever its context,
 * threads and instruction set. Load returns EK_DAMAGED for other bytes, EK_CONTEXT if they do not fit; the cache is
 * then empty. */
EK_API size_t ek_state_size(const ek_model *model);
EK_API int ek_state_save(const ek_model *model, void *bytes, size_t size);
EK_API int ek_state_load(ek_model *model, const void *bytes, size_t size);

/* ---- sampler: sampler.c ---- */

/* From logits to a token. The rules, their order and their rounding are those of edgekit/inference/sampling.py, whose
 * docstring is the specification: the same seed and logits give the same tokens there and here. */
typedef struct ek_sampler ek_sampler;

/* Fill it with `ek_sampling_defaults` first. Arrays are copied. */
typedef struct {
    double temperature;                         /* 0 (default): always the most likely token */
    double top_p;                               /* 1: off; 0: the most likely token */
    double min_p;                               /* 0: off */
    double repetition_penalty;                  /* 1: off; counts prompt and text */
    double presence_penalty, frequency_penalty; /* 0: off; count the text */
    double decay_factor;                        /* 0: off. After `decay_start` tokens the logits of `ends` rise */
    uint64_t seed;
    uint32_t top_k;                /* 0: off */
    uint32_t decay_start;          /* in tokens of the text */
    uint32_t no_repeat_ngram_size; /* 0: off */
    uint32_t bias_count, banned_count, suppressed_count, end_count, bad_word_count;
    const uint32_t *bias_ids; /* each once */
    const float *biases;     /* added to the logits of `bias_ids` */
    const uint32_t *banned;   /* never chosen */
    const uint32_t *suppressed; /* never chosen; ids outside the vocabulary are ignored */
    const uint32_t *ends;       /* end the text: what `decay_factor` raises and a bad word of one token cannot ban */
    const uint32_t *bad_words;  /* sequences that never occur, one after the other */
    const uint32_t *bad_word_lengths;
} ek_sampling;

/* A state of the sampler, for `ek_sampler_rewind`. */
typedef struct {
    uint64_t step;
    uint32_t seen, text;
} ek_mark;

EK_API void ek_sampling_defaults(ek_sampling *sampling);

/* Bytes of memory for a sampler. `capacity`: the most tokens of prompt and text together. */
EK_API size_t ek_sampler_size(const ek_sampling *sampling, uint32_t vocab_size, uint32_t capacity);

/* The sampler is placed at the beginning of `memory`. The repetition penalty and the rules see the prompt. */
EK_API int ek_sampler_init(ek_sampler **sampler, void *memory, size_t size, const ek_sampling *sampling,
                           uint32_t vocab_size, uint32_t capacity, const uint32_t *prompt, uint32_t prompt_count,
                           ek_error *error);

/* The next token (0 or more), remembered for the penalties, or a negative status: EK_NO_TOKEN, EK_NOT_FINITE,
 * EK_ARGUMENT (the temperature is too small to divide by), EK_CONTEXT (`capacity` is used up).
 * `logits`: one for each id; they are not changed. `allowed`: NULL, or a bit for each id, id i in bit i % 8 of byte
 * i / 8; the others cannot be chosen. */
EK_API int ek_sampler_choose(ek_sampler *sampler, const float *logits, const uint8_t *allowed);

/* The same, with the token's probability: after all filters, or at temperature 0 after penalties, bias and bans. */
EK_API int ek_sampler_guess(ek_sampler *sampler, const float *logits, const uint8_t *allowed, double *probability);

/* What `ek_sampler_choose` draws from: the number of ids, ascending, with weights of which the largest is 1.
 * Nothing is remembered. Both arrays have space for the whole vocabulary. */
EK_API int ek_sampler_distribution(ek_sampler *sampler, const float *logits, const uint8_t *allowed, uint32_t *ids,
                                   double *weights);

/* Continue as if `ek_sampler_choose` had returned this token. */
EK_API int ek_sampler_accept(ek_sampler *sampler, uint32_t token);

EK_API ek_mark ek_sampler_mark(const ek_sampler *sampler);

/* Forget the tokens chosen since `mark` was taken. */
EK_API int ek_sampler_rewind(ek_sampler *sampler, ek_mark mark);

/* The same sampler in other memory, of `ek_sampler_size` bytes for its settings and a larger `capacity`. */
EK_API int ek_sampler_move(ek_sampler **sampler, void *memory, size_t size, const ek_sampler *from, uint32_t capacity,
                           ek_error *error);

/* ---- masks of ids that keep a text well-formed UTF-8: utf8_mask.c ---- */

/* Which ids may come next so that U+FFFD is never printed, for `allowed` of the sampler. The automaton is that of
 * edgekit/tokenizers/utf8_mask.py, capcode included. */
typedef struct ek_masks ek_masks;

/* Where the masks get each id's bytes from: as ek_piece, with any `context`. Empty for ids that print nothing. */
typedef size_t ek_piece_of(const void *context, uint32_t id, void *out, size_t capacity);

/* Bytes of memory for the masks of a vocabulary. */
EK_API size_t ek_masks_size(ek_piece_of *piece, const void *context, uint32_t vocab_size);

/* `specials`: ids that print nothing but may be chosen between characters: the end of a text. `capcode`: TokenMonster's
 * level; 0 for every other tokenizer. `piece` and `context` are not used after the call. */
EK_API int ek_masks_init(ek_masks **masks, void *memory, size_t size, ek_piece_of *piece, const void *context,
                         uint32_t vocab_size, const uint32_t *specials, uint32_t special_count, uint32_t capcode,
                         ek_error *error);

/* The state at the beginning of a text, and after a decoder in `state` has read an id. */
enum { EK_MASKS_START = 1 };
EK_API uint32_t ek_masks_advance(const ek_masks *masks, uint32_t state, uint32_t id);

/* The ids that may come next, a bit each as in ek_sampler_choose; valid until the next call. `remaining`: how many ids
 * may follow the next one; no character is begun that they cannot finish. 4 and more are no limit. If a character is
 * pending that nothing can finish, the mask is that of the beginning of a text. */
EK_API const uint8_t *ek_masks_get(ek_masks *masks, uint32_t state, uint32_t remaining);

/* ---- tokenizer: tokenizer.c, tokenmonster*.c, bpe*.c ---- */

/* Text to ids and back. A text is UTF-8; ill-formed bytes are taken as they are. A tokenizer is not changed by its use:
 * several threads may share it. */
typedef struct ek_tokenizer ek_tokenizer;

enum { EK_TOKENMONSTER = 1, EK_SENTENCEPIECE = 2, EK_BYTE_BPE = 3 };

typedef struct {
    uint32_t kind;       /* one of the above */
    uint32_t vocabulary; /* ids are smaller than it */
    int32_t bos, eos;    /* -1: none */
    uint32_t add_bos;    /* 1: a text begins with `bos` */
    uint32_t capcode;    /* TokenMonster's level: 0, 1 or 2 */
    size_t longest;      /* bytes that one call of ek_piece, ek_decoder_feed or ek_decoder_flush may write */
} ek_tokenizer_info;

/* Options of ek_tokenizer_open. EK_BARE: a `.vocab` file as TokenMonster's own library reads it, without ids for BOS and
 * EOS, and with special tokens that a text may become. EK_COMPACT: TokenMonster in a thirtieth of the memory; a text takes
 * longer to encode, to the same ids. */
enum { EK_BARE = 1, EK_COMPACT = 2 };

/* Bytes that ek_tokenizer_open needs. `file`: a GGUF file, of which the beginning up to the tensors is enough, or a
 * TokenMonster `.vocab` file. EK_UNSUPPORTED names a tokenizer that the engine does not have. */
EK_API int ek_tokenizer_size(const void *file, size_t length, uint32_t options, size_t *size, ek_error *error);

/* Opens a tokenizer in the caller's block, aligned to EK_ALIGNMENT. The file's bytes and the block must outlive it. */
EK_API int ek_tokenizer_open(const void *file, size_t length, uint32_t options, void *memory, size_t size,
                             ek_tokenizer **tokenizer, ek_error *error);

EK_API const ek_tokenizer_info *ek_tokenizer_describe(const ek_tokenizer *tokenizer);

/* What an id is: 0 for text, or several of these. Special tokens and padding print nothing. */
enum { EK_SPECIAL = 1, EK_STOP = 2, EK_PADDING = 4 };
EK_API uint32_t ek_token_type(const ek_tokenizer *tokenizer, uint32_t id);

/* The bytes that an id adds in the middle of a text, before TokenMonster's capcode is undone: what masks of ids look
 * at. Returns their number; more than `capacity` are not written. */
EK_API size_t ek_piece(const ek_tokenizer *tokenizer, uint32_t id, void *out, size_t capacity);

/* How special tokens in a text are encoded: as text, or with EK_PARSE_SPECIALS as their ids. EK_ADD_BOS: put BOS first
 * if the model wants it. */
enum { EK_PARSE_SPECIALS = 1, EK_ADD_BOS = 2 };

/* Bytes of work memory, of any alignment, that ek_encode needs for a text of this length. 0 for most TokenMonster
 * vocabularies. */
EK_API size_t ek_encode_size(const ek_tokenizer *tokenizer, size_t length);

/* Returns the number of ids of the whole text, of which the first `capacity` are written, or a negative status:
 * EK_MEMORY, if the work memory is too small, or EK_ARGUMENT for a text of more than 2^30 bytes. */
EK_API int64_t ek_encode(const ek_tokenizer *tokenizer, const char *text, size_t length, uint32_t flags, uint32_t *ids,
                         size_t capacity, void *work, size_t work_size);

/* Turns ids into text as they come; small, and copied by assignment. */
typedef struct {
    uint8_t held[4], held_count, word, character, deleting, fresh; /* of capcode */
} ek_undo;

typedef struct {
    const ek_tokenizer *tokenizer;
    ek_undo undo;
    uint8_t pending[4], pending_count, begun;
} ek_decoder;

EK_API void ek_decoder_start(ek_decoder *decoder, const ek_tokenizer *tokenizer);

/* Writes the bytes that are certain after this id, whole characters, and returns their number. `out` has `longest`
 * bytes. To continue a prompt, feed its ids first and ignore what they write. */
EK_API size_t ek_decoder_feed(ek_decoder *decoder, uint32_t id, void *out);

/* Writes what is still withheld: the bytes of an unfinished character. The decoder starts over. */
EK_API size_t ek_decoder_flush(ek_decoder *decoder, void *out);

/* ---- generation: generate.c ---- */

/* ek_forward of one token, then ek_sampler_choose from its logits: a decode step in one call. `logits` has space for the
 * vocabulary. Returns the next token or the negative status of either. */
EK_API int ek_step(ek_model *model, uint32_t token, float *logits, ek_sampler *sampler, const uint8_t *allowed);

/* How a text is generated. All zero but `sampling` (see ek_sampling_defaults): up to the end of the text or the context.
 * The sampler's `ends` end a text in addition to the tokenizer's. The strings must outlive the generation. */
typedef struct {
    ek_sampling sampling;
    const char *const *stops; /* the text ends before the first of these, each UTF-8 and NUL-terminated */
    uint32_t stop_count;
    uint32_t max_new_tokens;  /* 0: as many as the context holds */
    uint32_t ignore_ends;     /* 1: continue past the end of the text */
    uint32_t ban_replacement; /* 1: never print U+FFFD */
    uint32_t reuse;           /* so many tokens of the prompt are in the model's cache already */
} ek_generating;

/* What `edgekit run` uses for a file without flags: its own sampling settings (`general.sampling.*`), else the most likely
 * token each time; up to 256 tokens. Settings out of range are EK_DAMAGED; `settings` is valid even then. */
EK_API int ek_generating_defaults(const void *file, size_t length, ek_generating *settings, ek_error *error);

/* Why a text ended. */
enum { EK_CONTINUES = 0, EK_STOPPED = 1, EK_LENGTH = 2, EK_CANCELLED = 3 };

/* One new token. */
typedef struct {
    uint32_t token;
    uint32_t finish;  /* EK_CONTINUES, or why it is the last one */
    const char *text; /* what became certain with it: whole characters, and ill-formed bytes as they are; not
                       * NUL-terminated; valid until the next call */
    size_t length;    /* 0 while a character, or what may be a stop string, is unfinished */
} ek_new_token;

typedef struct ek_generation ek_generation;

/* Bytes of memory for a generation. `tokenizer` may be NULL: then there are only tokens, and `stops` and
 * `ban_replacement` cannot be used. */
EK_API size_t ek_generation_size(const ek_model *model, const ek_tokenizer *tokenizer, const ek_generating *settings,
                                 uint32_t prompt_count);

/* Prepares a text; reads the prompt with the first token. The model, its cache until the end, the tokenizer and the
 * prompt belong to the generation until then. EK_CONTEXT: the prompt does not fit into the context. */
EK_API int ek_generation_start(ek_generation **generation, void *memory, size_t size, ek_model *model,
                               const ek_tokenizer *tokenizer, const ek_generating *settings, const uint32_t *prompt,
                               uint32_t prompt_count, ek_error *error);

/* The next token: 1, or 0 after the last, or a negative status (of ek_forward or ek_sampler_choose). No step of the
 * model is made before the next token is asked for. */
EK_API int ek_generation_next(ek_generation *generation, ek_new_token *out);

/* End the text now: the text that was kept back, with `finish` EK_CANCELLED. No token belongs to it. */
EK_API void ek_generation_cancel(ek_generation *generation, ek_new_token *out);

/* What the last token was chosen from. `logits`: of the model, valid until the next token. Returns the number of `ids`,
 * ascending, with the `weights` of ek_sampler_distribution, both with space for the whole vocabulary; EK_ARGUMENT if there
 * is no token yet, or the model is a direct one. */
EK_API int ek_generation_choice(ek_generation *generation, const float **logits, uint32_t *ids, double *weights);

/* All of it in one call. `on_token` gets every token; if it returns something else than 0, the text is cancelled, and
 * what was kept back comes in a last call, with EK_CANCELLED. Returns EK_STOPPED, EK_LENGTH, EK_CANCELLED or a negative
 * status. */
typedef int ek_on_token(void *context, const ek_new_token *token);
EK_API int ek_generate(void *memory, size_t size, ek_model *model, const ek_tokenizer *tokenizer,
                       const ek_generating *settings, const uint32_t *prompt, uint32_t prompt_count,
                       ek_on_token *on_token, void *context, ek_error *error);

#ifdef __cplusplus
}
#endif
#endif
