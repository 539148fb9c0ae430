/* New tokens attend to what their row has cached; their own keys and values are stored on the way.

   Work is cut into (row, key head, chunk of positions). Each gives, for every new token and query head of its key head,
   the maximum of its scores, the sum of e^(score − maximum), and the values summed with these weights; "combine" joins a
   token's chunks. Chunks begin at multiples of CHUNK, and a token is summed on its own, over the positions up to its own: its
   bits do not depend on the tokens that came with it.

   Rows may begin with one prefix, whose keys and values lie elsewhere, once. A chunk that begins in it is the work of all
   these rows side by side, so that it comes from memory once; where it ends in the rows' own caches each goes on there. Bits
   are those of rows that have all their positions in their own cache. */

#pragma once

#include "chunk.h"

int64_t chunks_of(int64_t positions) { return (positions + CHUNK - 1) / CHUNK; }

/* P prefixes: keys, values [P, kv_heads, T, D] of a layer; starts [R], how many of its prefix's positions a row begins with;
   rows in ``order`` [R], those of one prefix side by side from first [P + 1] on. P = 0: each row has its own cache alone. */
typedef struct {
    int64_t P, T;
    const element *keys, *values;
    const int32_t *starts, *order, *first;
} prefixes;

/* keys, values [R, kv_heads, T, D], of a row the positions behind its prefix; z [R, Q, heads + 2 kv_heads, D] queries, keys,
   values of the new tokens, a row's last Q; lengths [R] with them and the prefix; cos, sin [positions, D / 2]; norms [D] or
   none; partials [R, Q, heads, chunks, D + 2]. */
typedef struct {
    int64_t R, Q, heads, kv_heads, D, T, window, chunks;
    float eps, scale;
    element *keys, *values;
    const element *q_norm, *k_norm;
    const int32_t *lengths;
    const float *cos, *sin, *z;
    float *partials;
    prefixes shared;
} attention;

/* A new token in a chunk: its row, its place among all of them, and the chunk's positions that it sees. */
typedef struct {
    int64_t row, index, position, begin, end;
} newcomer;

/* New tokens that see the same ``common`` positions of a chunk, from ``begin`` to ``border``; behind them a token sees what
   its row has. ``next``: keys that are likely to be this thread's next chunk, or none. */
typedef struct {
    int64_t kv_head, chunk, begin, border, count;
    const element *next;
    stretch common;
    newcomer tokens[VECTORS];
} party;

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

INLINE int64_t start_of(const attention *a, int64_t row) { return a->shared.P ? a->shared.starts[row] : 0; }

/* Where a row's own cache has a position, which stands behind the row's prefix. */
INLINE int64_t own_place(const attention *a, int64_t row, int64_t head, int64_t position)
{
    return ((row * a->kv_heads + head) * a->T + position - start_of(a, row)) * a->D;
}

/* Key and value of a new token go where it stands in its row. */
static void keep(const attention *a, int64_t row, int64_t head, int64_t position)
{
    int64_t token = row * a->Q + position - (a->lengths[row] - a->Q);
    const float *key = a->z + (token * (a->heads + 2 * a->kv_heads) + a->heads + head) * a->D;
    int64_t place = own_place(a, row, head, position);
    float turned[a->D];
    turn(a, key, a->k_norm, position, 1.0f, turned);
    for (int64_t d = 0; d < a->D; d++) {
        a->keys[place + d] = narrow(turned[d]);
        a->values[place + d] = narrow(key[a->kv_heads * a->D + d]);
    }
}

INLINE float *part_of(const attention *a, int64_t token, int64_t head, int64_t chunk)
{
    return a->partials + ((token * a->heads + head) * a->chunks + chunk) * (a->D + 2);
}

/* VECTORS query heads of a party's tokens at most, from ``first`` on: of each token its key head's, one token after the
   other. ``next`` comes into the cache meanwhile. */
static void attend_heads(const attention *a, const party *p, int64_t first, int64_t count, stream *next)
{
    int64_t D = a->D, G = a->heads / a->kv_heads, common = p->common.count, counts[VECTORS];
    float turned[D], scores[VECTORS][SCORES], *out[VECTORS];
    operand queries[VECTORS * D];
    stretch own[VECTORS];
    for (int64_t v = 0; v < count; v++) {
        newcomer token = p->tokens[(first + v) / G];
        int64_t head = p->kv_head * G + (first + v) % G, place = own_place(a, token.row, p->kv_head, p->border);
        turn(a, a->z + (token.index * (a->heads + 2 * a->kv_heads) + head) * D, a->q_norm, token.position, a->scale, turned);
        to_operands(turned, D, queries + v * D);
        out[v] = part_of(a, token.index, head, p->chunk);
        counts[v] = token.end - p->begin;
        own[v] = token.end > p->border ? (stretch){a->keys + place, a->values + place, token.end - p->border} : (stretch){};
    }
    stream values = stream_of(p->common.values, common * D);
    score(queries, count, p->common, D, scores, 0, &values);
    for (int64_t v = 0, run; v < count; v += run) {
        run = least(count - v, G - (first + v) % G);
        stream own_values = stream_of(own[v].values, own[v].count * D);
        score(queries + v * D, run, own[v], D, scores + v, common, &own_values);
    }
    soften_all(count, scores, counts, out, &values);
    stretch even = {p->common.keys, p->common.values, common - common % PAIR};
    const operand *weights = (const operand *)scores[0];
    const element *before = common % PAIR ? p->common.values + (common - 1) * D : 0;
    gather(count, (gathering){weights, 0, D, even, 0, out, 0, next});
    for (int64_t v = 0, run; v < count; v += run) {
        run = least(count - v, G - (first + v) % G);
        if (own[v].count || before)
            gather(run, (gathering){weights + v * WEIGHTS, common, D, own[v], before, out + v, 1, next});
    }
}

