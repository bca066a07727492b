/* A pass of up to `batch` tokens through the layers, in four phases a layer and one for the logits. A chunk of a phase
 * has some key heads or some tiles of rows. What each thread needs whole (norms, quantized inputs) it computes itself. */
#include "model.h"

#include "fpmode.h"
#include "numeric.h"

typedef struct {
    uint32_t from, to;
} range;

/* What one call of the work function does. */
typedef struct {
    const ek_pass *pass;
    const ek_model *model;
    const ek_layer *layer; /* NULL: logits */
    ek_scratch *scratch;   /* the thread's */
    uint32_t chunk, chunks;
    size_t first; /* columns before it only leave keys and values behind */
    int fresh;    /* 1: the thread's input is not yet that of this phase */
} task;

static range share(const task *t, uint32_t count) {
    return (range){(uint32_t)((uint64_t)count * t->chunk / t->chunks),
                   (uint32_t)((uint64_t)count * (t->chunk + 1) / t->chunks)};
}

static uint32_t tiles_of(const ek_matrix *matrix) { return (matrix->rows + EK_ROWS - 1) / EK_ROWS; }

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
static void multiply(const ek_model *m, const ek_matrix *matrix, const float *bias, range r, const ek_columns *x, size_t n,
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
static void multiply_logits(const ek_model *m, range r, const ek_columns *x, size_t n, float *out) {
    uint32_t whole = m->output.rows / EK_ROWS, stride = m->output.rows;
    range full = {r.from, r.to < whole ? r.to : whole};
    multiply(m, &m->output, NULL, full, x, n, out + r.from * EK_ROWS, stride);
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
        multiply(m, &m->output, NULL, (range){whole, whole + 1}, &one, 1, last, EK_ROWS);
        for (uint32_t i = whole * EK_ROWS; i < stride; i++) out[c * stride + i] = last[i - whole * EK_ROWS];
    }
}

/* Adds the product of the input and a matrix to columns [first, n) of x. */
static void add_product(const task *t, const ek_matrix *matrix, const float *bias) {
    const ek_model *m = t->model;
    ek_columns x = ek_columns_of(&t->scratch->input, t->first);
    range r = share(t, tiles_of(matrix));
    size_t n = t->pass->n, at = t->first * m->hidden_stride + r.from * EK_ROWS;
    multiply(m, matrix, bias, r, &x, n - t->first, m->out + at, m->hidden_stride);
    for (size_t c = t->first; c < n; c++)
        for (uint32_t i = r.from * EK_ROWS; i < r.to * EK_ROWS && i < matrix->rows; i++)
            m->x[c * m->hidden_stride + i] += m->out[c * m->hidden_stride + i];
}

