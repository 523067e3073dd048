// A convolutional autoencoder: logits from images in bfloat16 or float32, and in bfloat16 the gradients of its weights
// from those of the logits.
//
// All layers have one form: each place of the output is a sum over taps, each an input place times a set of weights
// (c, n). Plans, built by plans.py, say which places and which sets. The gradient of the input has the same form with
// the reversed plan; that of the weights sums the products over all places. A product of two bfloat16 registers takes
// numbers in pairs: neighbouring channels of one image in the forward pass, the same channel of two images where
// gradients of weights are summed, so that nothing has to be transposed. Sizes count numbers; a unit is what a product
// takes at once, two of bfloat16 (`paired`) or one of float32.
//
// Each thread takes its share of the images, or of each layer where there are too few images. Logits do not depend on
// the number of threads; gradients are sums of one part a thread, so that their last bits do depend on it.

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define LANES 16  // float32 numbers in a register
#define ROWS 8    // rows of a tile of sums with two registers a row
#define CHUNK 64  // places that are summed in registers before the sums are stored; scratch memory is sized for it
#define MOST 12   // and with one; multiples of 4, the size of a pooling window
#define MOST_CHANNELS 3
#define INLINE static inline __attribute__((always_inline))
#define EACH_ROW(j) _Pragma("GCC unroll 12") for (int j = 0; j < MOST; j++) if (j < (nr == 2 ? ROWS : MOST))
#define EACH_LINE(j) _Pragma("GCC unroll 8") for (int j = 0; j < ROWS; j++)
#define EACH_REGISTER(v) _Pragma("GCC unroll 2") for (int v = 0; v < nr; v++)

typedef uint16_t bf16;
enum { HIDDEN, LOGITS, GRADIENT };      // what is computed from the sums
enum { NO_ERRORS, ABSOLUTE, SQUARED };  // with errors, logits are replaced by reconstructions

typedef struct {  // output places with the same sets of weights are a phase
    int32_t phases;
    const int32_t *row_starts, *rows;     // (phases + 1): the phase's output places
    const int32_t *tap_starts, *taps;     // (phases + 1): the phase's sets of weights
    const int32_t *index_starts, *index;  // (phases): for each of its places, where the input of its taps begins
} Plan;

typedef struct {
    int32_t places_in, places_out, c, n;     // c and n are multiples of 16
    int32_t c_real, n_real, sets;            // without padding, which is 0
    int32_t relu, pool;                      // pool: 2x2 max-pooling follows
    int32_t own_biases, dense;               // biases for each place; each set of weights is used by one place
    int64_t set_stride, c_stride, n_stride;  // of weights and gradients; c_stride or n_stride is 1
    Plan forward, backward;
    void *forward_weights, *backward_weights;
    void *input;                     // (pictures, places_in + 1, c); the last place is 0, for taps outside the border
    bf16 *gradient;                  // (pictures, places_out + 1, n), before pooling
    uint8_t *largest;                // (pictures, places_out / 4, n): which of the four is the largest
    float *weight_sums, *bias_sums;  // (threads, ...): 0 between steps
} Layer;

typedef struct {
    int32_t layers, height, width, channels, paired;
    const int32_t *windows;  // (places of the first layer, 3): where rows of windows begin in the padded picture
    const int32_t *corners;  // (places of the last layer, 2): where its four pixels begin in a picture, and which of
                             // their lanes lie inside
    void *padded;            // (threads, padded_size): a picture with a border of 0
    int64_t padded_size, scratch_size;
    uint32_t *scratch;  // (threads, scratch_size)
    const Layer *layer;
} Network;

// What structures.py must agree with: library.py compares them.
const int32_t network_layout[] = {LANES, ROWS, CHUNK, sizeof(Plan), sizeof(Layer), sizeof(Network)};

typedef struct {  // the operands: k numbers at each of several places, and sets of weights (k, n)
    const Plan *plan;
    const void *from, *weights;
    int places, k, n;
} Operands;

typedef struct {  // where sums go
    const Network *net;
    const Layer *layer, *below;
    const float *biases;
    void *out;
    float *logits;
    int first;        // picture in memory
    int part, parts;  // of the work on these pictures, if several threads share it
} Target;

typedef struct {  // the rows of a tile; beyond the count, the last one is repeated
    int count, picture[MOST], place[MOST];
} Rows;

INLINE __m512 product(__m512 sum, __m512i a, __m512i b, int paired) {
    return paired ? _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b) : _mm512_fmadd_ps((__m512)a, (__m512)b, sum);
}

INLINE int64_t units(int64_t numbers, int paired) { return numbers >> paired; }

