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

INLINE void store_lanes(float *to, lanes values) { memcpy(to, &values, sizeof values); }
INLINE floats folded(lanes values) { return halves(values).first + halves(values).second; }

/* a b + c in one rounding. */
INLINE lanes fused_lanes(lanes a, lanes b, lanes c)
{
#ifdef __AVX512F__
    return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    pair total = halves(c), left = halves(a), right = halves(b);
    total.first = fused(left.first, right.first, total.first);
    total.second = fused(left.second, right.second, total.second);
    memcpy(&c, &total, sizeof c);
    return c;
#endif
}

/* Thirty-two of a model's elements, or sums of as many: in plain order of float32; of bfloat16 the even places first and the
   odd ones behind them. */
typedef struct {
    lanes first, second;
} wide_pair;

INLINE wide_pair load_wide_pair(const element *from)
{
#ifdef BFLOAT16
    wide_words both;
    memcpy(&both, from, sizeof both);
    return (wide_pair){(lanes)(both << 16), (lanes)(both & 0xffff0000u)};
#else
    wide_pair values;
    memcpy(&values, from, sizeof values);
    return values;
#endif
}

/* From plain order, and back to it. */
INLINE wide_pair arrange_wide(const float *from)
{
    wide_pair values;
    memcpy(&values, from, sizeof values);
#ifdef BFLOAT16
    const wide_words even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    return (wide_pair){__builtin_shuffle(values.first, values.second, even),
                       __builtin_shuffle(values.first, values.second, even + 1)};
#else
    return values;
#endif
}

INLINE void restore_wide(float *to, wide_pair values)
{
#ifdef BFLOAT16
    const wide_words low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    values = (wide_pair){__builtin_shuffle(values.first, values.second, low),
                         __builtin_shuffle(values.first, values.second, low + 8)};
#endif
    memcpy(to, &values, sizeof values);
}

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

INLINE floats put_weights(operand *to, floats values)
{
    float wide[8];
    put_eight(to, values);
    for (int i = 0; i < 8; i++)
        wide[i] = widen(to[i]);
    return load_floats(wide);
}

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

/* Eight in plain order become operands, rounded as put_eight does what is not denormal; their values. */
INLINE floats put_weights(operand *to, floats values)
{
    __m128i narrow = (__m128i)_mm256_cvtneps_pbh((__m256)values);
    _mm_storeu_si128((__m128i *)to, narrow);
    return (floats)((words)_mm256_cvtepu16_epi32(narrow) << 16);
}

INLINE lanes dot_pairs(lanes total, weights x, weights w)
{
    return (lanes)_mm512_dpbf16_ps((__m512)total, (__m512bh)x, (__m512bh)w);
}

#endif

INLINE lanes multiply(lanes total, const operand *x, weights w) { return dot_pairs(total, load_weights(x), w); }

/* One pair of a row with sixteen columns' pairs of the same places. */
INLINE lanes multiply_all(lanes total, const operand *x, wide_words columns)
{
    uint32_t two;
    memcpy(&two, x, sizeof two);
    return dot_pairs(total, (weights){} + two, columns);
}

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

INLINE floats put_weights(operand *to, floats values)
{
    store_floats(to, values);
    return values;
}

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
    return fused_lanes(values, w, total);
}

/* One place of a row with sixteen columns' same place. */
INLINE lanes multiply_all(lanes total, const operand *x, wide_words columns)
{
    return fused_lanes((lanes){} + *x, (lanes)columns, total);
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
