/* Opens a model: one walk over the file and the buffers says the size of the block, the same walk fills it. */
#include "model.h"

#include "fpmode.h"
#include "numeric.h"

/* Hands out pieces of the block; without a base it counts only. */
typedef struct {
    uint8_t *base;
    uint64_t used;
} arena;

static void *reserve(arena *a, uint64_t bytes) {
    uint64_t at = a->used;
    a->used = ek_plus(at, ek_plus(bytes, EK_ALIGNMENT - 1) & ~(uint64_t)(EK_ALIGNMENT - 1));
    return a->base ? a->base + at : NULL;
}

typedef struct {
    ek_model *model;
    arena arena;
} opening;

/* Floats that lie in the file as the processor reads them. */
static const float *vector_in_place(const ek_placed *t) {
    const uint16_t one = 1;
    int little = *(const uint8_t *)&one, aligned = (uintptr_t)t->data % sizeof(float) == 0;
    return little && aligned && t->info->type == EK_TYPE_F32 ? (const float *)(const void *)t->data : NULL;
}

static const float *read_vector(opening *o, const ek_placed *t, uint32_t head_dim) {
    const float *place = o->model->direct && !head_dim ? vector_in_place(t) : NULL;
    if (place) return place;
    float *out = reserve(&o->arena, ek_times(4, t->info->width));
    ek_type type = ek_type_of(t->info->type);
    for (uint32_t i = 0; out && i < t->info->width; i++)
        ek_read_row(t->info->type, t->data + (size_t)ek_row_of(i, head_dim) * type.bytes, 1, out + i);
    return out;
}

static ek_matrix read_matrix(opening *o, const ek_placed *t, uint32_t head_dim, int direct) {
    ek_type type = ek_type_of(t->info->type);
    size_t row_bytes = (size_t)(t->info->width / type.elements * type.bytes);
    uint32_t rows = (uint32_t)t->info->rows, tiles = (rows + EK_ROWS - 1) / EK_ROWS;
    ek_matrix m = {ek_format_of(t->info->type), (uint32_t)direct, t->info->type, rows, (uint32_t)t->info->width, head_dim,
                   row_bytes, t->data};
    if (direct) return m;
    uint64_t tile_bytes = ek_tile_bytes(m.format, m.columns);
    uint8_t *to = reserve(&o->arena, ek_times(tiles, tile_bytes));
    m.tile_bytes = (size_t)tile_bytes;
    m.data = to;
    for (uint32_t i = 0; to && i < tiles; i++) ek_pack_tile(&m, t->data, row_bytes, i, to + i * m.tile_bytes);
    return m;
}

static int scale_frequencies(ek_model *m, const ek_placed *t, ek_error *error) {
    for (uint32_t i = 0; m->frequencies && i < m->info.head_dim / 2; i++) {
        float divisor = 0;
        ek_read_row(t->info->type, t->data + i * ek_type_of(t->info->type).bytes, 1, &divisor);
        if (!(divisor > 1e-6f && divisor < 1e30f))
            return ek_fail(error, EK_DAMAGED, "rope_freqs.weight has a divisor that is not a number above 0");
        m->frequencies[i] = m->frequencies[i] / divisor;
    }
    return EK_OK;
}

static int visit_tensor(void *context, const ek_placed *t, ek_error *error) {
    opening *o = context;
    ek_model *m = o->model;
    uint32_t place = t->place, head_dim = m->info.head_dim;
    if (t->info->width > INT32_MAX || t->info->rows > INT32_MAX)
        return ek_fail(error, EK_UNSUPPORTED, "tensor %t is too large", t->info->name);
    if (place == EK_ROPE_FREQS) return scale_frequencies(m, t, error);
    if (place == EK_OUTPUT_NORM) {
        m->output_norm = read_vector(o, t, 0);
    } else if (place == EK_OUTPUT) {
        m->output = read_matrix(o, t, 0, m->direct);
    } else if (place == EK_EMBEDDING) {
        m->embedding = read_matrix(o, t, 0, 1);
        if (m->info.tied) m->output = read_matrix(o, t, 0, m->direct);
    } else if (ek_is_vector(place)) {
        const float *vector = read_vector(o, t, place == EK_Q_BIAS || place == EK_K_BIAS ? head_dim : 0);
        if (m->layers) m->layers[t->layer].vector[place] = vector;
    } else {
        ek_matrix matrix = read_matrix(o, t, place == EK_Q || place == EK_K ? head_dim : 0, m->direct);
        if (m->layers) m->layers[t->layer].matrix[place] = matrix;
    }
    return EK_OK;
}

