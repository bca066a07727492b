/* A pass of up to `batch` tokens through the layers. A thread owns key heads and tiles of rows; between the parts of a
 * layer all wait for each other. What each thread needs whole (norms, quantized inputs) it computes for itself. */
#include "model.h"

#include "fpmode.h"
#include "numeric.h"

typedef struct {
    uint32_t from, to;
} range;

static range share(uint32_t count, uint32_t thread, uint32_t threads) {
    return (range){(uint32_t)((uint64_t)count * thread / threads), (uint32_t)((uint64_t)count * (thread + 1) / threads)};
}

static range share_tiles(const ek_model *m, const ek_matrix *matrix, uint32_t thread) {
    return share((matrix->rows + EK_ROWS - 1) / EK_ROWS, thread, m->thread_count);
}

static void wait(const ek_model *m, uint32_t thread) {
    if (m->threads) m->threads->barrier(m->threads, thread);
}

static uint32_t bit(const ek_matrix *matrix) { return 1u << matrix->format; }

void ek_prepare(const ek_model *m, const ek_buffer *b, uint32_t formats, size_t width, size_t from, size_t to) {
    for (size_t c = from; c < to; c++) {
        size_t at = c * b->stride, block = at / EK_BLOCK;
        if (formats & 1u << EK_TILE_F16) m->kernels->round13(b->f + at, width, b->h + at);
        if (formats >> EK_TILE_S8)
            m->kernels->quantize(b->f + at, width, b->q + at, b->d + block, b->s + block, b->sum + block);
    }
}

/* The rows of tiles [r.from, r.to), with the bias if there is one. out[c][0] is that of the first row; each column of
 * `out` is padded to whole tiles. */
static void product(const ek_model *m, const ek_matrix *matrix, const float *bias, range r, const ek_columns *x, size_t n,
                    float *out, size_t stride) {
    uint32_t row = r.from * EK_ROWS, end = r.to * EK_ROWS < matrix->rows ? r.to * EK_ROWS : matrix->rows;
    if (r.from >= r.to) return;
    if (matrix->direct)
        ek_direct(matrix, row, end - row, x, n, out, stride);
    else
        m->kernels->product[matrix->format](matrix->data + r.from * matrix->tile_bytes, matrix->tile_bytes, r.to - r.from,
                                            matrix->columns, x, n, out, stride);
    for (size_t c = 0; bias && c < n; c++)
        for (uint32_t i = row; i < end; i++) out[c * stride + i - row] += bias[i];
}

/* The same for logits, which have no padding. */
static void product_logits(const ek_model *m, range r, const ek_columns *x, size_t n, float *out) {
    uint32_t whole = m->output.rows / EK_ROWS, stride = m->output.rows;
    range full = {r.from, r.to < whole ? r.to : whole};
    product(m, &m->output, NULL, full, x, n, out + r.from * EK_ROWS, stride);
    if (r.to <= whole) return;
    for (size_t c = 0; c < n; c++) {
        float last[EK_ROWS];
        ek_columns one = *x;
        one.f += c * x->stride;
        one.h += c * x->stride;
        one.q += c * x->stride;
        one.d += c * x->stride / EK_BLOCK;
        one.s += c * x->stride / EK_BLOCK;
        one.sum += c * x->stride / EK_BLOCK;
        product(m, &m->output, NULL, (range){whole, whole + 1}, &one, 1, last, EK_ROWS);
        for (uint32_t i = whole * EK_ROWS; i < stride; i++) out[c * stride + i] = last[i - whole * EK_ROWS];
    }
}

/* Adds the product of the input and a matrix to columns [first, n) of x. */
static void add_product(const ek_pass *p, const ek_matrix *matrix, const float *bias, uint32_t thread, size_t first) {
    const ek_model *m = p->model;
    ek_columns x = ek_columns_of(&m->scratch[thread].input, first);
    range r = share_tiles(m, matrix, thread);
    size_t at = first * m->hidden_stride + r.from * EK_ROWS;
    product(m, matrix, bias, r, &x, p->n - first, m->out + at, m->hidden_stride);
    for (size_t c = first; c < p->n; c++)
        for (uint32_t i = r.from * EK_ROWS; i < r.to * EK_ROWS && i < matrix->rows; i++)
            m->x[c * m->hidden_stride + i] += m->out[c * m->hidden_stride + i];
}