INLINE __m256i narrow(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

INLINE __m256i load(const bf16 *from) { return _mm256_loadu_si256((const __m256i *)from); }

INLINE void store(bf16 *to, __m256i values) { _mm256_storeu_si256((__m256i *)to, values); }

INLINE void put(void *to, int64_t at, __mmask16 some, __m512 values, int paired) {
    if (paired) _mm256_mask_storeu_epi16((bf16 *)to + at, some, narrow(values));
    else _mm512_mask_storeu_ps((float *)to + at, some, values);
}

INLINE __m512i pairs(__m256i low, __m256i high) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

INLINE __mmask16 first_lanes(int64_t count) { return count >= LANES ? 0xffff : count > 0 ? (1u << count) - 1 : 0; }

INLINE int registers(int columns) { return columns % (2 * LANES) ? 1 : 2; }  // of a row of a tile

INLINE void share(int pictures, int thread, int threads, int *first, int *count) {  // in pairs; the last may be missing
    const int couples = (pictures + 1) / 2;
    *first = 2 * (couples * thread / threads);
    *count = 2 * (couples * (thread + 1) / threads) - *first;
}

// ---- from pictures to logits

// One set of weights (k, n) with columns in blocks: (blocks, k, columns).
static void pack_singly(float *out, const float *from, int k, int k_real, int64_t k_stride, int n, int n_real,
                        int64_t n_stride) {
    const int wide = LANES * registers(n);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i steps = _mm512_mullo_epi32(lanes, _mm512_set1_epi32((int)n_stride));
    for (int column = 0; column < n; column += LANES)
        for (int i = 0; i < k; i++) {
            const __mmask16 some = i < k_real ? first_lanes(n_real - column) : 0;
            const __m512 found = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), some, steps,
                                                          from + i * k_stride + column * n_stride, sizeof(float));
            _mm512_storeu_ps(out + ((int64_t)(column / wide) * k + i) * wide + column % wide, found);
        }
}

// The same as bfloat16 in pairs of rows: (blocks, k / 2, columns, 2).
static void pack(bf16 *out, const float *from, int k, int k_real, int64_t k_stride, int n, int n_real,
                 int64_t n_stride) {
    const int wide = LANES * registers(n);
    for (int column = 0; column < n; column += LANES) {
        const __mmask16 columns = first_lanes(n_real - column);
        bf16 *to = out + ((int64_t)(column / wide) * (k / 2) * wide + column % wide) * 2;
        if (n_stride == 1) {
            for (int i = 0; i < k; i += 2) {
                const float *row = from + i * k_stride + column;
                const __m512 low = _mm512_maskz_loadu_ps(i < k_real ? columns : 0, row);
                const __m512 high = _mm512_maskz_loadu_ps(i + 1 < k_real ? columns : 0, row + k_stride);
                _mm512_storeu_si512(to + (int64_t)i * wide, pairs(narrow(low), narrow(high)));
            }
            continue;
        }
        const __m512i down = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120);
        for (int i = 0; i < k; i += LANES) {  // 16 columns of 16 rows: transposed
            uint32_t square[LANES][LANES / 2];
            for (int j = 0; j < LANES; j++) {
                const __mmask16 rows = columns >> j & 1 ? first_lanes(k_real - i) : 0;
                store((bf16 *)square[j], narrow(_mm512_maskz_loadu_ps(rows, from + (column + j) * n_stride + i)));
            }
            for (int pair = 0; pair < LANES / 2; pair++)
                _mm512_storeu_si512(to + (int64_t)(i + 2 * pair) * wide,
                                    _mm512_i32gather_epi32(down, square[0] + pair, 4));
        }
    }
}

// Weights of all layers in the order in which they are multiplied; for gradients in that of `backward`, too.
void network_pack(const Network *net, const float *const *weights, int learning, int threads) {
#pragma omp parallel num_threads(threads)
    for (int l = 0; l < net->layers; l++) {
        const Layer *is = net->layer + l;
        const int64_t size = (int64_t)is->c * is->n;
        for (int set = omp_get_thread_num(); set < is->sets; set += omp_get_num_threads()) {
            const float *from = weights[l] + set * is->set_stride;
            if (!net->paired)
                pack_singly((float *)is->forward_weights + set * size, from, is->c, is->c_real, is->c_stride, is->n,
                            is->n_real, is->n_stride);
            else
                pack((bf16 *)is->forward_weights + set * size, from, is->c, is->c_real, is->c_stride, is->n, is->n_real,
                     is->n_stride);
            if (learning && l)
                pack((bf16 *)is->backward_weights + set * size, from, is->n, is->n_real, is->n_stride, is->c,
                     is->c_real, is->c_stride);
        }
    }
}

