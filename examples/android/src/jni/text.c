/* Ids, logits and texts for Java: see session.c. */
#include "session.h"

/* ---- ids ---- */

/* The ids of a text, to be freed; NULL after an exception. Their number is not bounded by the text's bytes: a vocabulary may
 * decompose characters. So the first pass counts. */
static uint32_t *encoded(JNIEnv *env, session *s, const char *text, size_t length, uint32_t flags, jsize *count) {
    size_t work_size = ek_encode_size(s->tokenizer, length);
    void *work = allocated(env, work_size);
    uint32_t *ids = NULL;
    if (work) {
        int64_t found = ek_encode(s->tokenizer, text, length, flags, NULL, 0, work, work_size);
        if (found > INT32_MAX) found = EK_MEMORY;
        if (!failed(env, found, NULL)) ids = allocated(env, (size_t)found * sizeof *ids);
        if (ids) *count = (jsize)ek_encode(s->tokenizer, text, length, flags, ids, (size_t)found, work, work_size);
    }
    free(work);
    return ids;
}

JNIEXPORT jintArray JNICALL Java_edgekit_Native_encode(JNIEnv *env, jclass unused, jlong handle, jbyteArray text,
                                                       jint flags) {
    (void)unused;
    session *s = with_tokenizer(env, handle);
    uint32_t length;
    jsize count;
    char *bytes = s ? copied(env, text, 1, &length) : NULL;
    uint32_t *ids = bytes ? encoded(env, s, bytes, length, (uint32_t)flags, &count) : NULL;
    jintArray array = ids ? (*env)->NewIntArray(env, count) : NULL;
    if (array) (*env)->SetIntArrayRegion(env, array, 0, count, (const jint *)ids);
    free(ids);
    free(bytes);
    return array;
}

/* The text of ids. ends[i]: how many bytes there are after id i; one more for what the decoder still held. */
JNIEXPORT jbyteArray JNICALL Java_edgekit_Native_decode(JNIEnv *env, jclass unused, jlong handle, jintArray tokens,
                                                        jintArray ends) {
    (void)unused;
    session *s = with_tokenizer(env, handle);
    uint32_t count;
    uint32_t *ids = s ? copied(env, tokens, sizeof *ids, &count) : NULL;
    if (!ids) return NULL;
    size_t longest = ek_tokenizer_describe(s->tokenizer)->longest, length = 0;
    char *text = NULL;
    jbyteArray array = NULL;
    if (!ends || (uint32_t)(*env)->GetArrayLength(env, ends) != count + 1) throw_text(env, "ends: one for each id and one more");
    else text = allocated(env, ((size_t)count + 1) * longest + 1);
    if (text) {
        ek_decoder decoder;
        ek_decoder_start(&decoder, s->tokenizer);
        for (uint32_t i = 0; i < count; i++) {
            length += ek_decoder_feed(&decoder, ids[i], text + length);
            ids[i] = (uint32_t)length;
        }
        length += ek_decoder_flush(&decoder, text + length);
        array = bytes_of(env, text, length);
    }
    if (array) {
        jint end = (jint)length;
        (*env)->SetIntArrayRegion(env, ends, 0, (jsize)count, (const jint *)ids);
        (*env)->SetIntArrayRegion(env, ends, (jsize)count, 1, &end);
    }
    free(text);
    free(ids);
    return array;
}

/* float32 (vocabulary) after these ids, from an empty cache. */
JNIEXPORT jfloatArray JNICALL Java_edgekit_Native_logits(JNIEnv *env, jclass unused, jlong handle, jintArray tokens) {
    (void)unused;
    session *s = opened(env, handle);
    uint32_t count;
    uint32_t *ids = s ? copied(env, tokens, sizeof *ids, &count) : NULL;
    if (!ids) return NULL;
    s->generation = NULL, s->cached = 0;
    jsize vocabulary = (jsize)ek_model_info(s->model)->vocabulary;
    float *logits = allocated(env, (size_t)vocabulary * sizeof *logits);
    jfloatArray array = NULL;
    if (logits) {
        int status = ek_rewind(s->model, 0);
        if (!status) status = ek_forward(s->model, ids, count, logits, 0);
        if (!failed(env, status, NULL)) array = (*env)->NewFloatArray(env, vocabulary);
        if (array) (*env)->SetFloatArrayRegion(env, array, 0, vocabulary, logits);
    }
    free(logits);
    free(ids);
    return array;
}

/* ---- a text ---- */

/* What edgekit.Settings has, in its order; not a number: the file's own. */
enum {
    TEMPERATURE, TOP_P, MIN_P, REPETITION_PENALTY, PRESENCE_PENALTY, FREQUENCY_PENALTY, TOP_K, NO_REPEAT_NGRAM_SIZE,
    MAX_NEW_TOKENS, IGNORE_EOS, BAN_REPLACEMENT, SETTINGS
};

/* Replaces `*setting` by a number, unless there is none. Returns whether it is an integer of 32 bits. */
static int set_integer(uint32_t *setting, double number) {
    if (number != number) return 1;
    if (!(number >= 0 && number <= UINT32_MAX) || number != (double)(uint32_t)number) return 0;
    *setting = (uint32_t)number;
    return 1;
}

