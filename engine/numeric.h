/* The engine's own functions, without libm; the series are in docs/arithmetic.md. */
#ifndef EDGEKIT_NUMERIC_H
#define EDGEKIT_NUMERIC_H

#include "kernels.h"

/* Radians per position of the pairs of a head: count = head_dim / 2 numbers, not scaled. */
void ek_frequencies(float theta, uint32_t count, float *out);

/* Cosine and sine of an angle of 0 to 2^25 radians. */
void ek_cos_sin(float angle, float *cosine, float *sine);

/* ek_sqrt without an instruction for it. */
float ek_soft_sqrt(float x);

#endif