// Whether arrays of these sizes in bytes are the same, bit by bit.
int network_same(const Network *net, const void *const *arrays, const void *const *others, const int64_t *sizes,
                 int threads) {
    int same = 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(&& : same)
    for (int i = 0; i < 2 * net->layers; i++) same = same && !memcmp(arrays[i], others[i], (size_t)sizes[i]);
    return same;
}

// Unfolds a picture (height, width, channels) into the 3 x 3 window of each place of the first layer.
INLINE void unfold(const Network *net, const float *picture, int thread, int at, int paired) {
    const int row = net->width * net->channels, padded_row = row + 2 * net->channels, run = 3 * net->channels;
    const int64_t begin = thread * net->padded_size, c = net->layer->c, places = net->layer->places_in;
    for (int y = 0; y < net->height; y++)
        for (int x = 0; x < row; x += LANES) {
            const __mmask16 some = first_lanes(row - x);
            const __m512 pixels = _mm512_maskz_loadu_ps(some, picture + y * row + x);
            put(net->padded, begin + (y + 1) * padded_row + net->channels + x, some, pixels, paired);
        }
    for (int place = 0; place < places; place++)
        for (int i = 0; i < 3; i++) {
            const __mmask16 some = first_lanes(run);
            const int64_t from = begin + net->windows[3 * place + i], to = (at * (places + 1) + place) * c + i * run;
            bf16 *shorts = net->layer->input;
            float *floats = net->layer->input;
            if (paired)
                _mm256_mask_storeu_epi16(shorts + to, some, _mm256_maskz_loadu_epi16(some, (bf16 *)net->padded + from));
            else _mm512_mask_storeu_ps(floats + to, some, _mm512_maskz_loadu_ps(some, (float *)net->padded + from));
        }
}

INLINE __m512 least(const Layer *layer) {  // lower bound of an output
    return _mm512_set1_ps(layer->relu ? 0 : -INFINITY);
}

INLINE void to_hidden(const Target *to, __m512 sums[MOST][2], const Rows *rows, int column, int v, int nr, int paired) {
    const Layer *layer = to->layer;
    const int n = layer->n;
    const __m512 floor = least(layer);
    EACH_ROW(j) {
        const float *biases = to->biases + column + (layer->own_biases ? (int64_t)rows->place[j] * n : 0);
        const int64_t at = (int64_t)rows->picture[j] * (layer->places_out + 1) + rows->place[j];
        const __m512 found = _mm512_add_ps(sums[j][v], _mm512_loadu_ps(biases));
        put(to->out, at * n + column, 0xffff, _mm512_max_ps(floor, found), paired);  // NaN stays NaN
    }
}

INLINE void to_pooled(const Target *to, __m512 sums[MOST][2], const Rows *rows, int column, int v, int nr, int paired) {
    const Layer *layer = to->layer;
    const int n = layer->n, windows = layer->places_out / 4;
    for (int j = 0; j < (nr == 2 ? ROWS : MOST) && j < rows->count; j += 4) {
        __m512 best = sums[j][v];
        __m512i which = _mm512_setzero_si512();
        for (int i = 1; i < 4; i++) {
            const __m512 next = sums[j + i][v];  // NaN propagates, as in PyTorch
            const __mmask16 none = _mm512_cmp_ps_mask(next, next, _CMP_UNORD_Q);
            const __mmask16 more = _mm512_cmp_ps_mask(next, best, _CMP_GT_OQ) | none;
            best = _mm512_mask_mov_ps(best, more, next);
            which = _mm512_mask_set1_epi32(which, more, i);
        }
        best = _mm512_max_ps(least(layer), _mm512_add_ps(best, _mm512_loadu_ps(to->biases + column)));
        const int64_t window = rows->place[j] / 4, picture = rows->picture[j];
        put(to->out, (picture * (windows + 1) + window) * n + column, 0xffff, best, paired);
        _mm_storeu_si128((__m128i *)(layer->largest + (picture * windows + window) * n + column),
                         _mm512_cvtepi32_epi8(which));
    }
}

// The last layer has four pixels in the lanes of each place, the corners of four squares: two above, two below. At a
// border some of them lie outside.
INLINE void to_logits(const Target *to, __m512 sums[MOST][2], const Rows *rows, int nr) {
    const Network *net = to->net;
    const int run = 2 * net->channels, row = net->width * net->channels;
    const __m512 biases = _mm512_loadu_ps(to->biases);
    EACH_ROW(j) {
        const int32_t *corner = net->corners + 2 * rows->place[j];
        float *logits = to->logits + (int64_t)(rows->picture[j] - to->first) * net->height * row + corner[0];
        const __m512 found = _mm512_add_ps(sums[j][0], biases);
        _mm512_mask_storeu_ps(logits, corner[1] & first_lanes(run), found);
        _mm512_mask_storeu_ps(logits + row - run, corner[1] & ~first_lanes(run), found);
    }
}

