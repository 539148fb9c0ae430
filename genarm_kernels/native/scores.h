/* Scores: the products of query heads with the keys of positions that follow each other.

   With AVX-512 sixteen keys are turned so that a vector has one place of each: a score is then a lane, and none are added up
   within a vector, which takes longer than their products. */

#pragma once

#include "linear.h"

#define CHUNK 512
#define AHEAD 32            /* positions between a key's way into the cache and its use */
#define SCORES (CHUNK + 16) /* room of a query head's; a power of two apart they would share sets of the cache */

/* Keys and values of positions that follow each other, [count, D]. */
typedef struct {
    const element *keys, *values;
    int64_t count;
} stretch;

#ifdef WIDE

/* Word i of each of 16 vectors in the i-th: neighbours first, then pairs of them, then quarters of vectors. */
INLINE void turn_square(const wide_words *rows, wide_words *to)
{
    typedef uint64_t wide_pairs __attribute__((vector_size(64)));
    const wide_words low = {0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29};
    const wide_pairs low_pairs = {0, 8, 2, 10, 4, 12, 6, 14};
    const wide_words even_quarters = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    wide_words twos[16], fours[16];
    for (int i = 0; i < 16; i++)
        twos[i] = __builtin_shuffle(rows[i & ~1], rows[i | 1], low + 2 * (i & 1));
    for (int i = 0; i < 16; i++) {
        const wide_words *of = twos + (i & ~3) + (i >> 1 & 1);
        const wide_pairs one = (wide_pairs)of[0], other = (wide_pairs)of[2];
        fours[i] = (wide_words)__builtin_shuffle(one, other, low_pairs + (i & 1));
    }
    for (int i = 0; i < 4; i++)
        for (int odd = 0; odd < 2; odd++) {
            wide_words front = __builtin_shuffle(fours[i], fours[4 + i], even_quarters + 4 * odd);
            wide_words back = __builtin_shuffle(fours[8 + i], fours[12 + i], even_quarters + 4 * odd);
            to[4 * odd + i] = __builtin_shuffle(front, back, even_quarters);
            to[4 * odd + 8 + i] = __builtin_shuffle(front, back, even_quarters + 4);
        }
}

/* Q query heads [D] times sixteen turned keys; out Q times [16], SCORES apart. */
INLINE void score_turned(const int Q, const operand *queries, int64_t D, const wide_words *keys, float *out)
{
    lanes one[ROWS] = {}, other[ROWS] = {};
    for (int64_t k = 0; k < D; k += STEP, keys += 16)
#pragma GCC unroll 8
        for (int word = 0; word < 8; word++)
            for (int q = 0; q < Q; q++) {
                const operand *x = queries + q * D + k + word * (STEP / 16);
                one[q] = multiply_all(one[q], x, keys[word]);
                other[q] = multiply_all(other[q], x + STEP / 2, keys[word + 8]);
            }
    for (int q = 0; q < Q; q++)
        store_lanes(out + q * SCORES, one[q] + other[q]);
}

/* The scores of sixteen positions, of which the first ``there`` have keys, ``from`` [there, D]; the others are 0. */
INLINE void score_sixteen(const operand *queries, int64_t count, const element *from, int64_t there, int64_t D, float *out)
{
    wide_words keys[D / STEP * 16];
    for (int64_t k = 0; k < D; k += STEP) {
        wide_words rows[16];
        for (int i = 0; i < 16; i++)
            rows[i] = i < there ? (wide_words)load_weights(from + i * D + k) : (wide_words){};
        turn_square(rows, keys + k / STEP * 16);
    }
    for (int64_t q = 0; q < count; q += ROWS)
        switch (count - q) {
            case 1: score_turned(1, queries + q * D, D, keys, out + q * SCORES); break;
            case 2: score_turned(2, queries + q * D, D, keys, out + q * SCORES); break;
            case 3: score_turned(3, queries + q * D, D, keys, out + q * SCORES); break;
            default: score_turned(4, queries + q * D, D, keys, out + q * SCORES);
        }
}

#endif

/* What is on its way into the cache while something else is worked on; its next line. */
typedef struct {
    const char *at, *end;
} stream;

INLINE stream stream_of(const element *from, int64_t count)
{
    return (stream){(const char *)from, (const char *)(from + count)};
}

INLINE void fetch(stream *s, int64_t lines)
{
    for (int64_t i = 0; i < lines && s->at < s->end; i++, s->at += 64)
        __builtin_prefetch(s->at, 0, 2);
}

INLINE void fetch_keys(const element *keys, int64_t positions, int64_t D)
{
    for (int64_t ahead = 0; ahead < positions * D; ahead += 64 / sizeof(element))
        __builtin_prefetch(keys + AHEAD * D + ahead);
}

/* scores [count, SCORES] from place ``from`` on, as many as the stretch has positions, of operands [count, D]. Up to 15 places
   behind them are written over. Few query heads are soon done: values come meanwhile. With many there is time for them later. */
static void score(const operand *queries, int64_t count, stretch s, int64_t D, float (*scores)[SCORES], int64_t from,
                  stream *values)
{
#ifdef WIDE
    for (int64_t t = 0; D % STEP == 0 && t < s.count; t += 16) {
        fetch_keys(s.keys + t * D, 16, D);
        if (count <= ROWS)
            fetch(values, 16 * D * sizeof(element) / 64 + 1);
        if (t + 16 <= s.count)
            score_sixteen(queries, count, s.keys + t * D, 16, D, scores[0] + from + t);
        else
            score_sixteen(queries, count, s.keys + t * D, s.count - t, D, scores[0] + from + t);
    }
    if (D % STEP == 0)
        return;
#endif
    for (int64_t t = 0; t < s.count; t += COLUMNS) {
        float some[ROWS][COLUMNS];
        int64_t width = least(COLUMNS, s.count - t);
        fetch_keys(s.keys + t * D, COLUMNS, D);
        fetch(values, COLUMNS * D * sizeof(element) / 64 + 1);
        for (int64_t first = 0; first < count; first += ROWS) {
            int64_t rows = least(ROWS, count - first);
            dots(rows, width, queries + first * D, D, s.keys + t * D, D, D, 0, 0, some);
            for (int64_t q = 0; q < rows; q++)
                for (int64_t c = 0; c < width; c++)
                    scores[first + q][from + t + c] = some[q][c];
        }
    }
}
