/* The tensors of a Llama in a GGUF file by their places. Not for users of the engine. */
#ifndef EDGEKIT_CONFIG_H
#define EDGEKIT_CONFIG_H

#include "gguf.h"

#define EK_MOST_LAYERS 512

/* Places of a layer's tensors. The first 9 are required. */
enum {
    EK_ATTN_NORM, EK_Q, EK_K, EK_V, EK_O, EK_FFN_NORM, EK_GATE, EK_UP, EK_DOWN, EK_LAYER_REQUIRED,
    EK_Q_BIAS = EK_LAYER_REQUIRED, EK_K_BIAS, EK_V_BIAS, EK_O_BIAS, EK_GATE_BIAS, EK_UP_BIAS, EK_DOWN_BIAS,
    EK_LAYER_TENSORS
};
/* Places of the others. */
enum { EK_EMBEDDING = EK_LAYER_TENSORS, EK_OUTPUT_NORM, EK_OUTPUT, EK_ROPE_FREQS, EK_PLACES };

typedef struct {
    uint32_t layer; /* 0 for those of no layer */
    uint32_t place;
    const ek_tensor_info *info;
    const uint8_t *data;
} ek_placed;

typedef int ek_visit_placed(void *context, const ek_placed *tensor, ek_error *error);

/* Reads and checks keys and tensors. Every tensor that a Llama of these numbers needs is there once, has the shape that
 * they determine and a type that the engine runs, and no other is there, if EK_OK is returned. */
int ek_config(const void *bytes, size_t size, ek_info *info, ek_file *file, ek_error *error);

/* Its second half, in places.c: the tensors. Fills in what they determine. */
int ek_check_tensors(ek_file *file, ek_info *info, ek_error *error);

/* Visits the tensors of a file that ek_config has accepted. */
int ek_walk_placed(ek_file *file, ek_visit_placed *visit, void *context, ek_error *error);

static inline int ek_is_vector(uint32_t place) {
    return place == EK_ATTN_NORM || place == EK_FFN_NORM || (place >= EK_Q_BIAS && place <= EK_DOWN_BIAS) ||
           place == EK_OUTPUT_NORM || place == EK_ROPE_FREQS;
}

#endif