// The gradient of a layer's input is that of the output of the layer below: through its ReLU, to the pooled maximum.
INLINE void to_gradient(const Target *to, __m512 sums[MOST][2], const Rows *rows, int column, int v, int nr) {
    const Layer *layer = to->layer, *below = to->below;
    const int n = layer->c;
    EACH_ROW(j) {
        const int64_t picture = rows->picture[j], place = rows->place[j];
        const int64_t at = (picture * (layer->places_in + 1) + place) * n + column;
        __m256i found = narrow(sums[j][v]);
        if (below->relu) {
            const __mmask16 on = _mm256_cmpgt_epi16_mask(load((bf16 *)layer->input + at), _mm256_setzero_si256());
            found = _mm256_maskz_mov_epi16(on, found);
        }
        if (!below->pool) {
            store(below->gradient + at, found);
            continue;
        }
        const uint8_t *largest = below->largest + (picture * layer->places_in + place) * n + column;
        const __m128i which = _mm_loadu_si128((const __m128i *)largest);
        bf16 *four = below->gradient + (picture * (below->places_out + 1) + 4 * place) * n + column;
        for (int i = 0; i < 4; i++)
            store(four + (int64_t)i * n,
                  _mm256_maskz_mov_epi16(_mm_cmpeq_epi8_mask(which, _mm_set1_epi8((char)i)), found));
    }
}

// For each picture and place of a plan: the sum over its taps of the input there times a set of weights.
INLINE void multiply(const Operands *of, int pictures, const Target *to, int kind, int nr, int paired) {
    const Plan *plan = of->plan;
    const int k = of->k, wide = LANES * nr, blocks = of->n / wide, tall = nr == 2 ? ROWS : MOST;
    for (int phase = 0; phase < plan->phases; phase++) {
        const int places = plan->row_starts[phase + 1] - plan->row_starts[phase];
        const int taps = plan->tap_starts[phase + 1] - plan->tap_starts[phase];
        const int32_t *place = plan->rows + plan->row_starts[phase], *tap = plan->taps + plan->tap_starts[phase];
        const int32_t *index = plan->index + plan->index_starts[phase];
        const int64_t total = (int64_t)places * pictures, size = units((int64_t)(of->places + 1) * k, paired);
        const int64_t tiles = (total + tall - 1) / tall;
        for (int block = 0; block < blocks; block++) {
            if (tiles < to->parts && (phase * blocks + block) % to->parts != to->part) continue;
            const int part = tiles < to->parts ? 0 : to->part, parts = tiles < to->parts ? 1 : to->parts;
            const int64_t begin = tall * (tiles * part / parts), end = tall * (tiles * (part + 1) / parts);
            int next = (int)(begin % places), picture = to->first + (int)(begin / places);
            const int32_t *input = (const int32_t *)of->from + picture * size;
            for (int64_t start = begin; start < end; start += tall) {
                Rows rows;
                const int32_t *looks[MOST];
                const int32_t *from[MOST];
                rows.count = total - start < tall ? (int)(total - start) : tall;
                EACH_ROW(j) {
                    rows.picture[j] = picture, rows.place[j] = place[next];
                    looks[j] = index + (int64_t)next * taps, from[j] = input;
                    next += start + j < total - 1;
                    const int last = next == places;  // of a picture
                    next = last ? 0 : next, picture += last, input += last ? size : 0;
                }
                __m512 sums[MOST][2];
                EACH_ROW(j)
                    EACH_REGISTER(v) sums[j][v] = _mm512_setzero_ps();
                for (int t = 0; t < taps; t++) {
                    const int32_t *at[MOST];
                    EACH_ROW(j) at[j] = from[j] + units(looks[j][t], paired);
                    const int64_t before = ((int64_t)tap[t] * blocks + block) * k * wide;
                    const int32_t *set = (const int32_t *)of->weights + units(before, paired);
                    for (int i = 0; i < units(k, paired); i++) {
                        __m512i columns[2];
                        EACH_REGISTER(v) columns[v] = _mm512_loadu_si512(set + (i * nr + v) * LANES);
                        EACH_ROW(j) {
                            const __m512i unit = _mm512_set1_epi32(at[j][i]);
                            EACH_REGISTER(v) sums[j][v] = product(sums[j][v], unit, columns[v], paired);
                        }
                    }
                }
                for (int v = 0; v < nr; v++) {
                    const int column = block * wide + v * LANES;
                    if (kind == LOGITS) to_logits(to, sums, &rows, nr);
                    else if (kind == GRADIENT) to_gradient(to, sums, &rows, column, v, nr);
                    else if (to->layer->pool) to_pooled(to, sums, &rows, column, v, nr, paired);
                    else to_hidden(to, sums, &rows, column, v, nr, paired);
                }
            }
        }
    }
}