/* The input of products from columns [first, n) of `values`: normed (weight not NULL) or copied. */
static void take_input(const ek_pass *p, const float *values, size_t stride, size_t width, const float *weight,
                       uint32_t formats, uint32_t thread, size_t first) {
    const ek_model *m = p->model;
    const ek_buffer *input = &m->scratch[thread].input;
    for (size_t c = first; c < p->n; c++) {
        const float *from = values + c * stride;
        float *to = input->f + c * input->stride;
        if (weight) m->kernels->norm(from, weight, width, m->info.epsilon, to);
        for (size_t i = 0; !weight && i < width; i++) to[i] = from[i];
    }
    ek_prepare(m, input, formats, width, first, p->n);
}

static void rotate(const ek_model *m, float *head, size_t column, float scale) {
    uint32_t half = m->info.head_dim / 2;
    const float *cosine = m->rope + column * m->info.head_dim, *sine = cosine + half;
    for (uint32_t i = 0; i < half; i++) {
        float p = head[i], q = head[i + half];
        head[i] = (p * cosine[i] - q * sine[i]) * scale;
        head[i + half] = (q * cosine[i] + p * sine[i]) * scale;
    }
}

/* Queries, keys and values of the thread's heads, rotated. */
static void project(const ek_pass *p, const ek_layer *layer, uint32_t thread, range heads, size_t first) {
    const ek_model *m = p->model;
    uint32_t width = m->info.head_dim, group = m->info.heads / m->info.kv_heads;
    range kv = {heads.from * width / EK_ROWS, (heads.to * width + EK_ROWS - 1) / EK_ROWS};
    range q = {heads.from * group * width / EK_ROWS, (heads.to * group * width + EK_ROWS - 1) / EK_ROWS};
    ek_columns all = ek_columns_of(&m->scratch[thread].input, 0), some = ek_columns_of(&m->scratch[thread].input, first);
    product(m, &layer->matrix[EK_K], layer->vector[EK_K_BIAS], kv, &all, p->n,
            m->k + kv.from * EK_ROWS, m->kv_stride);
    product(m, &layer->matrix[EK_V], layer->vector[EK_V_BIAS], kv, &all, p->n,
            m->v + kv.from * EK_ROWS, m->kv_stride);
    product(m, &layer->matrix[EK_Q], layer->vector[EK_Q_BIAS], q, &some, p->n - first,
            m->q + first * m->q_stride + q.from * EK_ROWS, m->q_stride);
    float scale = 1.0f / ek_sqrt((float)width);
    for (size_t c = 0; c < p->n; c++)
        for (uint32_t h = heads.from; h < heads.to; h++) {
            rotate(m, m->k + c * m->kv_stride + h * width, c, 1.0f);
            for (uint32_t g = h * group; g < (h + 1) * group && c >= first; g++)
                rotate(m, m->q + c * m->q_stride + g * width, c, scale);
        }
}

static void feed_forward(const ek_pass *p, const ek_layer *layer, uint32_t thread, size_t first) {
    const ek_model *m = p->model;
    const ek_matrix *gate = &layer->matrix[EK_GATE], *up = &layer->matrix[EK_UP], *down = &layer->matrix[EK_DOWN];
    range r = share_tiles(m, gate, thread);
    size_t wide = m->info.intermediate, at = first * m->wide_stride + r.from * EK_ROWS;
    take_input(p, m->x, m->hidden_stride, m->info.hidden, layer->vector[EK_FFN_NORM], bit(gate) | bit(up), thread, first);
    ek_columns x = ek_columns_of(&m->scratch[thread].input, first);
    product(m, gate, layer->vector[EK_GATE_BIAS], r, &x, p->n - first, m->gate + at, m->wide_stride);
    product(m, up, layer->vector[EK_UP_BIAS], r, &x, p->n - first, m->up + at, m->wide_stride);
    size_t from = (size_t)r.from * EK_ROWS, end = (size_t)r.to * EK_ROWS < wide ? (size_t)r.to * EK_ROWS : wide;
    for (size_t c = first; from < end && c < p->n; c++)
        m->kernels->swiglu(m->gate + c * m->wide_stride + from, m->up + c * m->wide_stride + from, end - from);
    wait(m, thread);
    take_input(p, m->gate, m->wide_stride, wide, NULL, bit(down), thread, first);
    add_product(p, down, layer->vector[EK_DOWN_BIAS], thread, first);
    wait(m, thread);
}

