/* Texts from a GGUF file in blocks of exactly their size, for the sanitizers: build/checked/generate FILE.
 * tests/test_engine_generate.py checks what is generated. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../edgekit.h"

static void fail(const char *what) {
    fprintf(stderr, "generate: %s\n", what);
    exit(1);
}

static void *block(size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, EK_ALIGNMENT, size)) fail("no memory");
    return memory;
}

static void *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("the file cannot be read");
    *length = (size_t)ftell(file);
    rewind(file);
    void *data = block(*length);
    if (fread(data, 1, *length, file) != *length) fail("the file cannot be read");
    fclose(file);
    return data;
}

typedef struct {
    size_t length;
    int left;
} counter;

static int count(void *context, const ek_new_token *token) {
    counter *c = context;
    char *copy = malloc(token->length + 1);
    memcpy(copy, token->text, token->length);
    c->length += token->length;
    free(copy);
    return c->left-- == 0;
}

int main(int argc, char **argv) {
    static const char *const stops[] = {"the", " and then", ".\n"};
    const char *text = "The cat sat on the mat and \xf0\x9f\x99\x82 na\xc3\xafve";
    size_t length, size = 0, all = 0;
    ek_error error = {{0}};
    ek_model *model = NULL;
    ek_tokenizer *tokenizer = NULL;
    ek_options options = {.context = 48};
    if (argc != 2) fail("needs a GGUF file");
    void *file = read_file(argv[1], &length);
    if (ek_model_size(file, length, &options, &size, &error)) fail(error.text);
    void *model_memory = block(size);
    if (ek_model_open(file, length, &options, model_memory, size, &model, &error)) fail(error.text);
    if (ek_tokenizer_size(file, length, 0, &size, &error)) fail(error.text);
    void *tokenizer_memory = block(size);
    if (ek_tokenizer_open(file, length, 0, tokenizer_memory, size, &tokenizer, &error)) fail(error.text);
    for (uint32_t i = 0; i < 48; i++) {
        uint32_t ids[64];
        size = ek_encode_size(tokenizer, strlen(text));
        void *work = block(size + 1);
        int64_t found = ek_encode(tokenizer, text, strlen(text), EK_ADD_BOS, ids, 64, work, size);
        free(work);
        if (found < 1 || found > 40) fail("an impossible number of ids");
        uint32_t prompt_count = 1 + i % (uint32_t)found;
        uint32_t *prompt = malloc(prompt_count * sizeof *prompt);
        memcpy(prompt, ids, prompt_count * sizeof *prompt);
        ek_generating settings = {.stops = stops, .stop_count = i % 4, .max_new_tokens = i % 3 * 9};
        ek_sampling_defaults(&settings.sampling);
        settings.ban_replacement = i / 2 % 2, settings.ignore_ends = i / 4 % 2;
        settings.sampling.temperature = i % 5 * 0.7, settings.sampling.seed = i;
        settings.sampling.repetition_penalty = 1.2, settings.sampling.no_repeat_ngram_size = i % 7 == 0 ? 3 : 0;
        size = ek_generation_size(model, tokenizer, &settings, prompt_count);
        void *memory = block(size);
        counter c = {0, i % 6 == 0 ? 4 : 1000};
        int status = ek_generate(memory, size, model, tokenizer, &settings, prompt, prompt_count, count, &c, &error);
        if (status < 0) fail(error.text);
        all += c.length;
        free(memory), free(prompt);
    }
    free(model_memory), free(tokenizer_memory), free(file);
    printf("generate: 48 texts, %zu bytes\n", all);
    return 0;
}