INLINE void outputs(const Layer *is, int pictures, const Target *to, int paired) {
    const Operands of = {&is->forward, is->input, is->forward_weights, is->places_in, is->c, is->n};
    if (to->logits) multiply(&of, pictures, to, LOGITS, 1, paired);
    else if (registers(of.n) == 2) multiply(&of, pictures, to, HIDDEN, 2, paired);
    else multiply(&of, pictures, to, HIDDEN, 1, paired);
}

static void input_gradient(const Layer *is, int pictures, const Target *to) {
    const Operands of = {&is->backward, is->gradient, is->backward_weights, is->places_out, is->n, is->c};
    if (registers(of.n) == 2) multiply(&of, pictures, to, GRADIENT, 2, 1);
    else multiply(&of, pictures, to, GRADIENT, 1, 1);
}

INLINE __m512 sigmoid(__m512 logits) {  // 1 / (1 + 2^(whole + rest)), by the Taylor series of 2^rest
    const __m512 power = _mm512_mul_ps(logits, _mm512_set1_ps(-1.44269504f)), whole = _mm512_roundscale_ps(power, 0);
    const __m512 rest = _mm512_sub_ps(power, whole), one = _mm512_set1_ps(1);
    static const float series[] = {
        1.54035e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 0.24022651f, 0.69314718f, 1};
    __m512 found = _mm512_setzero_ps();
    for (int i = 0; i < 7; i++) found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(series[i]));
    return _mm512_div_ps(one, _mm512_add_ps(one, _mm512_scalef_ps(found, whole)));
}

// Logits become reconstructions of a picture (height, width, channels), and these have errors: the channels' mean.
static void compare(const Network *net, const float *picture, float *logits, float *errors, int kind) {
    const int channels = net->channels, pixels = net->height * net->width;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int start = 0; start < pixels; start += LANES) {  // 16 pixels: a register for each channel
        __m512 each[MOST_CHANNELS] = {_mm512_setzero_ps()};
        for (int i = 0; i < channels; i++) {
            const int64_t at = (int64_t)start * channels + i * LANES;
            const __mmask16 some = first_lanes((int64_t)pixels * channels - at);
            const __m512 rebuilt = sigmoid(_mm512_maskz_loadu_ps(some, logits + at));
            const __m512 difference = _mm512_sub_ps(_mm512_maskz_loadu_ps(some, picture + at), rebuilt);
            each[i] = kind == ABSOLUTE ? _mm512_abs_ps(difference) : _mm512_mul_ps(difference, difference);
            _mm512_mask_storeu_ps(logits + at, some, rebuilt);
        }
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < channels; i++) {  // of each pixel
            const __m512i from =
                _mm512_add_epi32(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(channels)), _mm512_set1_epi32(i));
            const __mmask16 beyond = _mm512_cmpge_epi32_mask(from, _mm512_set1_epi32(2 * LANES));
            const __m512 first = _mm512_permutex2var_ps(each[0], from, each[1]);
            sum = _mm512_add_ps(sum, _mm512_mask_permutexvar_ps(first, beyond, from, each[2]));
        }
        _mm512_mask_storeu_ps(errors + start, first_lanes(pixels - start),
                              _mm512_mul_ps(sum, _mm512_set1_ps(1.0f / channels)));
    }
}

// Logits of pictures that are stored from `first` on; of `count`, those from `real` on do not exist.
INLINE void pass(const Network *net, const float *const *biases, const float *pictures, int count, int real, int first,
                 int thread, int parts, float *logits, int paired) {
    const int part = parts > 1 ? thread : 0;
    for (int i = part; i < real; i += parts)
        unfold(net, pictures + (int64_t)i * net->height * net->width * net->channels, thread, first + i, paired);
    for (int l = 0; l < net->layers; l++) {
        const Layer *layer = net->layer + l;
        Target to = {.net = net, .layer = layer, .biases = biases[l], .first = first, .part = part, .parts = parts};
        if (l < net->layers - 1) to.out = layer[1].input;
        else to.logits = logits;
        if (parts > 1) {
#pragma omp barrier
        }
        outputs(layer, to.logits ? real : count, &to, paired);
    }
}

