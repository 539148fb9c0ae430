/* Positions of one chunk under query heads of one key head: scores, their softmax, and the values summed with it.

   A query head is summed on its own, in order of position: the bits do not depend on the heads that pass over the keys
   with it, nor on where a chunk's keys lie, all in one place or the first of them in another. */

#pragma once

#include "linear.h"

#define CHUNK 512
#define AHEAD 32   /* positions between a key's way into the cache and its use; values come there while keys are used */
#define VECTORS 16 /* query heads, of one token or of several, that pass over a chunk side by side */

/* Keys and values of positions that follow each other, [count, D]. */
typedef struct {
    const element *keys, *values;
    int64_t count;
} stretch;

/* scores [count, CHUNK], as many as the stretch has positions, of operands [count, D]. */
static void score(const operand *queries, int64_t count, stretch s, int64_t D, float (*scores)[CHUNK], int64_t from)
{
    for (int64_t t = 0; t < s.count; t += COLUMNS) {
        float some[ROWS][COLUMNS];
        int64_t width = least(COLUMNS, s.count - t);
        for (int64_t ahead = 0; ahead < COLUMNS * D; ahead += 64 / sizeof(element)) {
            __builtin_prefetch(s.keys + (t + AHEAD) * D + ahead);
            __builtin_prefetch(s.values + t * D + ahead);
        }
        for (int64_t first = 0; first < count; first += ROWS) {
            int64_t rows = least(ROWS, count - first);
            dots(rows, width, queries + first * D, D, s.keys + t * D, D, D, 0, 0, some);
            for (int64_t q = 0; q < rows; q++)
                for (int64_t c = 0; c < width; c++)
                    scores[first + q][from + t + c] = some[q][c];
        }
    }
}

/* scores [count] become e^(score − maximum) -> their sum. The room behind them is written over to a multiple of 8. */
INLINE float soften(float *scores, int64_t count, float *maximum)
{
    float most = -INFINITY, total = 0.0f;
    for (int64_t t = 0; t < count; t++)
        most = scores[t] > most || scores[t] != scores[t] ? scores[t] : most;
    for (int64_t t = 0; t < count; t += 8)
        store_floats(scores + t, exponential(load_floats(scores + t) - most));
    for (int64_t t = 0; t < count; t++)
        total += scores[t];
    *maximum = most;
    return total;
}

/* out Q times [D]: the values of a stretch, summed with weights [Q, CHUNK] from its first position on; behind what is there
   already where ``on`` is set. */
INLINE void sum_rows(const int Q, const float (*weights)[CHUNK], int64_t from, stretch s, int64_t D, float *const *out,
                     int on)
{
    int64_t d = 0;
    for (; d + 16 <= D; d += 16) {
        pair sums[ROWS];
        for (int q = 0; q < Q; q++)
            sums[q] = on ? arrange(load_floats(out[q] + d), load_floats(out[q] + d + 8)) : (pair){(floats){}, (floats){}};
        for (int64_t t = 0; t < s.count; t++) {
            pair value = load_pair(s.values + t * D + d);
            for (int q = 0; q < Q; q++) {
                sums[q].first = fused(all(weights[q][from + t]), value.first, sums[q].first);
                sums[q].second = fused(all(weights[q][from + t]), value.second, sums[q].second);
            }
        }
        for (int q = 0; q < Q; q++)
            store_pair(out[q] + d, restore(sums[q].first, sums[q].second));
    }
    for (; d < D; d++)
        for (int q = 0; q < Q; q++) {
            float total = on ? out[q][d] : 0.0f;
            for (int64_t t = 0; t < s.count; t++)
                total += weights[q][from + t] * widen(s.values[t * D + d]);
            out[q][d] = total;
        }
}

/* The same for a number of query heads that the compiler does not know. */
static void gather(int64_t count, const float (*weights)[CHUNK], int64_t from, stretch s, int64_t D, float *const *out,
                   int on)
{
    for (int64_t first = 0; first < count; first += ROWS)
        switch (count - first) {
            case 1: sum_rows(1, weights + first, from, s, D, out + first, on); break;
            case 2: sum_rows(2, weights + first, from, s, D, out + first, on); break;
            case 3: sum_rows(3, weights + first, from, s, D, out + first, on); break;
            default: sum_rows(4, weights + first, from, s, D, out + first, on);
        }
}
