/* Positions of one chunk under query heads of one key head: scores, their softmax, and the values summed with it.

   A query head is summed on its own, in order of position: the bits do not depend on the heads that pass over the keys
   with it, nor on where a chunk's keys lie, all in one place or the first of them in another. */

#pragma once

#include "scores.h"

#define VECTORS 16 /* query heads, of one token or of several, that pass over a chunk side by side */
#ifdef WIDE
#define TILE 8 /* of them whose sums stay in registers */
#else
#define TILE 4
#endif

#define WEIGHTS (SCORES * (int64_t)(sizeof(float) / sizeof(operand))) /* from one query head's to the next */
#ifdef DOT
#define PAIR 2 /* positions whose values are summed in one instruction */
#else
#define PAIR 1
#endif

/* The largest of scores [count]. NaN is passed over: it shows in the sum. */
INLINE float largest(const float *scores, int64_t count)
{
    floats most = all(-INFINITY);
    int64_t t = 0;
    for (; t + 8 <= count; t += 8)
        most = largest_of(load_floats(scores + t), most);
    for (; t < count; t++)
        most = largest_of(all(scores[t]), most);
    for (int lane = 1; lane < 8; lane++)
        most = largest_of(all(most[lane]), most);
    return most[0];
}

/* Scores [Q, SCORES], so many of each query head, become weights e^(score − maximum), as operands from the same place on; 0
   behind them to a multiple of 8. out Q times the maximum, and the weights' sum. */
INLINE void soften(const int Q, float (*scores)[SCORES], const int64_t *counts, float *const *out, stream *values,
                   int64_t lines)
{
    const ints places = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int q = 0; q < Q; q++) {
        float most = out[q][0] = largest(scores[q], counts[q]);
        floats totals = {};
        for (int64_t place = 0; place < counts[q]; place += 8) {
            floats weights = exponential(load_floats(scores[q] + place) - most);
            if (place + 8 > counts[q])
                weights = choose(places < (int32_t)(counts[q] - place), weights, (floats){});
            totals += put_weights((operand *)scores[q] + place, weights);
            fetch(values, lines);
        }
        out[q][1] = sum(totals);
    }
}

/* Weights [Q, WEIGHTS] from place ``from`` on for the values of a stretch, and where their sums go: out Q times [2 + D],
   behind what is there already where ``on`` is set. ``before``: values of the place before it, or none. ``next`` comes while
   they are summed. */
typedef struct {
    const operand *weights;
    int64_t from, D;
    stretch s;
    const element *before;
    float *const *out;
    int on;
    stream *next;
} gathering;

/* The place of the first values, from where the stretch's are. */
INLINE int64_t first_of(const gathering *g) { return PAIR > 1 && g->before ? -1 : 0; }

/* Sixteen columns from ``d`` on. */
INLINE void sum_sixteen(const int Q, const gathering *g, int64_t d)
{
    pair sums[TILE];
    for (int q = 0; q < Q; q++) {
        const float *to = g->out[q] + 2 + d;
        sums[q] = g->on ? arrange(load_floats(to), load_floats(to + 8)) : (pair){};
    }
    for (int64_t t = first_of(g); t < g->s.count; t++) {
        pair value = load_pair((t < 0 ? g->before : g->s.values + t * g->D) + d);
        for (int q = 0; q < Q; q++) {
            floats weight = all(from_operand(g->weights[q * WEIGHTS + g->from + t]));
            sums[q].first = fused(weight, value.first, sums[q].first);
            sums[q].second = fused(weight, value.second, sums[q].second);
        }
    }
    for (int q = 0; q < Q; q++)
        store_pair(g->out[q] + 2 + d, restore(sums[q].first, sums[q].second));
}

#ifdef DOT