// Pictures (N, height, width, channels) -> logits of the same shape; after `network_pack`. Or, with a kind of errors,
// reconstructions and their errors at each pixel (N, height, width), averaged over the channels.
// Each thread takes its pictures a few at a time, in its own part of the memory (`room` pictures); in training, all at
// once. If there are very few, and it is not training, all threads share each layer instead.
void network_forward(const Network *net, const float *const *biases, const float *pictures, int count, float *logits,
                     float *errors, int kind, int learning, int room, int threads) {
    const int64_t size = (int64_t)net->height * net->width * net->channels, pixels = size / net->channels;
#pragma omp parallel num_threads(threads)
    {
        const int thread = omp_get_thread_num(), all = omp_get_num_threads(), most = room / threads / 2 * 2;
        const int parts = !learning && count < 2 * all ? all : 1;
        int first = 0, mine = count;
        if (parts == 1) share(count, thread, all, &first, &mine);
        const int step = learning || parts > 1 ? mine : most, at = learning ? first : parts > 1 ? 0 : thread * most;
        for (int done = 0; done < mine; done += step) {
            const int from = first + done, some = mine - done < step ? mine - done : step;
            const int real = from + some > count ? count - from : some;
            const float *these = pictures + from * size;
            float *found = logits + from * size;
            if (net->paired) pass(net, biases, these, some, real, at, thread, parts, found, 1);
            else pass(net, biases, these, some, real, at, thread, parts, found, 0);
            if (parts > 1) {
#pragma omp barrier
            }
            for (int i = parts > 1 ? thread : 0; kind != NO_ERRORS && i < real; i += parts)
                compare(net, these + i * size, found + i * size, errors + (from + i) * pixels, kind);
        }
    }
}

// ---- from the logits' gradients to those of the weights

// Interleaves the numbers of two pictures.
static void couple(uint32_t *out, const bf16 *one, const bf16 *other, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) _mm512_storeu_si512(out + i, pairs(load(one + i), load(other + i)));
}

typedef struct {  // interleaved numbers: `size` of them at each of several places
    const uint32_t *numbers;
    const int32_t *at;
    int size;
} Side;

// sums (ROWS, registers), `line` apart, += over all places: numbers of one side times those of the other.
INLINE void outer(float *sums, int64_t line, const Side *tall, int row, const Side *wide, int column, int places,
                  int fresh, int nr) {
    __m512 found[ROWS][2];
    EACH_LINE(j) {
        EACH_REGISTER(v) found[j][v] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + j * line + v * LANES);
    }
    for (int i = 0; i < places; i++) {
        const uint32_t *one = tall->numbers + tall->at[i] + row;
        __m512i other[2];
        EACH_REGISTER(v) other[v] = _mm512_loadu_si512(wide->numbers + wide->at[i] + column + v * LANES);
        EACH_LINE(j) {
            const __m512i pair = _mm512_set1_epi32((int)one[j]);
            EACH_REGISTER(v) found[j][v] = product(found[j][v], pair, other[v], 1);
        }
    }
    EACH_LINE(j) {
        EACH_REGISTER(v) _mm512_storeu_ps(sums + j * line + v * LANES, found[j][v]);
    }
}

// One set's sums (tall, wide), lines of which are `line` apart. Not inlined, the innermost loop keeps its registers.
__attribute__((noinline)) static void outer_all(float *sums, int64_t line, const Side *tall, const Side *wide,
                                                int places, int fresh) {
    const int two = registers(wide->size) == 2;
    for (int column = 0; column < wide->size; column += two ? 2 * LANES : LANES)
        for (int row = 0; row < tall->size; row += ROWS) {
            float *to = sums + row * line + column;
            if (two) outer(to, line, tall, row, wide, column, places, fresh, 2);
            else outer(to, line, tall, row, wide, column, places, fresh, 1);
        }
}

// sums (n) += the gradients of all places, which are interleaved.
static void add_biases(float *sums, const uint32_t *gradients, int n, int64_t places) {
    const __m512i ones = _mm512_set1_epi32(0x3f803f80);  // two of them
    for (int column = 0; column < n; column += LANES) {
        __m512 found[ROWS] = {_mm512_loadu_ps(sums + column)};  // independent sums, which need not wait
        for (int64_t i = 0; i < places; i += ROWS)
            EACH_LINE(j) {
                const __mmask16 some = i + j < places ? 0xffff : 0;
                const __m512i pair = _mm512_maskz_loadu_epi32(some, gradients + (i + j) * n + column);
                found[j] = product(found[j], pair, ones, 1);
            }
        for (int j = 1; j < ROWS; j++) found[0] = _mm512_add_ps(found[0], found[j]);
        _mm512_storeu_ps(sums + column, found[0]);
    }
}

