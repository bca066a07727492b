/* Walking over a GGUF file: its keys, then its tensors. Not for users of the engine. */
#ifndef EDGEKIT_GGUF_H
#define EDGEKIT_GGUF_H

#include "bytes.h"

/* ggml's numbers of the types that the engine runs. */
enum {
    EK_TYPE_F32 = 0, EK_TYPE_F16 = 1, EK_TYPE_Q4_0 = 2, EK_TYPE_Q4_1 = 3, EK_TYPE_Q5_0 = 6, EK_TYPE_Q5_1 = 7,
    EK_TYPE_Q8_0 = 8, EK_TYPE_Q4_K = 12, EK_TYPE_Q5_K = 13, EK_TYPE_Q6_K = 14, EK_TYPE_IQ4_NL = 20, EK_TYPE_BF16 = 30
};

typedef struct {
    const char *name;
    uint32_t elements, bytes; /* of a block; 0 elements: there is no such type */
} ek_type;

/* The type of that number; `elements` is 0 if ggml has none. */
ek_type ek_type_of(uint32_t number);

typedef struct {
    ek_text name;
    uint32_t type;
    uint32_t dimensions;
    uint64_t width, rows; /* rows: the product of all other dimensions */
    uint64_t bytes, offset; /* offset: from the start of the data */
} ek_tensor_info;

typedef struct {
    const uint8_t *bytes;
    size_t size;
    uint64_t tensors; /* how many */
    size_t infos;     /* where their descriptions begin */
    uint64_t alignment;
    size_t data; /* where their bytes begin; 0 until ek_walk_tensors has run once */
} ek_file;

/* Called for each key or tensor; a status other than EK_OK ends the walk. */
typedef int ek_visit_key(void *context, ek_text key, const ek_value *value, ek_error *error);
typedef int ek_visit_tensor(void *context, const ek_tensor_info *info, ek_error *error);

/* Reads the header and all keys, and fills `file`. */
int ek_walk_keys(const void *bytes, size_t size, ek_visit_key *visit, void *context, ek_file *file, ek_error *error);

/* Reads the descriptions of all tensors; each one's bytes are within the file if EK_OK is returned. */
int ek_walk_tensors(ek_file *file, ek_visit_tensor *visit, void *context, ek_error *error);

#endif