/* Two positions, the second one's weights 0 where it has no values, add to Q sums of 32 columns. */
INLINE void add_two(const int Q, const operand *weights, const element *one, const element *other, wide_pair *sums)
{
    wide_words near = load_weights(one), far = other ? load_weights(other) : (wide_words){};
    wide_words even = (near & 0xffff) | (far << 16), odd = (near >> 16) | (far & 0xffff0000u);
    for (int q = 0; q < Q; q++) {
        sums[q].first = multiply_all(sums[q].first, weights + q * WEIGHTS, even);
        sums[q].second = multiply_all(sums[q].second, weights + q * WEIGHTS, odd);
    }
}

#endif
#ifdef WIDE

/* Thirty-two, for twice as many operations at once. */
INLINE void sum_thirty_two(const int Q, const gathering *g, int64_t d)
{
    wide_pair sums[TILE];
    const element *values = g->s.values + d;
    for (int q = 0; q < Q; q++)
        sums[q] = g->on ? arrange_wide(g->out[q] + 2 + d) : (wide_pair){};
#ifdef DOT
    int64_t t = first_of(g);
    if (t < 0)
        add_two(Q, g->weights + g->from - 1, g->before + d, g->s.count ? values : 0, sums), t = 1;
    for (; t + 2 <= g->s.count; t += 2) {
        if (Q > ROWS)
            fetch(g->next, 2);
        add_two(Q, g->weights + g->from + t, values + t * g->D, values + (t + 1) * g->D, sums);
    }
    if (t < g->s.count)
        add_two(Q, g->weights + g->from + t, values + t * g->D, 0, sums);
#else
    for (int64_t t = 0; t < g->s.count; t++) {
        wide_pair value = load_wide_pair(values + t * g->D);
        if (Q > ROWS)
            fetch(g->next, 1);
        for (int q = 0; q < Q; q++) {
            lanes weight = (lanes){} + g->weights[q * WEIGHTS + g->from + t];
            sums[q].first = fused_lanes(weight, value.first, sums[q].first);
            sums[q].second = fused_lanes(weight, value.second, sums[q].second);
        }
    }
#endif
    for (int q = 0; q < Q; q++)
        restore_wide(g->out[q] + 2 + d, sums[q]);
}

#endif

/* All columns. */
INLINE void sum_columns(const int Q, gathering g)
{
    int64_t d = 0;
#ifdef WIDE
    for (; d + 32 <= g.D; d += 32)
        sum_thirty_two(Q, &g, d);
#endif
    for (; d + 16 <= g.D; d += 16)
        sum_sixteen(Q, &g, d);
    for (; d < g.D; d++)
        for (int q = 0; q < Q; q++) {
            float total = g.on ? g.out[q][2 + d] : 0.0f;
            for (int64_t t = first_of(&g); t < g.s.count; t++) {
                const element *values = t < 0 ? g.before : g.s.values + t * g.D;
                total += from_operand(g.weights[q * WEIGHTS + g.from + t]) * widen(values[d]);
            }
            g.out[q][2 + d] = total;
        }
}

/* A call per TILE query heads, whose number the compiler knows. */
#define BY_TILES(count, call)                                     \
    for (int64_t q = 0; q < (count); q += TILE)                   \
        switch (least(TILE, (count) - q)) {                       \
            case 1: call(1); break;                               \
            case 2: call(2); break;                               \
            case 3: call(3); break;                               \
            case 4: call(4); break;                               \
            case 5: call((TILE > 4 ? 5 : 1)); break;              \
            case 6: call((TILE > 4 ? 6 : 1)); break;              \
            case 7: call((TILE > 4 ? 7 : 1)); break;              \
            case 8: call(TILE);                                   \
        }

static void soften_all(int64_t count, float (*scores)[SCORES], const int64_t *counts, float *const *out, stream *values)
{
    int64_t lines = (values->end - values->at) / 64 / (count * CHUNK / 8) + 1;
#define CALL(Q) soften(Q, scores + q, counts + q, out + q, values, lines)
    BY_TILES(count, CALL)
#undef CALL
}

static void gather(int64_t count, gathering g)
{
#define CALL(Q) sum_columns(Q, (gathering){g.weights + q * WEIGHTS, g.from, g.D, g.s, g.before, g.out + q, g.on, g.next})
    BY_TILES(count, CALL)
#undef CALL
}
