/* Prints a story from a GGUF file of edgekit: prompt in, text out, with the engine alone.
 *
 *     edgekit convert --to gguf --quant q4_0 -o story.gguf
 *     make -C engine joined
 *     cc -O3 -Iengine/build/joined examples/embedding/story.c engine/build/joined/edgekit.c -pthread -o story
 *     ./story story.gguf "Once upon a time"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgekit.h"

static void *block(size_t size) { return aligned_alloc(EK_ALIGNMENT, (size / EK_ALIGNMENT + 1) * EK_ALIGNMENT); }

static int print(void *unused, const ek_new_token *token) {
    (void)unused;
    fwrite(token->text, 1, token->length, stdout);
    return fflush(stdout);
}

/* Exits with the engine's sentence about what went wrong. */
static void check(int status, const ek_error *error) {
    if (status < 0) fprintf(stderr, "story: %s\n", error->text[0] ? error->text : "no memory"), exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: story MODEL.gguf PROMPT\n"), 2;
    FILE *file = fopen(argv[1], "rb");
    if (!file || fseek(file, 0, SEEK_END)) return fprintf(stderr, "story: cannot read %s\n", argv[1]), 1;
    size_t length = (size_t)ftell(file), size = 0;
    char *data = block(length + 1);
    rewind(file);
    if (!data || fread(data, 1, length, file) != length) return fprintf(stderr, "story: cannot read %s\n", argv[1]), 1;

    ek_error error = {""};
    ek_model *model;
    ek_options options = {0};
    check(ek_model_size(data, length, &options, &size, &error), &error);
    check(ek_model_open(data, length, &options, block(size), size, &model, &error), &error);
    ek_tokenizer *tokenizer;
    check(ek_tokenizer_size(data, length, 0, &size, &error), &error);
    check(ek_tokenizer_open(data, length, 0, block(size), size, &tokenizer, &error), &error);

    size_t bytes = strlen(argv[2]);
    size = ek_encode_size(tokenizer, bytes);
    void *work = block(size);
    /* The first call counts: a vocabulary may decompose characters, so there can be more ids than bytes. */
    int64_t count = ek_encode(tokenizer, argv[2], bytes, EK_ADD_BOS, NULL, 0, work, size);
    check((int)count, &error);
    uint32_t *prompt = malloc(((size_t)count + 1) * sizeof *prompt);
    if (!prompt) return fprintf(stderr, "story: no memory\n"), 1;
    ek_encode(tokenizer, argv[2], bytes, EK_ADD_BOS, prompt, (size_t)count, work, size);

    ek_generating settings = {.max_new_tokens = 200, .ban_replacement = 1};
    ek_sampling_defaults(&settings.sampling);
    settings.sampling.temperature = 0.8, settings.sampling.top_p = 0.95, settings.sampling.seed = 7;
    size = ek_generation_size(model, tokenizer, &settings, (uint32_t)count);
    fputs(argv[2], stdout);
    int status = ek_generate(block(size), size, model, tokenizer, &settings, prompt, (uint32_t)count, print, NULL, &error);
    check(status, &error);
    return puts("") < 0;
}
