/* Eight float32 lanes, and a model's elements (bfloat16 or float32) sixteen at a time.

   bfloat16 is the upper half of a float32. Sixteen of them are read as eight words: shifted up, the lower halves are the
   elements at even places; masked, the upper halves are those at odd ones. What they are multiplied with lies in the same
   order: "packed" rows hold, sixteen by sixteen, the even places first and the odd ones behind them. Of float32 packed
   rows are plain ones. A rest of fewer than sixteen is in plain order. */

#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(32)));
typedef int32_t ints __attribute__((vector_size(32)));
typedef uint32_t words __attribute__((vector_size(32)));
typedef struct {
    floats first, second;
} pair;

INLINE floats load_floats(const float *from)
{
    floats values;
    memcpy(&values, from, sizeof values);
    return values;
}

INLINE floats all(float value) { return (floats){} + value; }

INLINE void store_floats(float *to, floats values) { memcpy(to, &values, sizeof values); }

/* a b + c in one rounding. Nothing else is contracted (-ffp-contract=off): a compiler does it in one place and not in the
   other, and the same sum in two tiles would have two results. */
INLINE floats fused(floats a, floats b, floats c) { return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }

/* Lanes 0 to 3 hold the sums of a, b, c and d over their own lanes, each in one order. */
INLINE floats sums(floats a, floats b, floats c, floats d)
{
    const ints even = {0, 8, 2, 10, 4, 12, 6, 14}, odd = {1, 9, 3, 11, 5, 13, 7, 15};
    const ints front = {0, 1, 8, 9, 4, 5, 12, 13}, back = {2, 3, 10, 11, 6, 7, 14, 15};
    floats ab = __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
    floats cd = __builtin_shuffle(c, d, even) + __builtin_shuffle(c, d, odd);
    floats all = __builtin_shuffle(ab, cd, front) + __builtin_shuffle(ab, cd, back);
    return all + __builtin_shuffle(all, (ints){4, 5, 6, 7, 0, 1, 2, 3});
}

INLINE float sum(floats v) { return sums(v, v, v, v)[0]; }

#ifdef BFLOAT16

typedef uint16_t element;

INLINE float widen(element value)
{
    uint32_t word = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &word, sizeof wide);
    return wide;
}

/* Rounded to nearest, ties to even, as torch does. */
INLINE element narrow(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return value != value ? 0x7fc0 : (element)((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

/* Sixteen elements in packed order. */
INLINE pair load_pair(const element *from)
{
    words both;
    memcpy(&both, from, sizeof both);
    return (pair){(floats)(both << 16), (floats)(both & 0xffff0000u)};
}

/* From plain order to packed, and where one of sixteen goes. */
INLINE pair arrange(floats low, floats high)
{
    return (pair){__builtin_shuffle(low, high, (ints){0, 2, 4, 6, 8, 10, 12, 14}),
                  __builtin_shuffle(low, high, (ints){1, 3, 5, 7, 9, 11, 13, 15})};
}

INLINE int64_t packed_place(int64_t place) { return (place & ~15) + ((place & 1) << 3) + ((place & 15) >> 1); }

/* From packed order to plain. */
INLINE pair restore(floats first, floats second)
{
    return (pair){__builtin_shuffle(first, second, (ints){0, 8, 1, 9, 2, 10, 3, 11}),
                  __builtin_shuffle(first, second, (ints){4, 12, 5, 13, 6, 14, 7, 15})};
}

#else

typedef float element;

INLINE float widen(element value) { return value; }
INLINE element narrow(float value) { return value; }
INLINE pair load_pair(const element *from) { return (pair){load_floats(from), load_floats(from + 8)}; }
INLINE pair arrange(floats low, floats high) { return (pair){low, high}; }
INLINE int64_t packed_place(int64_t place) { return place; }
INLINE pair restore(floats first, floats second) { return (pair){first, second}; }

#endif

INLINE void store_pair(float *to, pair values)
{
    store_floats(to, values.first);
    store_floats(to + 8, values.second);
}

INLINE floats choose(ints which, floats yes, floats no)
{
    return (floats)(((ints)yes & which) | ((ints)no & ~which));
}

/* The second one where one of them is NaN. */
INLINE floats largest_of(floats one, floats other) { return (floats)_mm256_max_ps((__m256)one, (__m256)other); }
INLINE floats smallest_of(floats one, floats other) { return (floats)_mm256_min_ps((__m256)one, (__m256)other); }

/* e^x within 2e-7 of itself; below e^-87 and above e^88 it stays there. NaN stays NaN. */
INLINE floats exponential(floats x)
{
    const floats magic = all(12582912.0f);
    x = smallest_of(all(88.0f), largest_of(all(-87.0f), x));
    floats shifted = fused(x, all(1.44269504f), magic); /* its low bits hold the nearest whole number */
    floats whole = shifted - magic;
    floats rest = fused(whole, all(2.12194440e-4f), fused(whole, all(-0.693359375f), x));
    floats p = fused(rest, all(1.9875691500e-4f), all(1.3981999507e-3f));
    p = fused(p, rest, all(8.3334519073e-3f));
    p = fused(p, rest, all(4.1665795894e-2f));
    p = fused(p, rest, all(1.6666665459e-1f));
    p = fused(p, rest, all(5.0000001201e-1f));
    p = fused(p, rest * rest, rest) + 1.0f;
    return p * (floats)(((ints)shifted - (ints)magic + 127) << 23);
}
