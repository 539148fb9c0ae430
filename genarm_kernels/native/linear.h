/* Rows times a matrix of weights, y = x Wᵀ, each weight read once for up to four rows at a time.

   Every product is summed in one order, whatever the tile: a row's bits do not depend on the rows beside it. The rows are
   operands (operands.h), a thread's own; the columns are divided among the threads. */

#pragma once

#include <omp.h>

#include "operands.h"

#define ROWS 4
#ifdef WIDE
#define COLUMNS 4           /* of 32 registers the sums have 16 */
#else
#define COLUMNS 3           /* of 16 they have 12 */
#endif
#define LATER 4             /* tiles of columns between a weight's way into the second cache and its use */
#define COLUMN_BLOCK 12     /* whose weights stay in the cache while every row passes */
#define ROW_BYTES (1 << 20) /* of operands that stay there */

/* A fused linear layer: W [N, K], behind it each adapter's A [targets * rank, K]; bias [N] or none; each adapter's B
   [N, rank] or none. The rank is a multiple of 16. */
typedef struct {
    const element *weight, *bias, *up;
    int64_t N, K, targets, rank, widths[3];
} linear;

/* Where a product goes: added to float32, written as float32, or written in the model's dtype. */
typedef struct {
    float *wide;
    element *narrow;
    int64_t stride;
    int add;
} target;

/* A row's LoRA: its shrinks, and B at the first column; nothing where up is null. */
typedef struct {
    const operand *shrinks;
    const element *up;
} lift;

static int64_t block_rows(int64_t K)
{
    int64_t rows = ROW_BYTES / (int64_t)sizeof(operand) / K / ROWS * ROWS;
    return rows < 16 ? 16 : rows;
}

INLINE floats sums_of(const lanes *v, int count)
{
    return sums(folded(v[0]), folded(v[count > 1 ? 1 : 0]), folded(v[count > 2 ? 2 : 0]), folded(v[count > 3 ? 3 : 0]));
}

INLINE void dot(const int R, const int C, const operand *x, int64_t x_stride, const element *w, int64_t w_stride, int64_t K,
                const lift *lifts, int64_t rank, float out[ROWS][COLUMNS])
{
    lanes accumulated[ROWS][COLUMNS];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++)
            accumulated[r][c] = (lanes){};
    int64_t k = 0;
    for (; k + STEP <= K; k += STEP)
        for (int c = 0; c < C; c++) {
            weights column = load_weights(w + c * w_stride + k);
            __builtin_prefetch(w + (c + C) * w_stride + k);
            __builtin_prefetch(w + (c + LATER * C) * w_stride + k, 0, 2);
            for (int r = 0; r < R; r++)
                accumulated[r][c] = multiply(accumulated[r][c], x + r * x_stride + k, column);
        }
    if (STEP > 16 && k + 16 <= K) {
        for (int c = 0; c < C; c++)
            for (int r = 0; r < R; r++)
                accumulated[r][c] = multiply_sixteen(accumulated[r][c], x + r * x_stride + k, w + c * w_stride + k);
        k += 16;
    }
    for (int r = 0; lifts && r < R; r++)
        for (int64_t j = 0; lifts[r].up && j < rank; j += 16)
            for (int c = 0; c < C; c++) {
                const element *up = lifts[r].up + c * rank + j;
                __builtin_prefetch(up + C * rank);
                accumulated[r][c] = multiply_sixteen(accumulated[r][c], lifts[r].shrinks + j, up);
            }
    for (int r = 0; r < R; r++) {
        floats row = sums_of(accumulated[r], C);
        for (int c = 0; c < C; c++) {
            out[r][c] = row[c];
            for (int64_t rest = k; rest < K; rest++)
                out[r][c] += from_operand(x[r * x_stride + rest]) * widen(w[c * w_stride + rest]);
        }
    }
}

/* The same for numbers of rows and columns that the compiler does not know. */
static void dots(int64_t R, int64_t C, const operand *x, int64_t x_stride, const element *w, int64_t w_stride, int64_t K,
                 const lift *lifts, int64_t rank, float out[ROWS][COLUMNS])
{
#define CASE(rows, columns)                                                            \
    case rows * 8 + columns:                                                           \
        dot(rows, columns, x, x_stride, w, w_stride, K, lifts, rank, out);             \
        return
    switch (R * 8 + C) {
        CASE(1, 1); CASE(2, 1); CASE(3, 1); CASE(4, 1);
        CASE(1, 2); CASE(2, 2); CASE(3, 2); CASE(4, 2);
        CASE(1, 3); CASE(2, 3); CASE(3, 3); CASE(4, 3);
#if COLUMNS > 3
        CASE(1, 4); CASE(2, 4); CASE(3, 4); CASE(4, 4);
#endif
    }
#undef CASE
}

