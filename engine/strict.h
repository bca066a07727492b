/* Included first by every file that computes with floats: the arithmetic is that of docs/arithmetic.md, so a product
 * and a sum are rounded each, whatever the compiler's flags. */
#ifndef EDGEKIT_STRICT_H
#define EDGEKIT_STRICT_H

#include <float.h>

#if defined(__FAST_MATH__)
#error "edgekit promises the same bits everywhere: compile without -ffast-math"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "edgekit needs floats that are rounded to 32 bits: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
/* A comparison of a number that is not one may set a flag of the processor, which nobody reads: without this gcc does
 * not vectorize the clamps of ek_exp for AVX2. It changes no value. */
#pragma GCC optimize("fp-contract=off", "no-trapping-math")
#endif

#endif
