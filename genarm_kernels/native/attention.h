/* New tokens attend to what their row has cached; their own keys and values are stored on the way.

   Work is cut into (row, key head, chunk of positions). Each gives, for every new token and query head of its key head,
   the maximum of its scores, the sum of e^(score − maximum), and the values summed with these weights; "combine" joins a
   token's chunks. Chunks begin at multiples of CHUNK, and a token is summed on its own, over the positions up to its own: its
   bits do not depend on the tokens that came with it. */

#pragma once

#include "linear.h"

#define CHUNK 512
#define AHEAD 32 /* positions between a key's way into the cache and its use; values come there while keys are used */

int64_t chunks_of(int64_t positions) { return (positions + CHUNK - 1) / CHUNK; }

/* keys, values [R, kv_heads, T, D]; z [R, Q, heads + 2 kv_heads, D] queries, keys, values of the new tokens, a row's last
   Q; lengths [R] with them; cos, sin [T, D / 2]; norms [D] or none; partials [R, Q, heads, chunks, D + 2]. */
typedef struct {
    int64_t R, Q, heads, kv_heads, D, T, window, chunks;
    float eps, scale;
    element *keys, *values;
    const element *q_norm, *k_norm;
    const int32_t *lengths;
    const float *cos, *sin, *z;
    float *partials;
} attention;

/* A new token: its row, its place among all of them, and the positions it sees, its own being the last. */
typedef struct {
    int64_t row, index, length;
} newcomer;

/* A head's vector, normalised where the model does that, rotated to its position, times a factor. */
INLINE void turn(const attention *a, const float *from, const element *norm, int64_t position, float factor, float *to)
{
    int64_t half = a->D / 2;
    float plain[a->D], scale = 1.0f;
    if (norm) {
        float squares = 0.0f;
        for (int64_t d = 0; d < a->D; d++)
            squares += from[d] * from[d];
        scale = 1.0f / sqrtf(squares / a->D + a->eps);
    }
    for (int64_t d = 0; d < a->D; d++)
        plain[d] = norm ? from[d] * scale * widen(norm[d]) : from[d];
    const float *cos = a->cos + position * half, *sin = a->sin + position * half;
    for (int64_t d = 0; d < half; d++) {
        to[d] = (plain[d] * cos[d] - plain[half + d] * sin[d]) * factor;
        to[half + d] = (plain[half + d] * cos[d] + plain[d] * sin[d]) * factor;
    }
}