INLINE void put(target to, int64_t row, int64_t column, float value)
{
    int64_t place = row * to.stride + column;
    if (to.narrow)
        to.narrow[place] = narrow(value);
    else
        to.wide[place] = to.add ? to.wide[place] + value : value;
}

INLINE int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }

/* Columns [from, to) of rows x [R, K]; lifts [R] stand at column ``from``. All threads call it; none waits at its end. */
static void columns(const operand *x, int64_t R, int64_t K, const element *w, int64_t w_stride, const element *bias,
                    int64_t from, int64_t to, const lift *lifts, int64_t rank, target y)
{
#pragma omp for schedule(static) nowait
    for (int64_t block = from; block < to; block += COLUMN_BLOCK)
        for (int64_t r = 0; r < R; r += ROWS)
            for (int64_t n = block; n < least(block + COLUMN_BLOCK, to); n += COLUMNS) {
                int64_t rows = least(ROWS, R - r), count = least(COLUMNS, least(block + COLUMN_BLOCK, to) - n);
                float values[ROWS][COLUMNS];
                lift moved[ROWS];
                for (int64_t i = 0; lifts && i < rows; i++)
                    moved[i] = (lift){lifts[r + i].shrinks, lifts[r + i].up ? lifts[r + i].up + (n - from) * rank : 0};
                dots(rows, count, x + r * K, K, w + n * w_stride, w_stride, K, lifts ? moved : 0, rank, values);
                for (int64_t i = 0; i < rows; i++)
                    for (int64_t c = 0; c < count; c++)
                        put(y, r + i, n + c, values[i][c] + (bias ? widen(bias[n + c]) : 0.0f));
            }
}

/* Every row's shrinks by its own adapter, h [R, targets * rank]. All threads call it; none waits at its end. */
static void shrink(const linear *m, const operand *x, int64_t R, const int32_t *adapters, operand *h)
{
    int64_t width = m->targets * m->rank;
#pragma omp for schedule(static) nowait
    for (int64_t s = 0; s < width; s += COLUMNS)
        for (int64_t r = 0, run; r < R; r += run) {
            for (run = 1; run < ROWS && r + run < R && adapters[r + run] == adapters[r]; run++)
                ;
            if (adapters[r] < 0)
                continue;
            int64_t count = least(COLUMNS, width - s);
            float values[ROWS][COLUMNS];
            const element *down = m->weight + (m->N + adapters[r] * width + s) * m->K;
            dots(run, count, x + r * m->K, m->K, down, m->K, m->K, 0, 0, values);
            for (int64_t i = 0; i < run; i++)
                for (int64_t c = 0; c < count; c++)
                    h[(r + i) * width + operand_place(s + c)] = to_operand(values[i][c]);
        }
}

/* The whole layer on rows x [R, K] with ``adapters`` [R], −1 for none; h and lifts are room for as many rows. */
static void apply(const linear *m, const operand *x, int64_t R, const int32_t *adapters, operand *h, lift *lifts,
                  target y)
{
    int64_t width = m->targets * m->rank;
    if (m->up) {
        shrink(m, x, R, adapters, h);
#pragma omp barrier
    }
    for (int64_t t = 0, start = 0; t < m->targets; start += m->widths[t++]) {
        for (int64_t r = 0; m->up && r < R; r++)
            lifts[r] = (lift){h + r * width + t * m->rank,
                              adapters[r] < 0 ? 0 : m->up + (adapters[r] * m->N + start) * m->rank};
        columns(x, R, m->K, m->weight, m->K, m->bias, start, start + m->widths[t], m->up ? lifts : 0, m->rank, y);
    }
}

/* y [R, N] = x Wᵀ + bias for rows in the model's dtype, any number of them. ``packed`` is room for ``threads`` times
   ``packed_size`` operands: packed_rows(R, K) rows of K. */
void linear_rows(const element *x, int64_t x_stride, const element *w, int64_t w_stride, const element *bias, element *y,
                 int64_t y_stride, int64_t R, int64_t N, int64_t K, operand *packed, int64_t packed_size, int threads)
{
    int64_t step = block_rows(K);
#pragma omp parallel num_threads(threads)
    {
        operand *own = packed + omp_get_thread_num() * packed_size;
        for (int64_t first = 0; first < R; first += step) {
            int64_t count = least(step, R - first);
            for (int64_t r = 0; r < count; r++)
                elements_to_operands(x + (first + r) * x_stride, K, own + r * K);
            columns(own, count, K, w, w_stride, bias, 0, N, 0, 0, (target){0, y + first * y_stride, y_stride, 0});
        }
    }
}

/* Rows of K operands that a thread holds, of R. */
int64_t packed_rows(int64_t R, int64_t K) { return least(R, block_rows(K)); }
