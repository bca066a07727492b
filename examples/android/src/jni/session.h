/* A model for Java, and what the files of this folder share. */
#ifndef EDGEKIT_SESSION_H
#define EDGEKIT_SESSION_H

#include <jni.h>
#include <stdlib.h>

#include "edgekit.h"

typedef struct {
    ek_model *model;
    ek_tokenizer *tokenizer; /* NULL: the file has none that the engine knows */
    ek_threads *threads;
    ek_generation *generation; /* NULL: no text is being generated */
    void *blocks[5];           /* what close frees */
    jobject buffer;            /* keeps the file's bytes */
    const uint8_t *file;
    size_t length;
    ek_generating defaults; /* the file's own settings */
    ek_error no_tokenizer;
    uint32_t *ids; /* the prompt and the tokens of the text */
    uint32_t prompt_count, count;
    uint32_t cached; /* of them, those in the model's cache */
} session;

enum { MODEL, TOKENIZER, THREADS, GENERATION, STOPS };

/* Throws an EdgekitException. Nothing but freeing memory may follow. */
void throw_text(JNIEnv *env, const char *text);

/* Throws where the engine returned an error; returns whether it did. */
int failed(JNIEnv *env, int64_t status, const ek_error *error);

/* Memory for the engine, to be freed; NULL after an exception. */
void *allocated(JNIEnv *env, size_t size);

/* Allocates one of the session's blocks; what was there is freed. */
void *block(JNIEnv *env, session *s, int which, size_t size);

/* The session, or NULL after an exception. */
session *opened(JNIEnv *env, jlong handle);
session *with_tokenizer(JNIEnv *env, jlong handle);

/* A copy of an array of bytes or ints (item: 1 or 4 bytes), to be freed; NULL after an exception. */
void *copied(JNIEnv *env, jarray array, size_t item, uint32_t *count);

jbyteArray bytes_of(JNIEnv *env, const void *bytes, size_t length);

#endif
