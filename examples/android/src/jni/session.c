/* The engine for Java: what edgekit/Native.kt declares, models here and texts in text.c.
 *
 * A model is a `session`, whose address Kotlin has as a number; 0 is a closed one. Kotlin makes sure that one thread at a
 * time is here. An error becomes an EdgekitException with the engine's sentence, and the result then means nothing. Texts
 * are UTF-8 in byte arrays, because the encoding of JNI's own strings is another. */
#include "session.h"

/* ---- errors ---- */

void throw_text(JNIEnv *env, const char *text) {
    char ascii[sizeof(ek_error)]; /* JNI wants its own encoding, and names from a file may be ill-formed */
    size_t length = 0;
    for (; text[length] && length + 1 < sizeof ascii; length++)
        ascii[length] = (unsigned char)text[length] < 128 ? text[length] : '?';
    ascii[length] = 0;
    jclass class = (*env)->FindClass(env, "edgekit/EdgekitException");
    if (class) (*env)->ThrowNew(env, class, ascii);
}

int failed(JNIEnv *env, int64_t status, const ek_error *error) {
    if (status >= 0) return 0;
    const char *text = status == EK_NO_TOKEN     ? "every token is banned: nothing can follow"
                       : status == EK_NOT_FINITE ? "the logits are not finite: a bias is too large, or the model is damaged"
                       : status == EK_CONTEXT    ? "the tokens do not fit into the context"
                       : status == EK_MEMORY     ? "there is not enough memory"
                                                 : "an argument is out of range";
    throw_text(env, error && error->text[0] ? error->text : text);
    return 1;
}

void *allocated(JNIEnv *env, size_t size) {
    void *block = NULL;
    if (size > PTRDIFF_MAX - EK_ALIGNMENT || posix_memalign(&block, EK_ALIGNMENT, size + !size)) {
        throw_text(env, "there is not enough memory: open the model with a smaller context");
        return NULL;
    }
    return block;
}

void *block(JNIEnv *env, session *s, int which, size_t size) {
    free(s->blocks[which]);
    return s->blocks[which] = allocated(env, size);
}

session *opened(JNIEnv *env, jlong handle) {
    if (!handle) throw_text(env, "the model is closed");
    return (session *)(intptr_t)handle;
}

session *with_tokenizer(JNIEnv *env, jlong handle) {
    session *s = opened(env, handle);
    if (!s || s->tokenizer) return s;
    throw_text(env, s->no_tokenizer.text);
    return NULL;
}

/* ---- arrays ---- */

void *copied(JNIEnv *env, jarray array, size_t item, uint32_t *count) {
    if (!array) {
        throw_text(env, "an argument is null");
        return NULL;
    }
    jsize length = (*env)->GetArrayLength(env, array);
    void *items = allocated(env, (size_t)length * item + 1);
    if (!items) return NULL;
    if (item == 1) (*env)->GetByteArrayRegion(env, array, 0, length, items);
    else (*env)->GetIntArrayRegion(env, array, 0, length, items);
    if (item == 1) ((char *)items)[length] = 0;
    *count = (uint32_t)length;
    return items;
}

jbyteArray bytes_of(JNIEnv *env, const void *bytes, size_t length) {
    if (length > INT32_MAX) {
        throw_text(env, "a text of more than 2 GB");
        return NULL;
    }
    jbyteArray array = (*env)->NewByteArray(env, (jsize)length);
    if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)length, bytes);
    return array;
}

/* ---- a model ---- */

static int open_tokenizer(JNIEnv *env, session *s) {
    ek_error error = {""};
    size_t size;
    int status = ek_tokenizer_size(s->file, s->length, 0, &size, &error);
    if (status == EK_UNSUPPORTED) { /* its tokens can be used all the same */
        s->no_tokenizer = error;
        return 0;
    }
    if (failed(env, status, &error) || !block(env, s, TOKENIZER, size)) return -1;
    status = ek_tokenizer_open(s->file, s->length, 0, s->blocks[TOKENIZER], size, &s->tokenizer, &error);
    return failed(env, status, &error) ? -1 : 0;
}

