/* The weighted combination of models' logits, and the two-level race that draws a token from it (docs/kernels.md).

   The rules on masks, weights of 0 and bad values are cpu.py's, the noise words noise.py's. A group of 1,024 ids is
   reduced in one order by one thread, so a row's token does not depend on its batch. */

#pragma once

#include <float.h>

#include "vector.h"

#define GROUP 1024
#define GROUP_NOISE 1
#define TOKEN_NOISE 2

/* M logits [R, V] at ``strides``; weights [R, M]; ``examined`` [R, M], whether NaN or +inf among a model's logits is the
   row's fault; bias [R, V] at a stride, or none. scores [R, groups * GROUP], −inf where excluded and beyond V; status [R],
   zeros before. */
typedef struct {
    const element *const *logits;
    const int64_t *strides;
    const float *weights, *bias;
    const uint8_t *examined;
    int64_t M, R, V, groups, bias_stride;
    float *scores;
    int32_t *status;
} combination;

INLINE floats finite_or_excluded(floats s) { return choose(s - s == 0.0f, s, all(-INFINITY)); }

/* Sixteen ids from ``id`` on, packed; bits of ``bad`` are set for models with NaN or +inf among them. */
INLINE pair combined_pair(const combination *c, int64_t row, int64_t id, int32_t *bad)
{
    pair s = {(floats){}, (floats){}};
    for (int64_t m = 0; m < c->M; m++) {
        float weight = c->weights[row * c->M + m];
        if (weight == 0.0f && m && !c->examined[row * c->M + m])
            continue;
        pair z = load_pair(c->logits[m] + row * c->strides[m] + id);
        ints fine = (z.first < INFINITY) & (z.second < INFINITY);
        int32_t every = -1;
        for (int lane = 0; lane < 8; lane++)
            every &= fine[lane];
        *bad |= every ? 0 : 1 << m;
        if (weight != 0.0f) {
            s.first += z.first * weight;
            s.second += z.second * weight;
        } else if (!m) {
            s.first = choose(z.first == -INFINITY, all(-INFINITY), s.first);
            s.second = choose(z.second == -INFINITY, all(-INFINITY), s.second);
        }
    }
    return s;
}

INLINE float combined_one(const combination *c, int64_t row, int64_t id, int32_t *bad)
{
    float s = 0.0f;
    for (int64_t m = 0; m < c->M; m++) {
        float weight = c->weights[row * c->M + m];
        if (weight == 0.0f && m && !c->examined[row * c->M + m])
            continue;
        float z = widen(c->logits[m][row * c->strides[m] + id]);
        *bad |= z < INFINITY ? 0 : 1 << m;
        if (weight != 0.0f)
            s += z * weight;
        else if (!m && z == -INFINITY)
            s = -INFINITY;
    }
    if (c->bias)
        s += c->bias[row * c->bias_stride + id];
    return s - s == 0.0f ? s : -INFINITY;
}

static void combine_group(const combination *c, int64_t row, int64_t group)
{
    int64_t id = group * GROUP, end = (group + 1) * GROUP;
    float *scores = c->scores + row * c->groups * GROUP;
    int32_t bad = 0;
    for (; id + 16 <= (end < c->V ? end : c->V); id += 16) {
        pair s = combined_pair(c, row, id, &bad);
        s = restore(s.first, s.second);
        if (c->bias) {
            s.first += load_floats(c->bias + row * c->bias_stride + id);
            s.second += load_floats(c->bias + row * c->bias_stride + id + 8);
        }
        store_pair(scores + id, (pair){finite_or_excluded(s.first), finite_or_excluded(s.second)});
    }
    for (; id < end; id++)
        scores[id] = id < c->V ? combined_one(c, row, id, &bad) : -INFINITY;
    for (int64_t m = 0; m < c->M; m++)
        if (!c->examined[row * c->M + m])
            bad &= ~(1 << m);
    if (bad) {
#pragma omp atomic
        c->status[row] |= bad;
    }
}

void combine_scores(const combination *c, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < c->R * c->groups; item++)
        combine_group(c, item / c->groups, item % c->groups);
}

/* Word 0 of Philox4x32-10 with key ``seed`` and counter (id, position, purpose). */
INLINE uint32_t noise_word(uint64_t seed, uint64_t position, uint32_t id, uint32_t purpose)
{
    uint32_t c0 = id, c1 = (uint32_t)position, c2 = (uint32_t)(position >> 32), c3 = purpose;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
        uint64_t even = (uint64_t)c0 * 0xD2511F53, odd = (uint64_t)c2 * 0xCD9E8D57;
        c0 = (uint32_t)(odd >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(even >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)odd;
        c3 = (uint32_t)even;
    }
    return c0;
}

/* log of the word's unit exponential. */
INLINE float log_noise(uint32_t word)
{
    int small = word < 0x80000000u;
    float u = ((float)(small ? word : ~word) + 0.5f) * 2.3283064365386963e-10f;
    return logf(small ? -log1pf(-u) : -logf(u));
}