static void reserve_cache(opening *o) {
    static const int FORMATS[4][2] = {{0, 0}, {EK_TILE_F32, EK_TILE_F32}, {EK_TILE_F16, EK_TILE_F16},
                                      {EK_TILE_S8, EK_TILE_S8V}};
    ek_model *m = o->model;
    uint64_t heads = m->info.kv_heads, width = m->info.head_dim;
    m->key_format = FORMATS[m->kv][0];
    m->value_format = FORMATS[m->kv][1];
    uint64_t key_tile = ek_tile_bytes(m->key_format, width), value_tile = ek_tile_bytes(m->value_format, m->context);
    uint64_t key_head = ek_times(key_tile, ek_padded(m->context) / EK_ROWS);
    uint64_t value_head = ek_times(value_tile, ek_padded(width) / EK_ROWS);
    m->key_tile = (size_t)key_tile;
    m->key_head = (size_t)key_head;
    m->value_tile = (size_t)value_tile;
    m->value_head = (size_t)value_head;
    for (uint32_t i = 0; i < m->info.layers; i++) {
        uint8_t *keys = reserve(&o->arena, ek_times(heads, key_head));
        uint8_t *values = reserve(&o->arena, ek_times(heads, value_head));
        float *scales = m->kv == EK_KV_I8 ? reserve(&o->arena, ek_times(heads * 4, m->context)) : NULL;
        if (!m->layers) continue;
        m->layers[i].keys = keys;
        m->layers[i].values = values;
        m->layers[i].value_scales = scales;
        /* The padding of heads of other widths is never written, and saved. */
        for (uint64_t b = 0; width % EK_ROWS && b < heads * key_head; b++) keys[b] = 0;
        for (uint64_t b = 0; width % EK_ROWS && b < heads * value_head; b++) values[b] = 0;
    }
}

static ek_buffer reserve_buffer(arena *a, uint64_t columns, uint64_t width) {
    uint64_t stride = ek_padded(width), count = ek_times(columns, stride), blocks = count / EK_BLOCK;
    ek_buffer b;
    b.stride = (size_t)stride;
    b.f = reserve(a, ek_times(4, count));
    b.h = reserve(a, ek_times(4, count));
    b.q = reserve(a, count);
    b.d = reserve(a, ek_times(4, blocks));
    b.s = reserve(a, ek_times(4, blocks));
    b.sum = reserve(a, ek_times(4, blocks));
    return b;
}

static void reserve_buffers(opening *o) {
    ek_model *m = o->model;
    const ek_info *info = &m->info;
    arena *a = &o->arena;
    uint64_t q = (uint64_t)info->heads * info->head_dim, kv = (uint64_t)info->kv_heads * info->head_dim;
    uint64_t mixing = (uint64_t)m->batch * info->heads / info->kv_heads; /* columns that attention has at most */
    if (mixing > EK_MIXING) mixing = EK_MIXING;
    uint64_t widest = q > info->hidden ? q : info->hidden;
    if (info->intermediate > widest) widest = info->intermediate;
    m->hidden_stride = ek_padded(info->hidden);
    m->q_stride = ek_padded(q);
    m->kv_stride = ek_padded(kv);
    m->wide_stride = ek_padded(info->intermediate);
    uint64_t row = 4ull * m->batch;
    m->x = reserve(a, ek_times(row, m->hidden_stride));
    m->out = reserve(a, ek_times(row, m->hidden_stride));
    m->rope = reserve(a, ek_times(row, info->head_dim));
    m->q = reserve(a, ek_times(row, m->q_stride));
    m->mixed = reserve(a, ek_times(row, m->q_stride));
    m->k = reserve(a, ek_times(row, m->kv_stride));
    m->v = reserve(a, ek_times(row, m->kv_stride));
    m->gate = reserve(a, ek_times(row, m->wide_stride));
    m->up = reserve(a, ek_times(row, m->wide_stride));
    m->scratch = reserve(a, m->thread_count * sizeof *m->scratch);
    for (uint32_t i = 0; i < m->thread_count; i++) {
        ek_scratch s;
        s.input = reserve_buffer(a, m->batch, widest);
        s.query = reserve_buffer(a, mixing, info->head_dim);
        s.weights = reserve_buffer(a, mixing, m->context);
        s.mixed = reserve(a, 4ull * mixing * ek_padded(info->head_dim));
        s.phase = 0;
        if (m->scratch) m->scratch[i] = s;
    }
}