static int open_model(JNIEnv *env, session *s, jint context, jint kv, jint threads) {
    ek_error error = {""};
    size_t size;
    if (failed(env, ek_generating_defaults(s->file, s->length, &s->defaults, &error), &error)) return -1;
    if (context < 0 || threads < 0 || kv < 0) return throw_text(env, "context, kv and threads must be 0 or more"), -1;
    if (threads > 1) {
        size = ek_threads_size((uint32_t)threads);
        if (threads <= 256 && !block(env, s, THREADS, size)) return -1;
        if (failed(env, ek_threads_open((uint32_t)threads, s->blocks[THREADS], size, &s->threads, &error), &error)) return -1;
    }
    ek_options options = {.context = (uint32_t)context, .kv = (uint32_t)kv, .threads = s->threads};
    if (failed(env, ek_model_size(s->file, s->length, &options, &size, &error), &error)) return -1;
    if (!block(env, s, MODEL, size)) return -1;
    int status = ek_model_open(s->file, s->length, &options, s->blocks[MODEL], size, &s->model, &error);
    if (failed(env, status, &error)) return -1;
    s->ids = allocated(env, ((size_t)ek_model_context(s->model) + 1) * sizeof *s->ids);
    return s->ids ? 0 : -1;
}

static void close_session(JNIEnv *env, session *s) {
    ek_threads_close(s->threads);
    for (size_t i = 0; i < sizeof s->blocks / sizeof *s->blocks; i++) free(s->blocks[i]);
    free(s->ids);
    if (s->buffer) (*env)->DeleteGlobalRef(env, s->buffer);
    free(s);
}

JNIEXPORT jlong JNICALL Java_edgekit_Native_open(JNIEnv *env, jclass unused, jobject buffer, jlong position, jlong length,
                                                 jint context, jint kv, jint threads) {
    (void)unused;
    const uint8_t *bytes = buffer ? (*env)->GetDirectBufferAddress(env, buffer) : NULL;
    jlong capacity = buffer ? (*env)->GetDirectBufferCapacity(env, buffer) : -1;
    if (capacity < 0 || (!bytes && capacity)) return throw_text(env, "the model's bytes are not in a direct buffer"), 0;
    if (position < 0 || length < 0 || position > capacity || length > capacity - position)
        return throw_text(env, "the model's bytes are not within the buffer"), 0;
    session *s = allocated(env, sizeof *s);
    if (!s) return 0;
    *s = (session){.file = bytes + position, .length = (size_t)length, .buffer = (*env)->NewGlobalRef(env, buffer)};
    if (s->buffer && !open_model(env, s, context, kv, threads) && !open_tokenizer(env, s)) return (jlong)(intptr_t)s;
    close_session(env, s);
    return 0;
}

JNIEXPORT void JNICALL Java_edgekit_Native_close(JNIEnv *env, jclass unused, jlong handle) {
    (void)unused;
    if (handle) close_session(env, (session *)(intptr_t)handle);
}

/* What edgekit.Info has, in its order. */
JNIEXPORT jlongArray JNICALL Java_edgekit_Native_info(JNIEnv *env, jclass unused, jlong handle) {
    (void)unused;
    session *s = opened(env, handle);
    if (!s) return NULL;
    const ek_info *info = ek_model_info(s->model);
    const ek_tokenizer_info *text = s->tokenizer ? ek_tokenizer_describe(s->tokenizer) : NULL;
    jlong values[] = {info->vocabulary, info->layers, info->hidden, ek_model_context(s->model), (jlong)info->parameters,
                      s->threads ? s->threads->count : 1, text ? text->bos : -1, text ? text->eos : -1};
    jsize count = sizeof values / sizeof *values;
    jlongArray array = (*env)->NewLongArray(env, count);
    if (array) (*env)->SetLongArrayRegion(env, array, 0, count, values);
    return array;
}

JNIEXPORT jbyteArray JNICALL Java_edgekit_Native_instructions(JNIEnv *env, jclass unused, jlong handle) {
    (void)unused;
    session *s = opened(env, handle);
    if (!s) return NULL;
    const char *name = ek_model_instructions(s->model);
    size_t length = 0;
    while (name[length]) length++;
    return bytes_of(env, name, length);
}