// A thread's share of a layer's gradients: sums (sets, c, n), or (sets, n, c), as the weights lie.
static void weight_gradient(const Layer *layer, float *sums, float *bias_sums, uint32_t *scratch, int64_t room,
                            int first, int count) {
    const int64_t x_size = (int64_t)(layer->places_in + 1) * layer->c,
                  g_size = (int64_t)(layer->places_out + 1) * layer->n;
    const int by_n = layer->n_stride == 1, most = (int)(room / (x_size + g_size));
    const int tall = by_n ? layer->c : layer->n, wide = by_n ? layer->n : layer->c;
    const Plan *plan = &layer->forward;
    const bf16 *input = layer->input;
    for (int done = 0; done < count / 2; done += most) {
        const int couples = count / 2 - done < most ? count / 2 - done : most;
        uint32_t *x = scratch, *g = scratch + couples * x_size;
        for (int i = 0; i < couples; i++) {
            const int64_t one = first + 2 * (done + i);
            couple(x + i * x_size, input + one * x_size, input + (one + 1) * x_size, x_size);
            couple(g + i * g_size, layer->gradient + one * g_size, layer->gradient + (one + 1) * g_size, g_size);
        }
        add_biases(bias_sums, g, layer->n, (int64_t)couples * (layer->places_out + 1));
        for (int phase = 0; phase < plan->phases; phase++) {
            const int places = plan->row_starts[phase + 1] - plan->row_starts[phase];
            const int taps = plan->tap_starts[phase + 1] - plan->tap_starts[phase];
            const int32_t *place = plan->rows + plan->row_starts[phase], *tap = plan->taps + plan->tap_starts[phase];
            const int32_t *index = plan->index + plan->index_starts[phase];
            for (int start = 0; start < places * couples; start += CHUNK) {
                const int some = places * couples - start < CHUNK ? places * couples - start : CHUNK;
                for (int t = 0; t < taps; t++) {
                    int32_t x_at[CHUNK], g_at[CHUNK];
                    int next = start % places, i = start / places;
                    for (int j = 0; j < some; j++) {
                        x_at[j] = (int32_t)(i * x_size + index[next * taps + t]);
                        g_at[j] = (int32_t)(i * g_size + (int64_t)place[next] * layer->n);
                        if (++next == places) next = 0, i++;
                    }
                    float *set = sums + (int64_t)tap[t] * tall * wide;
                    const Side inputs = {x, x_at, layer->c}, outputs = {g, g_at, layer->n};
                    outer_all(set, wide, by_n ? &inputs : &outputs, by_n ? &outputs : &inputs, some, 0);
                }
            }
        }
    }
}

// A dense layer's gradients: each set of weights has at most one place on either side. Threads share the sets.
static void dense_gradient(const Layer *layer, float *weights, float *biases, uint32_t *scratch, int count, int thread,
                           int threads) {
    const Plan *plan = &layer->forward;
    const int couples = (count + 1) / 2, from = layer->sets * thread / threads,
              until = layer->sets * (thread + 1) / threads;
    const int64_t x_size = (int64_t)(layer->places_in + 1) * layer->c,
                  g_size = (int64_t)(layer->places_out + 1) * layer->n;
    for (int phase = 0; phase < plan->phases; phase++) {
        const int place = plan->rows[plan->row_starts[phase]],
                  taps = plan->tap_starts[phase + 1] - plan->tap_starts[phase];
        for (int t = 0; t < taps; t++) {
            const int set = plan->taps[plan->tap_starts[phase] + t];
            if (set < from || set >= until) continue;
            const bf16 *inputs = (bf16 *)layer->input + plan->index[plan->index_starts[phase] + t];
            const bf16 *gradients = layer->gradient + (int64_t)place * layer->n;
            float *to = weights + set * layer->set_stride;
            for (int done = 0; done < couples; done += CHUNK) {
                const int some = couples - done < CHUNK ? couples - done : CHUNK;
                uint32_t *x = scratch, *g = scratch + (int64_t)some * layer->c;
                int32_t x_at[CHUNK], g_at[CHUNK];
                for (int i = 0; i < some; i++) {
                    const int64_t one = 2 * (done + i);
                    x_at[i] = i * layer->c, g_at[i] = i * layer->n;
                    couple(x + x_at[i], inputs + one * x_size, inputs + (one + 1) * x_size, layer->c);
                    couple(g + g_at[i], gradients + one * g_size, gradients + (one + 1) * g_size, layer->n);
                }
                const Side in = {x, x_at, layer->c}, out = {g, g_at, layer->n};
                if (layer->n_stride == 1) outer_all(to, layer->c_stride, &in, &out, some, !done);
                else outer_all(to, layer->n_stride, &out, &in, some, !done);
                float *sums = biases + (layer->own_biases ? (int64_t)place * layer->n : 0);
                if (!t && !done) memset(sums, 0, layer->n * sizeof(float));
                if (!t) add_biases(sums, g, layer->n, some);
            }
        }
    }
}

