/* Runs Android's library without Java: a JNIEnv of the few functions that it uses, and commands from standard input. An
 * answer is a line; test_android.py documents the commands. The library's path is the argument. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <jni.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Java's objects ---- */

typedef struct {
    jsize length;
    size_t item;
    long references;
    char *data;
} object;

static char thrown[300];
static long alive; /* global references */

static object *new_array(size_t item, jsize length) {
    object *o = calloc(1, sizeof *o);
    o->item = item, o->length = length, o->data = calloc((size_t)length + 1, item);
    return o;
}

static void out_of(const char *what) {
    fprintf(stderr, "the library is wrong: %s\n", what);
    abort();
}

static void region(object *o, size_t item, jsize start, jsize count, void *to, const void *from) {
    if (thrown[0]) out_of("a call with a pending exception");
    if (o->item != item || start < 0 || count < 0 || start > o->length - count) out_of("a region outside an array");
    if (to) memcpy(to, o->data + (size_t)start * item, (size_t)count * item);
    else memcpy(o->data + (size_t)start * item, from, (size_t)count * item);
}

static jclass find_class(JNIEnv *env, const char *name) {
    (void)env;
    if (strcmp(name, "edgekit/EdgekitException")) out_of("another class");
    return (jclass)(void *)name;
}

static jint throw_new(JNIEnv *env, jclass class, const char *text) {
    (void)env, (void)class;
    if (thrown[0]) out_of("a second exception");
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c > 127) out_of("a sentence that is not ASCII");
    snprintf(thrown, sizeof thrown, "%s", text);
    return 0;
}

static jobject new_global(JNIEnv *env, jobject o) { return (void)env, alive++, o; }
static void delete_global(JNIEnv *env, jobject o) { (void)env, (void)o, alive--; }
static jsize length_of(JNIEnv *env, jarray a) { return (void)env, ((object *)a)->length; }
static void *address_of(JNIEnv *env, jobject o) { return (void)env, ((object *)o)->data; }
static jlong capacity_of(JNIEnv *env, jobject o) { return (void)env, ((object *)o)->length; }

#define ARRAY(name, Type, type) \
    static type##Array new_##name(JNIEnv *env, jsize n) { return (void)env, (type##Array)new_array(sizeof(type), n); } \
    static void get_##name(JNIEnv *env, type##Array a, jsize at, jsize n, type *to) { \
        (void)env, region((object *)a, sizeof(type), at, n, to, NULL); \
    } \
    static void set_##name(JNIEnv *env, type##Array a, jsize at, jsize n, const type *from) { \
        (void)env, region((object *)a, sizeof(type), at, n, NULL, from); \
    }
ARRAY(bytes, Byte, jbyte)
ARRAY(ints, Int, jint)
ARRAY(longs, Long, jlong)
ARRAY(floats, Float, jfloat)
ARRAY(doubles, Double, jdouble)

static struct JNINativeInterface_ functions = {
    .FindClass = find_class, .ThrowNew = throw_new, .NewGlobalRef = new_global, .DeleteGlobalRef = delete_global,
    .GetArrayLength = length_of, .GetDirectBufferAddress = address_of, .GetDirectBufferCapacity = capacity_of,
#define CALLS(Type, name) \
    .New##Type##Array = new_##name, .Get##Type##ArrayRegion = get_##name, .Set##Type##ArrayRegion = set_##name
    CALLS(Byte, bytes), CALLS(Int, ints), CALLS(Long, longs), CALLS(Float, floats), CALLS(Double, doubles),
};
static JNIEnv table = &functions;
static JNIEnv *env = &table;

/* ---- words of a command ---- */

static char *word(void) { return strtok(NULL, " \n"); }

static object *ids_of(char *text) { /* 1,2,3; - for none */
    object *o = new_array(4, (jsize)strlen(text));
    char *at = text;
    jsize n = 0;
    while (*at && *at != '-') {
        ((jint *)o->data)[n++] = (jint)strtoul(at, &at, 10);
        at += *at == ',';
    }
    o->length = n;
    return o;
}

static object *hex_of(const char *text) { /* - for none */
    object *o = new_array(1, (jsize)(strlen(text) / 2));
    unsigned byte;
    for (jsize i = 0; i < o->length; i++) sscanf(text + 2 * i, "%2x", &byte), o->data[i] = (char)byte;
    return o;
}

static void print_ids(const jint *ids, jsize count) {
    if (!count) printf("-");
    for (jsize i = 0; i < count; i++) printf("%s%u", i ? "," : "", (unsigned)ids[i]);
}

static void print_hex(const char *bytes, jsize length) {
    if (!length) printf("-");
    for (jsize i = 0; i < length; i++) printf("%02x", (unsigned char)bytes[i]);
}

/* ---- commands ---- */

static jlong handle;
static void *library;

#define NATIVE(name, ...) ((__VA_ARGS__)dlsym(library, "Java_edgekit_Native_" #name))