static int read_options(ek_model *m, const ek_options *options, ek_error *error) {
    ek_options o = options ? *options : (ek_options){0};
    m->context = o.context ? o.context : m->info.context;
    m->kv = o.kv ? o.kv : EK_KV_F16;
    m->batch = o.batch ? o.batch : 16;
    m->direct = o.direct != 0;
    m->threads = o.threads && o.threads->count > 1 ? o.threads : NULL;
    m->thread_count = m->threads ? m->threads->count : 1;
    m->kernels = ek_kernels_named(o.instructions);
    if (!m->kernels)
        return ek_fail(error, EK_ARGUMENT, "instructions `%s`: this processor or library does not have them",
                       o.instructions ? o.instructions : "");
    if (m->context > EK_MOST_CONTEXT)
        return ek_fail(error, EK_UNSUPPORTED, "a context of %u; edgekit's engine runs at most %u", (uint64_t)m->context,
                       (uint64_t)EK_MOST_CONTEXT);
    if (m->kv > EK_KV_I8 || m->batch > EK_MOST_BATCH || m->thread_count > 256)
        return ek_fail(error, EK_ARGUMENT, "kv must be 1 to 3, batch 1 to %u, and threads at most 256",
                       (uint64_t)EK_MOST_BATCH);
    return EK_OK;
}

/* Fills `m` and what it points to; without a base only counts. */
static int lay_out(opening *o, ek_error *error) {
    ek_model *m = o->model;
    const ek_info *info = &m->info;
    m->layers = reserve(&o->arena, info->layers * sizeof *m->layers);
    for (uint32_t i = 0; m->layers && i < info->layers; i++) m->layers[i] = (ek_layer){{0}, {{0}}, NULL, NULL, NULL};
    m->frequencies = reserve(&o->arena, 2ull * info->head_dim);
    if (m->frequencies) {
        ek_frequencies(info->rope_theta, info->head_dim / 2, m->frequencies);
        for (uint32_t i = 0; info->rope_factor != 1 && i < info->head_dim / 2; i++)
            m->frequencies[i] = m->frequencies[i] / info->rope_factor;
    }
    m->unit = 1;
    while (m->unit < info->kv_heads && (uint64_t)m->unit * info->head_dim % EK_ROWS) m->unit++;
    int status = ek_walk_placed(&m->file, visit_tensor, o, error);
    if (status) return status;
    reserve_cache(o);
    reserve_buffers(o);
    return EK_OK;
}

static int plan(opening *o, const void *file, size_t length, const ek_options *options, ek_error *error) {
    int status = ek_config(file, length, &o->model->info, &o->model->file, error);
    if (!status) status = read_options(o->model, options, error);
    if (status) return status;
    reserve(&o->arena, sizeof(ek_model));
    return lay_out(o, error);
}

int ek_model_size(const void *file, size_t length, const ek_options *options, size_t *size, ek_error *error) {
    ek_model model = {0};
    opening o = {&model, {NULL, 0}};
    int status = plan(&o, file, length, options, error);
    if (status) return status;
    if (o.arena.used > SIZE_MAX / 2)
        return ek_fail(error, EK_UNSUPPORTED, "the model and its cache do not fit into memory: take a shorter context");
    *size = (size_t)o.arena.used;
    return EK_OK;
}

int ek_model_open(const void *file, size_t length, const ek_options *options, void *memory, size_t size,
                  ek_model **model, ek_error *error) {
    size_t needed = 0;
    int status = ek_model_size(file, length, options, &needed, error);
    if (status) return status;
    if (!memory || size < needed || (uintptr_t)memory % EK_ALIGNMENT)
        return ek_fail(error, EK_MEMORY, "the model needs %u bytes, aligned to %u", (uint64_t)needed,
                       (uint64_t)EK_ALIGNMENT);
    ek_fpmode mode = ek_fpmode_set();
    opening o = {memory, {memory, 0}};
    *o.model = (ek_model){0};
    status = plan(&o, file, length, options, error);
    ek_fpmode_restore(mode);
    *model = status ? NULL : o.model;
    return status;
}

const ek_info *ek_model_info(const ek_model *model) { return &model->info; }
int ek_model_is_direct(const ek_model *model) { return model->direct != 0; }
uint32_t ek_model_context(const ek_model *model) { return model->context; }
const char *ek_model_instructions(const ek_model *model) { return model->kernels->name; }