// Adds up the sums of all threads, and resets them to 0.
INLINE __m512 total(float *sums, int64_t size, int threads) {
    __m512 sum = _mm512_setzero_ps();
    for (int other = 0; other < threads; other++) {
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(sums + other * size));
        _mm512_storeu_ps(sums + other * size, _mm512_setzero_ps());
    }
    return sum;
}

// A layer's gradients, in the layout of its weights; each thread does some of the lines.
static void gather(const Layer *layer, float *weights, float *biases, int thread, int threads) {
    const int by_n = layer->n_stride == 1;
    const int tall = by_n ? layer->c : layer->n, tall_real = by_n ? layer->c_real : layer->n_real;
    const int wide = by_n ? layer->n : layer->c, wide_real = by_n ? layer->n_real : layer->c_real;
    const int64_t lines = (int64_t)layer->sets * tall;
    for (int64_t line = lines * thread / threads; line < lines * (thread + 1) / threads; line++)
        for (int column = 0; column < wide; column += LANES) {
            const __m512 sum = total(layer->weight_sums + line * wide + column, lines * wide, threads);
            float *to =
                weights + line / tall * layer->set_stride + line % tall * (by_n ? layer->c_stride : layer->n_stride);
            if (line % tall < tall_real) _mm512_mask_storeu_ps(to + column, first_lanes(wide_real - column), sum);
        }
    for (int i = thread * LANES; i < layer->n; i += threads * LANES)
        _mm512_storeu_ps(biases + i, total(layer->bias_sums + i, layer->n, threads));
}

static void pixel_gradients(const Network *net, const float *slopes, int picture, int count) {
    const Layer *top = net->layer + net->layers - 1;
    const int run = 2 * net->channels, row = net->width * net->channels;
    bf16 *to = top->gradient + (int64_t)picture * (top->places_out + 1) * top->n;
    if (picture >= count) {
        memset(to, 0, (size_t)top->places_out * top->n * sizeof(bf16));
        return;
    }
    slopes += (int64_t)picture * net->height * row;
    for (int place = 0; place < top->places_out; place++) {
        const int32_t *corner = net->corners + 2 * place;
        const __mmask16 above = corner[1] & first_lanes(run), below = corner[1] & ~first_lanes(run);
        const __m512 found = _mm512_maskz_loadu_ps(above, slopes + corner[0]);
        store(to + (int64_t)place * top->n, narrow(_mm512_mask_loadu_ps(found, below, slopes + corner[0] + row - run)));
    }
}

// Gradients of the logits (N, height, width, channels) -> of all weights and biases; after `network_forward`.
void network_backward(const Network *net, const float *slopes, int count, float *const *weights, float *const *biases,
                      int threads) {
#pragma omp parallel num_threads(threads)
    {
        const int thread = omp_get_thread_num(), all = omp_get_num_threads();
        int first, some;
        uint32_t *scratch = net->scratch + thread * net->scratch_size;
        share(count, thread, all, &first, &some);
        for (int i = first; i < first + some; i++) pixel_gradients(net, slopes, i, count);
        for (int l = net->layers - 1; l >= 0; l--) {
            const Layer *layer = net->layer + l;
            const int64_t size = (int64_t)layer->sets * layer->c * layer->n;
            if (!layer->dense)
                weight_gradient(layer, layer->weight_sums + thread * size,
                                layer->bias_sums + (int64_t)thread * layer->n, scratch, net->scratch_size, first, some);
            const Target to = {.net = net, .layer = layer, .below = layer - 1, .first = first, .parts = 1};
            if (l) input_gradient(layer, some, &to);
        }
#pragma omp barrier
        for (int l = 0; l < net->layers; l++)
            if (net->layer[l].dense) dense_gradient(net->layer + l, weights[l], biases[l], scratch, count, thread, all);
            else gather(net->layer + l, weights[l], biases[l], thread, all);
    }
}