/* Key and value of a new token go where it stands in its row. */
static void keep(const attention *a, int64_t row, int64_t head, int64_t position)
{
    int64_t token = row * a->Q + position - (a->lengths[row] - a->Q);
    const float *key = a->z + (token * (a->heads + 2 * a->kv_heads) + a->heads + head) * a->D;
    int64_t place = ((row * a->kv_heads + head) * a->T + position) * a->D;
    float turned[a->D];
    turn(a, key, a->k_norm, position, 1.0f, turned);
    for (int64_t d = 0; d < a->D; d++) {
        a->keys[place + d] = narrow(turned[d]);
        a->values[place + d] = narrow(key[a->kv_heads * a->D + d]);
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

/* out [Q, D] at ``stride``: the values of ``count`` positions, summed with weights [Q, CHUNK]. */
INLINE void gather(const int Q, const float (*weights)[CHUNK], const element *values, int64_t count, int64_t D, float *out,
                   int64_t stride)
{
    int64_t d = 0;
    for (; d + 16 <= D; d += 16) {
        pair sums[ROWS];
        for (int q = 0; q < Q; q++)
            sums[q] = (pair){(floats){}, (floats){}};
        for (int64_t t = 0; t < count; t++) {
            pair value = load_pair(values + t * D + d);
            for (int q = 0; q < Q; q++) {
                sums[q].first = fused(all(weights[q][t]), value.first, sums[q].first);
                sums[q].second = fused(all(weights[q][t]), value.second, sums[q].second);
            }
        }
        for (int q = 0; q < Q; q++)
            store_pair(out + q * stride + d, restore(sums[q].first, sums[q].second));
    }
    for (; d < D; d++)
        for (int q = 0; q < Q; q++) {
            float total = 0.0f;
            for (int64_t t = 0; t < count; t++)
                total += weights[q][t] * widen(values[t * D + d]);
            out[q * stride + d] = total;
        }
}

/* ROWS query heads of a token at most, from ``head`` on, over positions [begin, end) of their key head's cache. ``out`` is
   the first head's partial. */
static void attend_heads(const attention *a, newcomer token, int64_t head, int64_t count, int64_t kv_head, int64_t begin,
                         int64_t end, float *out)
{
    int64_t D = a->D, stride = a->chunks * (D + 2), positions = end - begin;
    int64_t place = ((token.row * a->kv_heads + kv_head) * a->T + begin) * D;
    float turned[D], scores[ROWS][CHUNK];
    operand query[ROWS * D];
    for (int64_t q = 0; q < count; q++) {
        const float *from = a->z + (token.index * (a->heads + 2 * a->kv_heads) + head + q) * D;
        turn(a, from, a->q_norm, token.length - 1, a->scale, turned);
        to_operands(turned, D, query + q * D);
    }
    for (int64_t t = 0; t < positions; t += COLUMNS) {
        float some[ROWS][COLUMNS];
        int64_t width = least(COLUMNS, positions - t);
        for (int64_t ahead = 0; ahead < COLUMNS * D; ahead += 64 / sizeof(element)) {
            __builtin_prefetch(a->keys + place + (t + AHEAD) * D + ahead);
            __builtin_prefetch(a->values + place + t * D + ahead);
        }
        dots(count, width, query, D, a->keys + place + t * D, D, D, 0, 0, some);
        for (int64_t q = 0; q < count; q++)
            for (int64_t c = 0; c < width; c++)
                scores[q][t + c] = some[q][c];
    }
    for (int64_t q = 0; q < count; q++)
        out[q * stride + 1] = soften(scores[q], positions, out + q * stride);
    switch (count) {
        case 1: gather(1, scores, a->values + place, positions, D, out + 2, stride); break;
        case 2: gather(2, scores, a->values + place, positions, D, out + 2, stride); break;
        case 3: gather(3, scores, a->values + place, positions, D, out + 2, stride); break;
        case 4: gather(4, scores, a->values + place, positions, D, out + 2, stride); break;
    }
}

/* A token's query heads of one key head, over one chunk. */
static void attend_chunk(const attention *a, newcomer token, int64_t kv_head, int64_t chunk)
{
    int64_t G = a->heads / a->kv_heads, length = token.length;
    int64_t first = a->window && length > a->window ? length - a->window : 0;
    int64_t begin = chunk * CHUNK < first ? first : chunk * CHUNK, end = least((chunk + 1) * CHUNK, length);
    for (int64_t g = 0; g < G; g += ROWS) {
        int64_t head = kv_head * G + g, count = least(ROWS, G - g);
        float *out = a->partials + ((token.index * a->heads + head) * a->chunks + chunk) * (a->D + 2);
        if (begin < end)
            attend_heads(a, token, head, count, kv_head, begin, end, out);
        for (int64_t q = 0; begin >= end && q < count; q++)
            memset(out + q * a->chunks * (a->D + 2), 0, 8);
    }
}

/* All new tokens. All threads call it, and wait for each other at its end. */
static void attend(const attention *a)
{
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < a->R * a->kv_heads * a->chunks; item++) {
        int64_t chunk = item % a->chunks, kv_head = item / a->chunks % a->kv_heads, row = item / a->chunks / a->kv_heads;
        int64_t length = a->lengths[row], position = length - a->Q < chunk * CHUNK ? chunk * CHUNK : length - a->Q;
        for (; position < least((chunk + 1) * CHUNK, length); position++)
            keep(a, row, kv_head, position);
        for (int64_t q = 0; q < a->Q; q++)
            attend_chunk(a, (newcomer){row, row * a->Q + q, length - a->Q + 1 + q}, kv_head, chunk);
    }
}

/* out [heads * D]: what a new token's query heads saw in all chunks. A chunk without positions has a sum of 0. */
static void combine(const attention *a, int64_t token, operand *out)
{
    int64_t D = a->D;
    float seen[a->heads * D];
    for (int64_t head = 0; head < a->heads; head++) {
        const float *parts = a->partials + (token * a->heads + head) * a->chunks * (D + 2);
        float most = -INFINITY, total = 0.0f, *to = seen + head * D;
        for (int64_t chunk = 0; chunk < a->chunks; chunk++) {
            const float *part = parts + chunk * (D + 2);
            if (part[1] != 0.0f && (part[0] > most || part[0] != part[0]))
                most = part[0];
        }
        memset(to, 0, D * sizeof *to);
        for (int64_t chunk = 0; chunk < a->chunks; chunk++) {
            const float *part = parts + chunk * (D + 2);
            if (part[1] == 0.0f)
                continue;
            float share = expf(part[0] - most);
            total += part[1] * share;
            for (int64_t d = 0; d < D; d++)
                to[d] += part[2 + d] * share;
        }
        for (int64_t d = 0; d < D; d++)
            to[d] /= total;
    }
    to_operands(seen, a->heads * D, out);
}
