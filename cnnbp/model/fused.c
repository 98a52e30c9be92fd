// ReLU, batch normalisation and dropout of a channels-last tensor, read as a matrix of `rows` x
// `channels` values: float32, or with -DBFLOAT16 bfloat16, the upper half of a float32. All
// arithmetic is in float32 or float64.
//
// Forward and backward read memory twice each: for sums over the rows, then to write the result.
// The backward pass needs the input and two bytes an element, whether dropout kept it; without
// dropout `kept` is null.

#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_CHANNELS 512
#define CHUNKS 64  // of rows, each summed by itself: no result depends on the number of threads
#define BLOCK 64   // rows that are summed in float32 before they are added in float64

#define PARALLEL _Pragma("omp parallel for schedule(static)")
#define FOR_CHUNKS PARALLEL for (int chunk = 0; chunk < CHUNKS; chunk++)
#define FOR_ROWS PARALLEL for (int64_t row = 0; row < s->rows; row++)
// 16 at a time, which suits few channels: for 16-bit values a compiler would take 32, and the rest
// one by one
#define FOR_CHANNELS _Pragma("omp simd simdlen(16)") for (int c = 0; c < channels; c++)

typedef struct {
    int64_t rows;
    uint64_t seed;
    uint32_t channels;
    uint32_t drop;  // an element is dropped when its 32 bits are less
    double scale;   // of the elements that are kept
    double epsilon;
} Shape;