/* A group's largest value, at least the lowest finite one, and the sum of e^((value − peak) / T). */
static void group_mass(const float *values, float inverse_temperature, float *peak, float *mass)
{
    floats most = all(-FLT_MAX), total = (floats){};
    for (int64_t i = 0; i < GROUP; i += 8) {
        floats v = load_floats(values + i);
        most = choose(v > most, v, most);
    }
    for (int lane = 0; lane < 8; lane++)
        *peak = lane && *peak > most[lane] ? *peak : most[lane];
    for (int64_t i = 0; i < GROUP; i += 8) {
        floats v = load_floats(values + i);
        floats e = exponential((v - *peak) * inverse_temperature);
        total += choose(v == -INFINITY, (floats){}, e);
    }
    *mass = sum(total);
}

/* The place of the first of the largest of ``score`` over [0, count). */
#define ARGMAX(best, count, score)                    \
    do {                                              \
        float most = -INFINITY;                       \
        for (int64_t i = 0; i < (count); i++) {       \
            float value = (score);                    \
            if (value > most || (!i && value == most)) { \
                most = value;                         \
                best = i;                             \
            }                                         \
        }                                             \
    } while (0)

static int64_t race_row(const float *values, int64_t groups, const float *peaks, const float *masses, float inverse,
                        uint64_t seed, uint64_t position)
{
    int64_t group = 0, token = 0;
    float top = -INFINITY;
    for (int64_t g = 0; g < groups; g++)
        top = peaks[g] > top ? peaks[g] : top;
    ARGMAX(group, groups,
           (peaks[i] - top) * inverse + logf(masses[i]) - log_noise(noise_word(seed, position, i, GROUP_NOISE)));
    const float *in_group = values + group * GROUP;
    ARGMAX(token, GROUP,
           in_group[i] == -INFINITY ? -INFINITY
                                    : (in_group[i] - peaks[group]) * inverse -
                                          log_noise(noise_word(seed, position, group * GROUP + i, TOKEN_NOISE)));
    return group * GROUP + token;
}

/* Peaks and masses [R, groups] of values [R, groups * GROUP], −inf where excluded. */
void group_masses(const float *values, int64_t R, int64_t groups, const float *inverse_temperature, float *peaks,
                  float *masses, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < R * groups; item++)
        group_mass(values + item * GROUP, inverse_temperature[item / groups], peaks + item, masses + item);
}

/* A model's own group at temperature 1, straight from its logits; one that is not ``wanted`` is empty, and not read. */
static void model_mass(const element *logits, int64_t first, int64_t V, int wanted, float *peak, float *mass)
{
    float values[GROUP];
    int64_t count = V - first < GROUP ? V - first : GROUP, i = 0;
    *peak = -FLT_MAX, *mass = 0.0f;
    if (!wanted)
        return;
    for (; i + 16 <= count; i += 16)
        store_pair(values + i, load_pair(logits + first + i));
    for (; i < GROUP; i++)
        values[i] = i < count ? widen(logits[first + i]) : -INFINITY;
    group_mass(values, 1.0f, peak, mass);
}

/* Peaks and masses [M, R, groups] of M logits [R, V] at ``strides``; ``wanted`` [M]. */
void model_masses(const element *const *logits, const int64_t *strides, const uint8_t *wanted, int64_t M, int64_t R,
                  int64_t V, int64_t groups, float *peaks, float *masses, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < M * R * groups; item++) {
        int64_t m = item / (R * groups), row = item / groups % R;
        model_mass(logits[m] + row * strides[m], item % groups * GROUP, V, wanted[m], peaks + item, masses + item);
    }
}

/* Of each row its largest peak, and the log of its mass beside that. */
void row_totals(const float *peaks, const float *masses, int64_t rows, int64_t groups, const float *inverse_temperature,
                float *tops, float *log_totals)
{
    for (int64_t row = 0; row < rows; row++, peaks += groups, masses += groups) {
        float top = -FLT_MAX, total = 0.0f;
        for (int64_t g = 0; g < groups; g++)
            top = peaks[g] > top ? peaks[g] : top;
        for (int64_t g = 0; g < groups; g++)
            total += masses[g] * expf((peaks[g] - top) * inverse_temperature[row]);
        tops[row] = top;
        log_totals[row] = logf(total);
    }
}

/* One token a row of values [R, groups * GROUP], −inf where excluded; peaks and masses [R, groups] are written. */
void race(const float *values, int64_t R, int64_t groups, const float *inverse_temperature, const int64_t *seeds,
          const int64_t *positions, int64_t *tokens, float *peaks, float *masses, int threads)
{
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t item = 0; item < R * groups; item++)
            group_mass(values + item * GROUP, inverse_temperature[item / groups], peaks + item, masses + item);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < R; row++)
            tokens[row] = race_row(values + row * groups * GROUP, groups, peaks + row * groups, masses + row * groups,
                                   inverse_temperature[row], (uint64_t)seeds[row], (uint64_t)positions[row]);
    }
}

/* Words of ``count`` ids from 0 on, and the logs of words' exponentials: what tests hold against noise.py. */
void noise_words(uint64_t seed, uint64_t position, uint32_t purpose, int64_t count, uint32_t *words)
{
    for (int64_t id = 0; id < count; id++)
        words[id] = noise_word(seed, position, (uint32_t)id, purpose);
}

void log_noises(const uint32_t *words, int64_t count, float *logs)
{
    for (int64_t i = 0; i < count; i++)
        logs[i] = log_noise(words[i]);
}
