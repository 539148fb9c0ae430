/* Each row's new tokens through every layer of a Llama-like decoder.

   Between two products a step reads little: what a product's rows need (norm, attention's end, SwiGLU) every thread makes
   for itself, so threads wait for each other only where columns become rows. The residual is float32. */

#pragma once

#include "attention.h"

typedef struct {
    const element *attention_norm, *mlp_norm, *q_norm, *k_norm;
    int64_t window;
    linear qkv, out, gate_up, down;
} layer;

/* cache [layers, 2, R, kv_heads, T, D]; Q new tokens per row, a row's side by side; lengths [R] with them; adapters [R], −1
   for none. prefixes [layers, 2, P, kv_heads, prefix_T, D] or none: what rows begin with (attention.h), their lengths with
   it. Room for N = R Q tokens: own [N] adapters, residual [N, H], z [N, widest], h [N, most shrinks], partials
   [N, heads, chunks of all positions, D + 2], packed [threads, packed_size]; h and packed are operands. */
typedef struct {
    const layer *layers;
    int64_t depth, R, Q, H, heads, kv_heads, D, T, P, prefix_T, packed_size;
    float eps, scale;
    element *cache;
    const element *prefixes, *norm;
    const int32_t *lengths, *adapters, *starts, *order, *first;
    const float *cos, *sin;
    int32_t *own;
    float *residual, *z, *partials;
    operand *h, *packed;
} decoder;

/* What the rows of a product are made of. */
enum source { NORM, HEADS, MLP };

INLINE float inverse_rms(const float *row, int64_t H, float eps)
{
    floats squares = (floats){};
    int64_t k = 0;
    for (; k + 8 <= H; k += 8)
        squares = fused(load_floats(row + k), load_floats(row + k), squares);
    float total = sum(squares);
    for (; k < H; k++)
        total += row[k] * row[k];
    return 1.0f / sqrtf(total / H + eps);
}

/* out [H]: a row of the residual normalised. */
static void normalise(const float *row, const element *weight, int64_t H, float eps, operand *out)
{
    float scale = inverse_rms(row, H, eps);
    int64_t k = 0;
    for (; k + 16 <= H; k += 16) {
        pair w = load_pair(weight + k);
        w = restore(w.first, w.second);
        put_sixteen(out + k, load_floats(row + k) * scale * w.first, load_floats(row + k + 8) * scale * w.second);
    }
    for (; k < H; k++)
        out[k] = to_operand(row[k] * scale * widen(weight[k]));
}

INLINE floats silu(floats x) { return x / (1.0f + exponential(-x)); }

/* out [width]: SiLU of the first ``width`` columns times the others. */
static void swiglu(const float *row, int64_t width, operand *out)
{
    int64_t k = 0;
    for (; k + 16 <= width; k += 16) {
        floats low = silu(load_floats(row + k)) * load_floats(row + width + k);
        floats high = silu(load_floats(row + k + 8)) * load_floats(row + width + k + 8);
        put_sixteen(out + k, low, high);
    }
    for (; k < width; k++)
        out[k] = to_operand(silu(all(row[k]))[0] * row[width + k]);
}

/* One of a layer's products, over rows made of ``source``; threads wait for each other at its end. */
static void product(const decoder *m, const linear *weights, enum source source, const element *norm, const attention *a,
                    operand *x, lift *lifts, float *to, int64_t stride, int add)
{
    int64_t K = weights->K, step = block_rows(K), width = weights->targets * weights->rank;
    for (int64_t first = 0; first < m->R * m->Q; first += step) {
        int64_t count = least(step, m->R * m->Q - first);
        for (int64_t r = 0; r < count; r++) {
            int64_t row = first + r;
            if (source == NORM)
                normalise(m->residual + row * m->H, norm, m->H, m->eps, x + r * K);
            else if (source == HEADS)
                combine(a, row, x + r * K);
            else
                swiglu(m->z + row * 2 * K, K, x + r * K);
        }
        target y = {to + first * stride, 0, stride, add};
        apply(weights, x, count, m->own + first, m->h + first * width, lifts, y);
    }
#pragma omp barrier
}

static void run_layer(const decoder *m, int64_t index, int64_t chunks, operand *x, lift *lifts)
{
    const layer *one = m->layers + index;
    int64_t half = m->R * m->kv_heads * m->T * m->D, prefix_half = m->P * m->kv_heads * m->prefix_T * m->D;
    element *keys = m->cache + 2 * index * half;
    const element *prefix_keys = m->prefixes + 2 * index * prefix_half;
    prefixes shared = {m->P, m->prefix_T, prefix_keys, prefix_keys + prefix_half, m->starts, m->order, m->first};
    attention a = {m->R, m->Q, m->heads, m->kv_heads, m->D, m->T, one->window, chunks, m->eps, m->scale, keys, keys + half,
                   one->q_norm, one->k_norm, m->lengths, m->cos, m->sin, m->z, m->partials, shared};
    product(m, &one->qkv, NORM, one->attention_norm, 0, x, lifts, m->z, one->qkv.N, 0);
    attend(&a);
    product(m, &one->out, HEADS, 0, &a, x, lifts, m->residual, m->H, 1);
    product(m, &one->gate_up, NORM, one->mlp_norm, 0, x, lifts, m->z, one->gate_up.N, 0);
    product(m, &one->down, MLP, 0, 0, x, lifts, m->residual, m->H, 1);
}

/* embedded [N, H] -> hidden [N, H] after the last norm. */
void decode(const decoder *m, const element *embedded, element *hidden, int threads)
{
    int64_t longest = 0, N = m->R * m->Q;
    for (int64_t r = 0; r < m->R; r++)
        longest = m->lengths[r] > longest ? m->lengths[r] : longest;
    int64_t chunks = chunks_of(longest);
#pragma omp parallel num_threads(threads)
    {
        operand *x = m->packed + omp_get_thread_num() * m->packed_size;
        lift lifts[N];
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < N; i++)
            m->own[i] = m->adapters[i / m->Q];
#pragma omp for schedule(static)
        for (int64_t i = 0; i < N * m->H; i++)
            m->residual[i] = widen(embedded[i]);
        for (int64_t index = 0; index < m->depth; index++)
            run_layer(m, index, chunks, x, lifts);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < N; i++) {
            const float *row = m->residual + i * m->H;
            float scale = inverse_rms(row, m->H, m->eps);
            for (int64_t k = 0; k < m->H; k++)
                hidden[i * m->H + k] = narrow(row[k] * scale * widen(m->norm[k]));
        }
    }
}
