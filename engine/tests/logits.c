/* logits FILE KV TOKEN...: float32 logits after each token on standard output, little endian. Compiled by tests of other
 * compilers and processors together with the joined edgekit.c, or with the library of a wheel; with three threads unless
 * EK_NO_THREADS is defined. */
#include <stdio.h>
#include <stdlib.h>
#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#endif

#include "edgekit.h"

static void *block(size_t size) {
    unsigned char *memory = malloc(size + EK_ALIGNMENT);
    return memory ? (void *)(((uintptr_t)memory + EK_ALIGNMENT - 1) & ~(uintptr_t)(EK_ALIGNMENT - 1)) : NULL;
}

int main(int count, char **arguments) {
    static uint32_t tokens[1024];
    size_t n = 0, size = 0, length;
    FILE *file = count > 3 ? fopen(arguments[1], "rb") : NULL;
    if (!file) return 2;
    fseek(file, 0, SEEK_END);
    length = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(length);
    if (!bytes || fread(bytes, 1, length, file) != length) return 2;
    for (int i = 3; i < count && n < 1024; i++) tokens[n++] = (uint32_t)strtoul(arguments[i], NULL, 10);
    ek_options options = {.kv = (uint32_t)strtoul(arguments[2], NULL, 10)};
    ek_model *model = NULL;
    ek_error error = {""};
    int status = 0;
#if !defined(EK_NO_THREADS)
    size = ek_threads_size(3);
    status = ek_threads_open(3, block(size), size, &options.threads, &error);
#endif
    if (!status) status = ek_model_size(bytes, length, &options, &size, &error);
    if (status || ek_model_open(bytes, length, &options, block(size), size, &model, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    size_t values = n * ek_model_info(model)->vocabulary;
    float *logits = malloc(values * sizeof *logits);
    if (!logits || ek_forward(model, tokens, n, logits, 1)) return 1;
    fprintf(stderr, "%s\n", ek_model_instructions(model));
#if !defined(EK_NO_THREADS)
    ek_threads_close(options.threads);
#endif
#if defined(_WIN32)
    _setmode(_fileno(stdout), _O_BINARY);
#endif
    return fwrite(logits, sizeof *logits, values, stdout) == values ? 0 : 1;
}