static object *file_of(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) out_of("no such file");
    fseek(file, 0, SEEK_END);
    object *o = new_array(1, (jsize)ftell(file));
    rewind(file);
    if (fread(o->data, 1, (size_t)o->length, file) != (size_t)o->length) out_of("no such file");
    return fclose(file), o;
}

static void open_model(void) { /* PATH CONTEXT KV THREADS */
    object *file = file_of(word());
    int context = atoi(word()), kv = atoi(word()), threads = atoi(word());
    handle = NATIVE(open, jlong(*)(JNIEnv *, jclass, jobject, jlong, jlong, jint, jint, jint))(
        env, NULL, (jobject)file, 0, file->length, context, kv, threads);
    if (!thrown[0]) printf("ok");
}

static void encode(int flags) { /* TEXT */
    object *o = (object *)NATIVE(encode, jintArray(*)(JNIEnv *, jclass, jlong, jbyteArray, jint))(
        env, NULL, handle, (jbyteArray)hex_of(word()), flags);
    if (!thrown[0]) print_ids((jint *)o->data, o->length);
}

static void decode(void) { /* IDS */
    object *ids = ids_of(word()), *ends = new_array(4, ids->length + 1);
    object *o = (object *)NATIVE(decode, jbyteArray(*)(JNIEnv *, jclass, jlong, jintArray, jintArray))(
        env, NULL, handle, (jintArray)ids, (jintArray)ends);
    for (jsize i = 0, begin = 0; i < ends->length && !thrown[0]; begin = ((jint *)ends->data)[i++])
        printf("%s", i ? "," : ""), print_hex(o->data + begin, ((jint *)ends->data)[i] - begin);
}

static void logits(void) { /* IDS */
    object *o = (object *)NATIVE(logits, jfloatArray(*)(JNIEnv *, jclass, jlong, jintArray))(
        env, NULL, handle, (jintArray)ids_of(word()));
    unsigned long long hash = 0xcbf29ce484222325;
    if (thrown[0]) return;
    for (size_t i = 0; i < (size_t)o->length * 4; i++) hash = (hash ^ (unsigned char)o->data[i]) * 0x100000001b3;
    printf("%016llx", hash);
}

static void text(void) { /* reused tokens, id:piece ..., finish; of IDS SEED STOPS CANCEL_AFTER NUMBERS */
    object *prompt = ids_of(word());
    jlong seed = (jlong)strtoull(word(), NULL, 10);
    object *stops = hex_of(word()), *numbers = new_array(8, 11), *state = new_array(4, 2), *piece;
    int cancel_after = atoi(word());
    for (int i = 0; i < 11; i++) ((double *)(void *)numbers->data)[i] = strtod(word(), NULL);
    jint reused = NATIVE(start, jint(*)(JNIEnv *, jclass, jlong, jintArray, jdoubleArray, jlong, jbyteArray))(
        env, NULL, handle, (jintArray)prompt, (jdoubleArray)numbers, seed, (jbyteArray)stops);
    const jint *now = (jint *)state->data;
    if (!thrown[0]) printf("%d ", reused);
    for (int n = 0; !thrown[0] && !now[1]; n++) {
        const char *name = n == cancel_after ? "Java_edgekit_Native_cancel" : "Java_edgekit_Native_next";
        piece = (object *)((jbyteArray(*)(JNIEnv *, jclass, jlong, jintArray))dlsym(library, name))(env, NULL, handle,
                                                                                                (jintArray)state);
        if (thrown[0]) break;
        printf("%u:", n == cancel_after ? 0 : (unsigned)now[0]), print_hex(piece->data, piece->length), printf(" ");
    }
    if (!thrown[0]) printf("%d", now[1]);
}

static void close_model(void) {
    NATIVE(close, void (*)(JNIEnv *, jclass, jlong))(env, NULL, handle);
    handle = 0;
    printf("%ld", alive);
}

static void instructions(void) {
    object *o = (object *)NATIVE(instructions, jbyteArray(*)(JNIEnv *, jclass, jlong))(env, NULL, handle);
    if (!thrown[0]) printf("%.*s", o->length, o->data);
}

int main(int argc, char **argv) {
    static char line[1 << 20];
    if (argc != 2 || !(library = dlopen(argv[1], RTLD_NOW))) return fprintf(stderr, "%s\n", dlerror()), 1;
    while (fgets(line, sizeof line, stdin)) {
        char *command = strtok(line, " \n");
        thrown[0] = 0;
        if (!strcmp(command, "open")) open_model();
        else if (!strcmp(command, "encode")) encode(0);
        else if (!strcmp(command, "prompt")) encode(2);
        else if (!strcmp(command, "decode")) decode();
        else if (!strcmp(command, "logits")) logits();
        else if (!strcmp(command, "text")) text();
        else if (!strcmp(command, "close")) close_model();
        else if (!strcmp(command, "instructions")) instructions();
        else out_of(command);
        printf("%s%s\n", thrown[0] ? "error " : "", thrown);
        fflush(stdout);
    }
    return 0;
}