/* All that a party's tokens see of their chunk; it is empty then. */
static void settle(const attention *a, party *p)
{
    int64_t vectors = p->count * (a->heads / a->kv_heads);
    stream nothing = {}, next = stream_of(p->next, p->next ? CHUNK * a->D : 0);
    for (int64_t first = 0; first < vectors; first += VECTORS)
        attend_heads(a, p, first, least(VECTORS, vectors - first), first + VECTORS < vectors ? &nothing : &next);
    p->count = 0;
}

/* A row's new tokens join a party over a chunk, whose first ``limit`` positions lie where ``chunk`` says. */
static void join(const attention *a, party *p, int64_t row, stretch chunk)
{
    int64_t G = a->heads / a->kv_heads, length = a->lengths[row], from = p->chunk * CHUNK, to = from + CHUNK;
    int64_t position = length - a->Q, start = start_of(a, row);
    position = position < from ? from : position;
    for (position = position < start ? start : position; position < least(to, length); position++)
        keep(a, row, p->kv_head, position);
    for (int64_t q = 0; q < a->Q; q++) {
        newcomer token = {row, row * a->Q + q, length - a->Q + q, from, least(to, length - a->Q + q + 1)};
        if (a->window && token.position >= a->window + from)
            token.begin = token.position - a->window + 1;
        for (int64_t g = 0; token.begin >= token.end && g < G; g++)
            memset(part_of(a, token.index, p->kv_head * G + g, p->chunk), 0, 8);
        if (token.begin >= token.end)
            continue;
        int64_t border = least(from + chunk.count, token.end), skipped = (token.begin - from) * a->D;
        border = border < token.begin ? token.begin : border;
        if (p->count == VECTORS || p->begin != token.begin || p->border != border)
            settle(a, p);
        if (!p->count) {
            p->begin = token.begin, p->border = border;
            p->common = (stretch){chunk.keys + skipped, chunk.values + skipped, border - token.begin};
        }
        p->tokens[p->count++] = token;
    }
}

/* A chunk of a key head: of a prefix, or of a row behind them. */
INLINE stretch chunk_of(const attention *a, int64_t who, int64_t kv_head, int64_t chunk)
{
    const prefixes *shared = &a->shared;
    if (who < shared->P) {
        int64_t place = ((who * a->kv_heads + kv_head) * shared->T + chunk * CHUNK) * a->D;
        return (stretch){shared->keys + place, shared->values + place, CHUNK};
    }
    int64_t place = own_place(a, who - shared->P, kv_head, chunk * CHUNK);
    return (stretch){a->keys + place, a->values + place, CHUNK};
}

/* All new tokens. All threads call it, and wait for each other at its end. */
static void attend(const attention *a)
{
    const prefixes *shared = &a->shared;
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < (shared->P + a->R) * a->kv_heads * a->chunks; item++) {
        int64_t heads = item / a->chunks, later = item + omp_get_num_threads(), from = item % a->chunks * CHUNK;
        int64_t who = heads / a->kv_heads, row = who - shared->P;
        int64_t end = who < shared->P ? shared->first[who + 1] : 0;
        party p = {.kv_head = heads % a->kv_heads, .chunk = item % a->chunks};
        stretch chunk = chunk_of(a, who, p.kv_head, p.chunk);
        if (later / a->chunks / a->kv_heads == who)
            p.next = chunk_of(a, who, later / a->chunks % a->kv_heads, later % a->chunks).keys;
        for (int64_t i = end ? shared->first[who] : 0; i < end; i++) {
            row = shared->order[i], chunk.count = shared->starts[row] - from;
            if (chunk.count > 0)
                join(a, &p, row, chunk);
        }
        if (who >= shared->P && from >= start_of(a, row)) {
            chunk.count = a->lengths[row] - a->Q + 1 - from;
            join(a, &p, row, chunk);
        }
        settle(a, &p);
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