/* Columns before `first` only leave their keys and values behind; first == n: no column does more. */
static void run_layer(const ek_pass *p, const ek_layer *layer, uint32_t thread, size_t first) {
    const ek_model *m = p->model;
    const ek_matrix *matrix = layer->matrix;
    uint32_t units = (m->info.kv_heads + m->unit - 1) / m->unit;
    range heads = share(units, thread, m->thread_count);
    heads.from *= m->unit;
    heads.to = heads.to * m->unit < m->info.kv_heads ? heads.to * m->unit : m->info.kv_heads;
    take_input(p, m->x, m->hidden_stride, m->info.hidden, layer->vector[EK_ATTN_NORM],
               bit(&matrix[EK_Q]) | bit(&matrix[EK_K]) | bit(&matrix[EK_V]), thread, 0);
    if (heads.from < heads.to) {
        project(p, layer, thread, heads, first);
        ek_append(p, layer, heads.from, heads.to);
        ek_attend(p, layer, &m->scratch[thread], heads.from, heads.to, first);
    }
    if (first == p->n) return;
    wait(m, thread);
    take_input(p, m->mixed, m->q_stride, (size_t)m->info.heads * m->info.head_dim, NULL, bit(&matrix[EK_O]), thread,
               first);
    add_product(p, &matrix[EK_O], layer->vector[EK_O_BIAS], thread, first);
    wait(m, thread);
    feed_forward(p, layer, thread, first);
}

static void work(void *argument, uint32_t thread) {
    const ek_pass *p = argument;
    const ek_model *m = p->model;
    ek_fpmode mode = ek_fpmode_set();
    size_t last = !p->logits ? p->n : p->every ? 0 : p->n - 1;
    for (uint32_t i = 0; i < m->info.layers; i++)
        run_layer(p, &m->layers[i], thread, i + 1 < m->info.layers ? 0 : last);
    if (p->logits) {
        take_input(p, m->x, m->hidden_stride, m->info.hidden, m->output_norm, bit(&m->output), thread, last);
        ek_columns x = ek_columns_of(&m->scratch[thread].input, last);
        product_logits(m, share_tiles(m, &m->output, thread), &x, p->n - last, p->logits);
    }
    ek_fpmode_restore(mode);
}

static void embed(const ek_pass *p, const uint32_t *tokens) {
    const ek_model *m = p->model;
    uint32_t half = m->info.head_dim / 2;
    for (size_t c = 0; c < p->n; c++) {
        const uint8_t *row = m->embedding.data + tokens[c] * m->embedding.tile_bytes;
        float *rope = m->rope + c * m->info.head_dim, position = (float)(p->past + c);
        ek_read_row(m->embedding.type, row, m->info.hidden, m->x + c * m->hidden_stride);
        for (uint32_t i = 0; i < half; i++) ek_cos_sin(position * m->frequencies[i], rope + i, rope + half + i);
    }
}

int ek_forward(ek_model *m, const uint32_t *tokens, size_t n, float *logits, int every) {
    if (!n) return EK_ARGUMENT;
    for (size_t i = 0; i < n; i++)
        if (tokens[i] >= m->info.vocabulary) return EK_ARGUMENT;
    if (n > m->context - m->length) return EK_CONTEXT;
    ek_fpmode mode = ek_fpmode_set();
    for (size_t at = 0; at < n; at += m->batch) {
        size_t count = n - at < m->batch ? n - at : m->batch;
        int wanted = logits && (every || at + count == n);
        ek_pass pass = {m, count, m->length, wanted ? logits + (every ? at * m->info.vocabulary : 0) : NULL, every};
        embed(&pass, tokens + at);
        if (m->threads) m->threads->run(m->threads, work, &pass);
        else work(&pass, 0);
        m->length += count;
    }
    ek_fpmode_restore(mode);
    return EK_OK;
}

size_t ek_length(const ek_model *m) { return m->length; }

int ek_rewind(ek_model *m, size_t length) {
    if (length > m->length) return EK_ARGUMENT;
    m->length = length;
    return EK_OK;
}
