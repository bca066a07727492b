// Greedy decoding from token ids to token ids: a GGUF from edgekit in plain C, with llama.cpp's C API alone.
//
//     pip install 'edgekit-lm[llamacpp,gguf]'                       # brings libllama and its headers
//     edgekit convert --to gguf --quant q8_0 -o story.gguf
//     SITE=$(python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
//     cc -O2 story.c -I$SITE/include -L$SITE/llama_cpp/lib -Wl,-rpath,$SITE/llama_cpp/lib -lllama -o story
//     ./story story.gguf 40 $(edgekit tokenize "Once upon a time" | awk '{ print $1 }') | edgekit tokenize --decode
//
// It handles no text, since llama.cpp would split a text differently from the TokenMonster tokenizer that the model was
// trained with. BOS is added as the file asks. The settings are those of edgekit's own runtime.

#include <stdio.h>
#include <stdlib.h>

#include "llama.h"

static void errors_only(enum ggml_log_level level, const char *text, void *unused) {
    (void)unused;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int fail(const char *what) {
    fprintf(stderr, "story: %s\n", what);
    return 1;
}

// The likeliest id; of equals the lowest.
static llama_token likeliest(const float *logits, int count) {
    llama_token best = 0;
    for (llama_token id = 1; id < count; id++)
        if (logits[id] > logits[best]) best = id;
    return best;
}

int main(int argc, char **argv) {
    if (argc < 4) return fail("usage: story MODEL.gguf NEW_TOKENS ID [ID ...]"), 2;
    llama_log_set(errors_only, NULL);
    llama_backend_init();

    struct llama_model_params how = llama_model_default_params();
    how.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(argv[1], how);
    if (!model) return fail("cannot load the model");
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    const int size = llama_vocab_n_tokens(vocab);

    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = llama_model_n_ctx_train(model);
    params.n_batch = params.n_ctx;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;  // the cache is float16 anyway
    params.n_threads = params.n_threads_batch = 1;  // a small model finishes a step before a second thread wakes up
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) return fail("cannot create a context");

    const int limit = atoi(argv[2]);
    const int bos = llama_vocab_get_add_bos(vocab);
    int count = 0;
    llama_token *ids = malloc(sizeof *ids * (size_t)(argc - 3 + bos));
    if (!ids) return fail("out of memory");
    if (bos) ids[count++] = llama_vocab_bos(vocab);
    for (int i = 3; i < argc; i++) {
        char *end;
        const long id = strtol(argv[i], &end, 10);
        if (*end || id < 0 || id >= size) return fail("an id is not a number, or outside the vocabulary"), 2;
        ids[count++] = (llama_token)id;
    }
    if (count > (int)params.n_ctx) return fail("the prompt does not fit into the context");

    // The whole prompt first, then token by token: llama.cpp keeps the tokens before in its KV cache.
    llama_token *next = ids;
    int used = count;
    for (int printed = 0; printed < limit && used <= (int)params.n_ctx; printed++, used++) {
        if (llama_decode(context, llama_batch_get_one(next, count))) return fail("decoding failed");
        ids[0] = likeliest(llama_get_logits_ith(context, -1), size);
        if (llama_vocab_is_eog(vocab, ids[0])) break;
        printf(printed ? " %d" : "%d", ids[0]);
        fflush(stdout);
        next = ids, count = 1;
    }
    puts("");

    free(ids);
    llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
