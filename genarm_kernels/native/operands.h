/* What a product is made of: a row's operands, a model's elements as weights, and lanes of sums.

   There are three ways, and a processor has one of them:
   - With AVX512-BF16 the operands of a bfloat16 model are bfloat16, as its activations are in torch, in plain order. One
     instruction multiplies 32 of them by 32 weights that nobody has widened, and adds each pair to a float32 lane.
   - With AVX-512 alone, or of float32, operands are float32 in plain order, and weights are widened sixteen at a time.
   - With AVX2 operands are float32 in packed order (vector.h), and weights are widened eight at a time, twice.
   -DEMULATE_DOT and -DEMULATE_WIDE compile the first two for a processor with AVX2, for tests. */

#pragma once

#include "vector.h"

#if (defined __AVX512F__ && defined __AVX512VL__ && defined __AVX512BW__) || defined EMULATE_DOT || defined EMULATE_WIDE
#define WIDE
#endif
#if defined BFLOAT16 && !defined EMULATE_WIDE && ((defined WIDE && defined __AVX512BF16__) || defined EMULATE_DOT)
#define DOT
#endif

#ifdef WIDE

typedef float lanes __attribute__((vector_size(64)));
typedef uint32_t wide_words __attribute__((vector_size(64)));

INLINE pair halves(lanes values)
{
    pair two;
    memcpy(&two, &values, sizeof two);
    return two;
}

INLINE floats folded(lanes values) { return halves(values).first + halves(values).second; }

#else

typedef floats lanes;

INLINE floats folded(lanes values) { return values; }

#endif

#if defined DOT

#define STEP 32

typedef element operand;
typedef wide_words weights;

INLINE operand to_operand(float value) { return narrow(value); }
INLINE float from_operand(operand value) { return widen(value); }
INLINE int64_t operand_place(int64_t place) { return place; }

INLINE void put_eight(operand *to, floats values)
{
    typedef uint16_t eight __attribute__((vector_size(16)));
    words word = (words)values;
    words rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    rounded = (words)choose(values == values, (floats)rounded, (floats)((words){} + 0x7fc0));
    eight half = __builtin_convertvector(rounded, eight);
    memcpy(to, &half, sizeof half);
}

/* Sixteen in plain order become operands. */
INLINE void put_sixteen(operand *to, floats low, floats high)
{
    put_eight(to, low);
    put_eight(to + 8, high);
}

INLINE weights load_weights(const element *from)
{
    weights values;
    memcpy(&values, from, sizeof values);
    return values;
}

#ifdef EMULATE_DOT

INLINE floats flushed(floats values)
{
    const ints sign = (ints)all(-0.0f);
    return choose(((ints)values & 0x7f800000) == 0, (floats)((ints)values & sign), values);
}

/* VDPBF16PS as its maker defines it: the odd element's product is added first, each sum is rounded once, to nearest and
   ties to even, and what is denormal is 0 on the way in and on the way out. */
INLINE floats dot_eight(floats total, words x, words w)
{
    floats odd = fused(flushed((floats)(x & 0xffff0000u)), flushed((floats)(w & 0xffff0000u)), flushed(total));
    return flushed(fused(flushed((floats)(x << 16)), flushed((floats)(w << 16)), flushed(odd)));
}

INLINE weights load_sixteen(const element *from)
{
    weights values = {};
    memcpy(&values, from, sizeof values / 2);
    return values;
}

INLINE lanes dot_pairs(lanes total, weights x, weights w)
{
    pair sums = halves(total), left = halves((lanes)x), right = halves((lanes)w);
    sums.first = dot_eight(sums.first, (words)left.first, (words)right.first);
    sums.second = dot_eight(sums.second, (words)left.second, (words)right.second);
    memcpy(&total, &sums, sizeof total);
    return total;
}

#else

/* One instruction. Written with memcpy it would go through memory, and wait there for its two halves. */
INLINE weights load_sixteen(const element *from) { return (weights)_mm512_maskz_loadu_epi16(0xffff, from); }

INLINE lanes dot_pairs(lanes total, weights x, weights w)
{
    return (lanes)_mm512_dpbf16_ps((__m512)total, (__m512bh)x, (__m512bh)w);
}

#endif

INLINE lanes multiply(lanes total, const operand *x, weights w) { return dot_pairs(total, load_weights(x), w); }

/* The same of sixteen; the lanes behind them add nothing. */
INLINE lanes multiply_sixteen(lanes total, const operand *x, const element *w)
{
    return dot_pairs(total, load_sixteen(x), load_sixteen(w));
}

#else

#define STEP 16

typedef float operand;

INLINE operand to_operand(float value) { return value; }
INLINE float from_operand(operand value) { return value; }

#ifdef WIDE

typedef lanes weights;

INLINE int64_t operand_place(int64_t place) { return place; }
INLINE void put_sixteen(operand *to, floats low, floats high) { store_pair(to, (pair){low, high}); }

INLINE weights load_weights(const element *from)
{
#ifdef BFLOAT16
    typedef element sixteen __attribute__((vector_size(32)));
    sixteen narrow;
    memcpy(&narrow, from, sizeof narrow);
    return (weights)(__builtin_convertvector(narrow, wide_words) << 16);
#else
    weights values;
    memcpy(&values, from, sizeof values);
    return values;
#endif
}

INLINE lanes multiply(lanes total, const operand *x, weights w)
{
    lanes values;
    memcpy(&values, x, sizeof values);
#ifdef __AVX512F__
    return (lanes)_mm512_fmadd_ps((__m512)values, (__m512)w, (__m512)total);
#else
    pair sums = halves(total), left = halves(values), right = halves(w);
    sums.first = fused(left.first, right.first, sums.first);
    sums.second = fused(left.second, right.second, sums.second);
    memcpy(&total, &sums, sizeof total);
    return total;
#endif
}

#else

typedef pair weights;

INLINE int64_t operand_place(int64_t place) { return packed_place(place); }
INLINE void put_sixteen(operand *to, floats low, floats high) { store_pair(to, arrange(low, high)); }
INLINE weights load_weights(const element *from) { return load_pair(from); }

INLINE lanes multiply(lanes total, const operand *x, weights w)
{
    total = fused(load_floats(x), w.first, total);
    return fused(load_floats(x + 8), w.second, total);
}

#endif

INLINE lanes multiply_sixteen(lanes total, const operand *x, const element *w)
{
    return multiply(total, x, load_weights(w));
}

#endif

/* A row in plain order, and one of a model's elements, become operands. */
INLINE void to_operands(const float *row, int64_t K, operand *to)
{
    int64_t k = 0;
    for (; k + 16 <= K; k += 16)
        put_sixteen(to + k, load_floats(row + k), load_floats(row + k + 8));
    for (; k < K; k++)
        to[k] = to_operand(row[k]);
}

INLINE void elements_to_operands(const element *row, int64_t K, operand *to)
{
    int64_t k = 0;
    for (; k + STEP <= K; k += STEP) {
        weights values = load_weights(row + k);
        memcpy(to + k, &values, sizeof values);
    }
    for (; k < K; k++)
        to[k] = to_operand(widen(row[k]));
}