#ifdef BFLOAT16
typedef uint16_t Value;
static inline float load(Value v) {
    const uint32_t bits = (uint32_t)v << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline Value store(float x) {  // rounds to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
#else
typedef float Value;
static inline float load(Value v) { return v; }
static inline Value store(float x) { return x; }
#endif

// 64 random bits for each row
// (Steele et al., "Fast splittable pseudorandom number generators", 2014)
static inline uint64_t row_key(uint64_t seed, int64_t row) {
    uint64_t z = seed + (uint64_t)row * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// 32 random bits, the upper ones well mixed, for each channel of a row; cheap in vector registers
static inline uint32_t element_bits(uint64_t key, uint32_t channel) {
    uint32_t h = (uint32_t)key + channel * 0x9e3779b9u;
    h = (h ^ (h >> 16)) * 0x7feb352du;
    return (h ^ (h >> 15)) * ((uint32_t)(key >> 32) | 1);
}

static inline float relu(float x) { return x < 0 ? 0 : x; }  // NaN stays NaN

static inline int64_t first_row(const Shape *s, int chunk) { return s->rows * chunk / CHUNKS; }

static inline int64_t earlier(int64_t row, int64_t end) { return row < end ? row : end; }

// Add the chunks' sums, two for each channel, in a fixed order.
static void add_chunks(const double *scratch, int channels, double *sums) {
    memset(sums, 0, 2 * channels * sizeof *sums);
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const double *total = scratch + (int64_t)chunk * 2 * channels;
        for (int i = 0; i < 2 * channels; i++) sums[i] += total[i];
    }
}

static inline void mean_of_rows(const Value *x, int channels, int rows, float *mean) {
    float total[MAX_CHANNELS] = {0};
    for (int row = 0; row < rows; row++) {
        const Value *xs = x + (int64_t)row * channels;
        FOR_CHANNELS total[c] += relu(load(xs[c]));
    }
    FOR_CHANNELS mean[c] = total[c] / rows;
}

// Sum r = relu(x) and r r over the rows. Where the mean is large beside the spread, r r in float32
// would lose the spread, so that each block sums (r - pivot) and its square instead; float64 then
// has the digits to move both to 0. The pivot is the mean of the block before, at first that of
// eight rows. It need not be a good one: where it is off, rows differ by as much, so that the
// variance is large too, and the relative error stays that of float32.
// (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983, on shifted data.)
static void sum_moments(const Shape *s, const Value *x, double *sums, double *scratch) {
    const int channels = s->channels;
    FOR_CHUNKS {
        double *total = scratch + (int64_t)chunk * 2 * channels;
        memset(total, 0, 2 * channels * sizeof *total);
        const int64_t start = first_row(s, chunk), end = first_row(s, chunk + 1);
        float pivot[MAX_CHANNELS];
        mean_of_rows(x + start * channels, channels, earlier(start + 8, end) - start, pivot);
        for (int64_t first = start; first < end; first += BLOCK) {
            const int64_t last = earlier(first + BLOCK, end);
            const float count = last - first;
            float a[MAX_CHANNELS] = {0}, b[MAX_CHANNELS] = {0};
            for (int64_t row = first; row < last; row++) {
                const Value *xs = x + row * channels;
                FOR_CHANNELS {
                    const float r = relu(load(xs[c])) - pivot[c];
                    a[c] += r;
                    b[c] += r * r;
                }
            }
            FOR_CHANNELS {
                const double p = pivot[c];
                total[c] += a[c] + count * p;
                total[channels + c] += b[c] + p * (2 * a[c] + count * p);
                pivot[c] += a[c] / count;
            }
        }
    }
    add_chunks(scratch, channels, sums);
}

// Sum g and g (r - centre) over the rows, where r = relu(x) and g is dy of the elements that
// dropout kept.
static void sum_gradients(const Shape *s, const Value *x, const Value *dy, const int16_t *kept,
                          const float *centre, double *sums, double *scratch) {
    const int channels = s->channels;
    FOR_CHUNKS {
        double *total = scratch + (int64_t)chunk * 2 * channels;
        memset(total, 0, 2 * channels * sizeof *total);
        const int64_t start = first_row(s, chunk), end = first_row(s, chunk + 1);
        for (int64_t first = start; first < end; first += BLOCK) {
            const int64_t last = earlier(first + BLOCK, end);
            float a[MAX_CHANNELS] = {0}, b[MAX_CHANNELS] = {0};
            for (int64_t row = first; row < last; row++) {
                const Value *xs = x + row * channels, *dys = dy + row * channels;
                const int16_t *ks = kept ? kept + row * channels : 0;
                FOR_CHANNELS {
                    const float r = relu(load(xs[c])) - centre[c];
                    const float g = !ks ? load(dys[c]) : load(dys[c]) * ks[c];
                    a[c] += g;
                    b[c] += g * r;
                }
            }
            FOR_CHANNELS {
                total[c] += a[c];
                total[channels + c] += b[c];
            }
        }
    }
    add_chunks(scratch, channels, sums);
}

// y = dropout(weight (relu(x) - mean) / sqrt(var + epsilon) + bias)
// Fills mean and biased var of relu(x).
void forward(const Shape *s, const Value *x, const float *weight, const float *bias,
             Value *restrict y, int16_t *restrict kept, double *mean, double *var,
             double *scratch) {
    const int channels = s->channels;
    double sums[2 * MAX_CHANNELS];
    float a[MAX_CHANNELS], b[MAX_CHANNELS], centre[MAX_CHANNELS];
    uint32_t drop[MAX_CHANNELS];
    sum_moments(s, x, sums, scratch);
    for (int c = 0; c < channels; c++) {
        mean[c] = sums[c] / s->rows;
        var[c] = sums[channels + c] / s->rows - mean[c] * mean[c];
        if (var[c] < 0) var[c] = 0;  // by rounding; fmax would also turn NaN into 0
        const double slope = weight[c] / sqrt(var[c] + s->epsilon);
        // y = a (r - centre) + b; a r + b would lose digits where the mean is large
        centre[c] = mean[c];
        a[c] = slope * s->scale;
        b[c] = (bias[c] - (mean[c] - centre[c]) * slope) * s->scale;
        // dropout leaves NaN and infinity as NaN, but the bits of a bfloat16 times 0 are 0: keep
        // such a channel whole
        drop[c] = isfinite(a[c]) && isfinite(b[c]) ? s->drop : 0;
    }
    FOR_ROWS {
        const Value *xs = x + row * channels;
        Value *ys = y + row * channels;
        FOR_CHANNELS ys[c] = store(a[c] * (relu(load(xs[c])) - centre[c]) + b[c]);
        if (kept) {
            int16_t *ks = kept + row * channels;
            const uint64_t key = row_key(s->seed, row);
            FOR_CHANNELS {
                ks[c] = element_bits(key, c) >= drop[c];
                ys[c] *= ks[c];
            }
        }
    }
}

// The gradients at x, weight and bias from dy, that at y (Ioffe and Szegedy, 2015, section 3).
void backward(const Shape *s, const Value *x, const float *weight, const double *mean,
              const double *var, const int16_t *kept, const Value *dy, Value *restrict dx,
              float *dweight, float *dbias, double *scratch) {
    const int channels = s->channels;
    double sums[2 * MAX_CHANNELS];
    float a[MAX_CHANNELS], b[MAX_CHANNELS], d[MAX_CHANNELS], centre[MAX_CHANNELS];
    for (int c = 0; c < channels; c++) centre[c] = mean[c];
    sum_gradients(s, x, dy, kept, centre, sums, scratch);
    for (int c = 0; c < channels; c++) {
        const double inverse = 1 / sqrt(var[c] + s->epsilon), slope = weight[c] * inverse;
        const double rest = mean[c] - centre[c];
        const double g = sums[c] * s->scale;
        const double gx = (sums[channels + c] * s->scale - rest * g) * inverse;
        dbias[c] = g;
        dweight[c] = gx;
        // dx = a g + b (r - centre) + d
        a[c] = slope * s->scale;
        b[c] = -slope * gx * inverse / s->rows;
        d[c] = -slope * g / s->rows - b[c] * rest;
    }
    FOR_ROWS {
        const Value *xs = x + row * channels, *dys = dy + row * channels;
        Value *dxs = dx + row * channels;
        const int16_t *ks = kept ? kept + row * channels : 0;
        FOR_CHANNELS {
            const float r = load(xs[c]), g = !ks ? load(dys[c]) : load(dys[c]) * ks[c];
            dxs[c] = store(r <= 0 ? 0 : a[c] * g + b[c] * (r - centre[c]) + d[c]);
        }
    }
}