/* The input of products from columns [first, n) of `values`: normed (weight not NULL) or copied. */
static void take_input(const task *t, const float *values, size_t stride, size_t width, const float *weight,
                       uint32_t formats, size_t first) {
    const ek_model *m = t->model;
    const ek_buffer *input = &t->scratch->input;
    for (size_t c = first; t->fresh && c < t->pass->n; c++) {
        const float *from = values + c * stride;
        float *to = input->f + c * input->stride;
        if (weight) m->kernels->norm(from, weight, width, m->info.epsilon, to);
        for (size_t i = 0; !weight && i < width; i++) to[i] = from[i];
    }
    if (t->fresh) ek_prepare(m, input, formats, width, first, t->pass->n);
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

/* Queries, keys and values of some heads, rotated. */
static void project(const task *t, range heads) {
    const ek_model *m = t->model;
    const ek_layer *layer = t->layer;
    size_t n = t->pass->n, first = t->first;
    uint32_t width = m->info.head_dim, group = m->info.heads / m->info.kv_heads;
    range kv = {heads.from * width / EK_ROWS, (heads.to * width + EK_ROWS - 1) / EK_ROWS};
    range q = {heads.from * group * width / EK_ROWS, (heads.to * group * width + EK_ROWS - 1) / EK_ROWS};
    ek_columns all = ek_columns_of(&t->scratch->input, 0), some = ek_columns_of(&t->scratch->input, first);
    multiply(m, &layer->matrix[EK_K], layer->vector[EK_K_BIAS], kv, &all, n, m->k + kv.from * EK_ROWS, m->kv_stride);
    multiply(m, &layer->matrix[EK_V], layer->vector[EK_V_BIAS], kv, &all, n, m->v + kv.from * EK_ROWS, m->kv_stride);
    multiply(m, &layer->matrix[EK_Q], layer->vector[EK_Q_BIAS], q, &some, n - first,
            m->q + first * m->q_stride + q.from * EK_ROWS, m->q_stride);
    float scale = 1.0f / ek_sqrt((float)width);
    for (size_t c = 0; c < n; c++)
        for (uint32_t h = heads.from; h < heads.to; h++) {
            rotate(m, m->k + c * m->kv_stride + h * width, c, 1.0f);
            for (uint32_t g = h * group; g < (h + 1) * group && c >= first; g++)
                rotate(m, m->q + c * m->q_stride + g * width, c, scale);
        }
}

static uint32_t units_of(const ek_model *m) { return (m->info.kv_heads + m->unit - 1) / m->unit; }

static void attention(const task *t) {
    const ek_model *m = t->model;
    const ek_matrix *matrix = t->layer->matrix;
    range heads = share(t, units_of(m));
    heads.from *= m->unit;
    heads.to = heads.to * m->unit < m->info.kv_heads ? heads.to * m->unit : m->info.kv_heads;
    take_input(t, m->x, m->hidden_stride, m->info.hidden, t->layer->vector[EK_ATTN_NORM],
               bit(&matrix[EK_Q]) | bit(&matrix[EK_K]) | bit(&matrix[EK_V]), 0);
    project(t, heads);
    ek_append(t->pass, t->layer, heads.from, heads.to);
    ek_attend(t->pass, t->layer, t->scratch, heads.from, heads.to, t->first);
}

static void attention_output(const task *t) {
    const ek_model *m = t->model;
    const ek_matrix *matrix = &t->layer->matrix[EK_O];
    take_input(t, m->mixed, m->q_stride, (size_t)m->info.heads * m->info.head_dim, NULL, bit(matrix), t->first);
    add_product(t, matrix, t->layer->vector[EK_O_BIAS]);
}

static void gate_and_up(const task *t) {
    const ek_model *m = t->model;
    const ek_matrix *gate = &t->layer->matrix[EK_GATE], *up = &t->layer->matrix[EK_UP];
    range r = share(t, tiles_of(gate));
    size_t wide = m->info.intermediate, at = t->first * m->wide_stride + r.from * EK_ROWS, n = t->pass->n - t->first;
    take_input(t, m->x, m->hidden_stride, m->info.hidden, t->layer->vector[EK_FFN_NORM], bit(gate) | bit(up), t->first);
    ek_columns x = ek_columns_of(&t->scratch->input, t->first);
    multiply(m, gate, t->layer->vector[EK_GATE_BIAS], r, &x, n, m->gate + at, m->wide_stride);
    multiply(m, up, t->layer->vector[EK_UP_BIAS], r, &x, n, m->up + at, m->wide_stride);
    size_t from = (size_t)r.from * EK_ROWS, end = (size_t)r.to * EK_ROWS < wide ? (size_t)r.to * EK_ROWS : wide;
    for (size_t c = 0; c < n; c++)
        m->kernels->swiglu(m->gate + at + c * m->wide_stride, m->up + at + c * m->wide_stride, end - from);
}

static void down(const task *t) {
    const ek_model *m = t->model;
    const ek_matrix *matrix = &t->layer->matrix[EK_DOWN];
    take_input(t, m->gate, m->wide_stride, m->info.intermediate, NULL, bit(matrix), t->first);
    add_product(t, matrix, t->layer->vector[EK_DOWN_BIAS]);
}

static void head(const task *t) {
    const ek_model *m = t->model;
    take_input(t, m->x, m->hidden_stride, m->info.hidden, m->output_norm, bit(&m->output), t->first);
    ek_columns x = ek_columns_of(&t->scratch->input, t->first);
    multiply_logits(m, share(t, tiles_of(&m->output)), &x, t->pass->n - t->first, t->pass->logits);
}

static void (*const PHASES[4])(const task *t) = {attention, attention_output, gate_and_up, down};

static uint32_t chunks_of(const ek_job *job, uint32_t phase) {
    const ek_pass *p = (const ek_pass *)job;
    const ek_model *m = p->model;
    const ek_layer *layer = &m->layers[0];
    uint32_t logits = phase == 4 * m->info.layers;
    uint32_t items[4] = {units_of(m), tiles_of(&layer->matrix[EK_O]), tiles_of(&layer->matrix[EK_GATE]),
                         tiles_of(&layer->matrix[EK_DOWN])};
    uint32_t count = logits ? tiles_of(&m->output) : items[phase % 4];
    uint32_t most = m->thread_count * (logits || p->n > 1 ? 2 : 1);
    if (most > EK_MOST_CHUNKS) most = EK_MOST_CHUNKS;
    return count < most ? count : most;
}

static void work(const ek_job *job, uint32_t phase, uint32_t chunk, uint32_t chunks, uint32_t thread) {
    const ek_pass *p = (const ek_pass *)job;
    const ek_model *m = p->model;
    ek_fpmode mode = ek_fpmode_set();
    uint32_t layer = phase / 4, whole = layer + 1 < m->info.layers;
    size_t last = !p->logits ? p->n : p->every ? 0 : p->n - 1;
    uint64_t id = m->passes << 16 | phase;
    task t = {p, m, layer < m->info.layers ? &m->layers[layer] : NULL, &m->scratch[thread], chunk, chunks,
              whole ? 0 : last, m->scratch[thread].phase != id};
    m->scratch[thread].phase = id;
    if (t.layer) PHASES[phase % 4](&t);
    else head(&t);
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
        uint32_t phases = wanted ? 4 * m->info.layers + 1 : 4 * m->info.layers - 3;
        ek_pass pass = {{phases, (uint32_t)count, chunks_of, work}, m, count, m->length,
                        wanted ? logits + (every ? at * m->info.vocabulary : 0) : NULL, every};
        m->passes++;
        embed(&pass, tokens + at);
        ek_run(m->threads, &pass.job);
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