static int read_numbers(JNIEnv *env, jdoubleArray array, ek_generating *settings) {
    double numbers[SETTINGS];
    if (!array || (*env)->GetArrayLength(env, array) != SETTINGS) return throw_text(env, "settings: another number of them"), -1;
    (*env)->GetDoubleArrayRegion(env, array, 0, SETTINGS, numbers);
    ek_sampling *s = &settings->sampling;
    double *floats[] = {&s->temperature, &s->top_p, &s->min_p, &s->repetition_penalty, &s->presence_penalty,
                        &s->frequency_penalty};
    for (int i = 0; i < TOP_K; i++)
        if (numbers[i] == numbers[i]) *floats[i] = numbers[i];
    static const char *const names[] = {"top_k must be an integer from 0 on",
                                        "no_repeat_ngram_size must be an integer from 0 on",
                                        "max_new_tokens must be an integer from 0 on",
                                        "ignore_eos must be 0 or 1", "ban_replacement must be 0 or 1"};
    uint32_t *integers[] = {&s->top_k, &s->no_repeat_ngram_size, &settings->max_new_tokens, &settings->ignore_ends,
                            &settings->ban_replacement};
    for (int i = TOP_K; i < SETTINGS; i++)
        if (!set_integer(integers[i - TOP_K], numbers[i])) return throw_text(env, names[i - TOP_K]), -1;
    return 0;
}

/* `stops`: texts with a NUL after each. They outlive the call in a block of the session. */
static int read_stops(JNIEnv *env, session *s, jbyteArray stops, ek_generating *settings) {
    uint32_t length, count = 0;
    char *bytes = copied(env, stops, 1, &length);
    if (!bytes) return -1;
    for (uint32_t i = 0; i < length; i++) count += !bytes[i];
    const char **texts = block(env, s, STOPS, count * sizeof *texts + length + 1);
    if (texts) {
        char *copy = (char *)(texts + count);
        for (uint32_t i = 0, n = 0, begin = 0; i < length; i++) {
            copy[i] = bytes[i];
            if (!bytes[i]) texts[n++] = copy + begin, begin = i + 1;
        }
        settings->stops = texts, settings->stop_count = count;
    }
    free(bytes);
    return texts ? 0 : -1;
}

/* How many tokens of the prompt are in the cache; its last one is always read, since its logits are needed. */
static uint32_t shared(const session *s, const uint32_t *prompt, uint32_t count) {
    uint32_t n = 0;
    while (n < s->cached && n + 1 < count && s->ids[n] == prompt[n]) n++;
    return n;
}

static void start(JNIEnv *env, session *s, const uint32_t *prompt, uint32_t count, ek_generating *settings) {
    ek_error error = {""};
    uint32_t context = ek_model_context(s->model);
    settings->reuse = shared(s, prompt, count);
    size_t size = ek_generation_size(s->model, s->tokenizer, settings, count);
    if (!block(env, s, GENERATION, size)) return;
    s->cached = 0;
    for (uint32_t i = 0; i < count && i < context; i++) s->ids[i] = prompt[i];
    /* A prompt longer than the context is refused before it is looked at. */
    int status = ek_generation_start(&s->generation, s->blocks[GENERATION], size, s->model, s->tokenizer, settings, s->ids,
                                     count, &error);
    s->prompt_count = s->count = count;
    if (failed(env, status, &error)) s->generation = NULL;
}

/* Starts a text; one that was being generated ends. Returns how many tokens of the prompt are not read again. */
JNIEXPORT jint JNICALL Java_edgekit_Native_start(JNIEnv *env, jclass unused, jlong handle, jintArray prompt,
                                                 jdoubleArray numbers, jlong seed, jbyteArray stops) {
    (void)unused;
    session *s = opened(env, handle);
    if (!s) return 0;
    s->generation = NULL;
    ek_generating settings = s->defaults;
    settings.sampling.seed = (uint64_t)seed;
    if (read_numbers(env, numbers, &settings) || read_stops(env, s, stops, &settings)) return 0;
    uint32_t count;
    uint32_t *ids = copied(env, prompt, sizeof *ids, &count);
    if (ids) start(env, s, ids, count, &settings);
    free(ids);
    return (jint)settings.reuse;
}

/* The text of a token, or of the rest; state: the token, and why the text ends or 0. */
static jbyteArray handed_out(JNIEnv *env, const ek_new_token *token, jintArray state) {
    jint values[] = {(jint)token->token, (jint)token->finish};
    if (!state || (*env)->GetArrayLength(env, state) != 2) return throw_text(env, "state: two numbers"), NULL;
    (*env)->SetIntArrayRegion(env, state, 0, 2, values);
    return bytes_of(env, token->text, token->length);
}

/* The next token's text; null after the last. */
JNIEXPORT jbyteArray JNICALL Java_edgekit_Native_next(JNIEnv *env, jclass unused, jlong handle, jintArray state) {
    (void)unused;
    session *s = opened(env, handle);
    ek_new_token token;
    if (!s) return NULL;
    if (!s->generation) return throw_text(env, "no text is being generated"), NULL;
    int status = ek_generation_next(s->generation, &token);
    if (failed(env, status, NULL)) s->generation = NULL, s->cached = 0;
    if (status <= 0) return NULL;
    s->cached = s->count; /* the new token is read with the next step */
    s->ids[s->count++] = token.token;
    return handed_out(env, &token, state);
}

/* Ends the text; returns what was kept back of it. */
JNIEXPORT jbyteArray JNICALL Java_edgekit_Native_cancel(JNIEnv *env, jclass unused, jlong handle, jintArray state) {
    (void)unused;
    session *s = opened(env, handle);
    ek_new_token token;
    if (!s) return NULL;
    if (!s->generation) return throw_text(env, "no text is being generated"), NULL;
    ek_generation_cancel(s->generation, &token);
    s->generation = NULL;
    return handed_out(env, &token, state);
}
