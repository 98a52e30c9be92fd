// ReLU, batch normalisation and dropout of a channels-last tensor, read as `rows` x `channels` values: float32, or
// with -DBFLOAT16 bfloat16, the upper half of a float32. Between load and store all is float32 or float64.
//
// Each way walks over memory twice: for sums over the rows, and to write the result. Only the input and two bytes an
// element, whether dropout kept it, are needed on the way back; without dropout `kept` is null.

#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_CHANNELS 512
#define CHUNKS 64  // of rows; each is summed by itself, so that the sums do not depend on the number of threads
#define BLOCK 64   // rows that are summed in float32 before they are added in float64

// 16 at a time, which suits few channels: for 16-bit values a compiler would take 32, and the rest one by one
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

// 64 bits for each row: Steele et al., "Fast splittable pseudorandom number generators", 2014
static inline uint64_t row_key(uint64_t seed, int64_t row) {
    uint64_t z = seed + (uint64_t)row * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// 32 bits, the upper ones well mixed, for each of its channels; cheap in vector registers
static inline uint32_t element_bits(uint64_t key, uint32_t channel) {
    uint32_t h = (uint32_t)key + channel * 0x9e3779b9u;
    h = (h ^ (h >> 16)) * 0x7feb352du;
    return (h ^ (h >> 15)) * ((uint32_t)(key >> 32) | 1);
}

static inline float relu(float x) { return x < 0 ? 0 : x; }  // not-a-number stays what it is

// Sum r = relu(x) and r r over the rows; with dy, sum g and g r, where g is dy of the kept elements.
static void sum_rows(const Shape *s, const Value *x, const Value *dy, const int16_t *kept, double *sums,
                     double *scratch) {
    const int channels = s->channels;
    #pragma omp parallel for schedule(static)
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        double *total = scratch + (int64_t)chunk * 2 * channels;
        memset(total, 0, 2 * channels * sizeof *total);
        const int64_t end = s->rows * (chunk + 1) / CHUNKS;
        for (int64_t first = s->rows * chunk / CHUNKS; first < end; first += BLOCK) {
            float a[MAX_CHANNELS] = {0}, b[MAX_CHANNELS] = {0};
            for (int64_t row = first; row < end && row < first + BLOCK; row++) {
                const Value *xs = x + row * channels;
                const Value *dys = dy ? dy + row * channels : 0;
                const int16_t *ks = kept ? kept + row * channels : 0;
                FOR_CHANNELS {
                    float r = relu(load(xs[c])), g = !dys ? r : !ks ? load(dys[c]) : load(dys[c]) * ks[c];
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
    memset(sums, 0, 2 * channels * sizeof *sums);
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int i = 0; i < 2 * channels; i++) sums[i] += scratch[(int64_t)chunk * 2 * channels + i];
}

// y = dropout(weight (relu(x) - mean) / sqrt(var + epsilon) + bias); fills mean and biased var of relu(x).
void forward(const Shape *s, const Value *x, const float *weight, const float *bias, Value *restrict y,
             int16_t *restrict kept, double *mean, double *var, double *scratch) {
    const int channels = s->channels;
    double sums[2 * MAX_CHANNELS];
    float a[MAX_CHANNELS], b[MAX_CHANNELS];
    sum_rows(s, x, 0, 0, sums, scratch);
    for (int c = 0; c < channels; c++) {
        mean[c] = sums[c] / s->rows;
        var[c] = fmax(sums[channels + c] / s->rows - mean[c] * mean[c], 0);  // rounding may leave less than 0
        double slope = weight[c] / sqrt(var[c] + s->epsilon);
        a[c] = slope * s->scale;
        b[c] = (bias[c] - mean[c] * slope) * s->scale;
    }
    #pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < s->rows; row++) {
        const Value *xs = x + row * channels;
        Value *ys = y + row * channels;
        FOR_CHANNELS ys[c] = store(a[c] * relu(load(xs[c])) + b[c]);
        if (kept) {
            int16_t *ks = kept + row * channels;
            const uint64_t key = row_key(s->seed, row);
            FOR_CHANNELS {
                ks[c] = element_bits(key, c) >= s->drop;
                ys[c] *= ks[c];
            }
        }
    }
}

// The gradients at x, weight and bias from dy, that at y (Ioffe and Szegedy, 2015, section 3).
void backward(const Shape *s, const Value *x, const float *weight, const double *mean, const double *var,
              const int16_t *kept, const Value *dy, Value *restrict dx, float *dweight, float *dbias, double *scratch) {
    const int channels = s->channels;
    double sums[2 * MAX_CHANNELS];
    float a[MAX_CHANNELS], b[MAX_CHANNELS], d[MAX_CHANNELS];
    sum_rows(s, x, dy, kept, sums, scratch);
    for (int c = 0; c < channels; c++) {
        double inverse = 1 / sqrt(var[c] + s->epsilon), slope = weight[c] * inverse;
        double g = sums[c] * s->scale, gx = (sums[channels + c] * s->scale - mean[c] * g) * inverse;
        dbias[c] = g;
        dweight[c] = gx;
        a[c] = slope * s->scale;
        b[c] = -slope * gx * inverse / s->rows;
        d[c] = -slope * g / s->rows - b[c] * mean[c];
    }
    #pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < s->rows; row++) {
        const Value *xs = x + row * channels, *dys = dy + row * channels;
        Value *dxs = dx + row * channels;
        const int16_t *ks = kept ? kept + row * channels : 0;
        FOR_CHANNELS {
            float r = load(xs[c]), g = !ks ? load(dys[c]) : load(dys[c]) * ks[c];
            dxs[c] = store(r <= 0 ? 0 : a[c] * g + b[c] * r + d[c]);
        }
    }
}
