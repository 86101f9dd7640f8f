/* The transforms of Winograd's F(4×4, 3×3), which winograd.py explains, compiles and calls.

Maps are (images, height, width, channels) in memory, tiles (36, images · rows · columns, channels).
They hold numbers in float32 or, if BF16 is defined, in bfloat16; sums are float32 in either case.
A vector holds sixteen channels, so channels must be a multiple of 16. */

typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef unsigned bits __attribute__((vector_size(64), aligned(4), may_alias));
typedef unsigned short halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef long long size;

/* a and b: the points of winograd.py. */
#ifdef BF16
typedef unsigned short number; /* the upper half of a float32 */
static const float a = 0.625, b = 1.5;
static inline vec load(const number *from) {
    return (vec)(__builtin_convertvector(*(const halves *)from, bits) << 16);
}
static inline void store(number *to, vec x) { /* rounded to the nearest; of two, to the even one */
    bits all = (bits)x + 0x7fff + ((bits)x >> 16 & 1);
    *(halves *)to = __builtin_convertvector(all >> 16, halves);
}
#else
typedef float number;
static const float a = 1, b = 2;
static inline vec load(const number *from) { return *(const vec *)from; }
static inline void store(number *to, vec x) { *(vec *)to = x; }
#endif

/* Six numbers, `step` apart, become Bᵀ times them. */
static inline void to_products(vec *x, int step) {
    const float a2 = a * a, b2 = b * b;
    vec even_a = x[4 * step] - b2 * x[2 * step], odd_a = a * (x[3 * step] - b2 * x[step]);
    vec even_b = x[4 * step] - a2 * x[2 * step], odd_b = b * (x[3 * step] - a2 * x[step]);
    vec first = a2 * b2 * x[0] - (a2 + b2) * x[2 * step] + x[4 * step];
    vec last = a2 * b2 * x[step] - (a2 + b2) * x[3 * step] + x[5 * step];
    x[0] = first, x[step] = even_a + odd_a, x[2 * step] = even_a - odd_a;
    x[3 * step] = even_b + odd_b, x[4 * step] = even_b - odd_b, x[5 * step] = last;
}

/* Six become four: Aᵀ times them. */
static inline void to_pixels(vec *x, int step) {
    const float a2 = a * a, b2 = b * b;
    vec even_a = x[step] + x[2 * step], odd_a = a * (x[step] - x[2 * step]);
    vec even_b = x[3 * step] + x[4 * step], odd_b = b * (x[3 * step] - x[4 * step]);
    vec last = a2 * odd_a + b2 * odd_b + x[5 * step];
    x[0] = x[0] + even_a + even_b, x[step] = odd_a + odd_b;
    x[2 * step] = a2 * even_a + b2 * even_b, x[3 * step] = last;
}

/* Four become six: A times them, which takes a gradient back through `to_pixels`. */
static inline void from_pixels(vec *x, int step) {
    const float a2 = a * a, b2 = b * b;
    vec even_a = x[0] + a2 * x[2 * step], odd_a = a * x[step] + a * a2 * x[3 * step];
    vec even_b = x[0] + b2 * x[2 * step], odd_b = b * x[step] + b * b2 * x[3 * step];
    x[5 * step] = x[3 * step];
    x[step] = even_a + odd_a, x[2 * step] = even_a - odd_a;
    x[3 * step] = even_b + odd_b, x[4 * step] = even_b - odd_b;
}

/* Tiles of maps: of 6×6 pixels each, transformed by Bᵀ · B, two neighbours sharing two rows or
columns, with a border of zeros; or, for a gradient, of 4×4 pixels, transformed by A · Aᵀ. */
void maps_to_tiles(const number *maps, number *tiles, size gradient, size images, size height,
                   size width, size channels, size threads) {
    size rows = (height + 3) / 4, columns = (width + 3) / 4;
    size plane = images * rows * columns * channels;
    int side = gradient ? 4 : 6, border = gradient ? 0 : 1;
#pragma omp parallel for num_threads(threads)
    for (size row = 0; row < images * rows; row++) {
        const number *image = maps + row / rows * height * width * channels;
        size top = row % rows * 4 - border;
        for (size column = 0; column < columns; column++) {
            size left = column * 4 - border;
            for (size channel = 0; channel < channels; channel += 16) {
                vec tile[36];
                for (int i = 0; i < side; i++)
                    for (int j = 0; j < side; j++) {
                        size y = top + i, x = left + j;
                        int inside = 0 <= y && y < height && 0 <= x && x < width;
                        const number *pixel = image + (y * width + x) * channels + channel;
                        tile[6 * i + j] = inside ? load(pixel) : (vec){0};
                    }
                if (gradient) {
                    for (int j = 0; j < 4; j++) from_pixels(tile + j, 6);
                    for (int i = 0; i < 6; i++) from_pixels(tile + 6 * i, 1);
                } else {
                    for (int j = 0; j < 6; j++) to_products(tile + j, 6);
                    for (int i = 0; i < 6; i++) to_products(tile + 6 * i, 1);
                }
                number *to = tiles + (row * columns + column) * channels + channel;
                for (int i = 0; i < 36; i++) store(to + i * plane, tile[i]);
            }
        }
    }
}

/* Maps of tiles, by Aᵀ · A: 4×4 pixels of each, less what lies outside. */
void tiles_to_maps(const number *tiles, number *maps, size images, size height, size width,
                   size channels, size threads) {
    size rows = (height + 3) / 4, columns = (width + 3) / 4;
    size plane = images * rows * columns * channels;
#pragma omp parallel for num_threads(threads)
    for (size row = 0; row < images * rows; row++) {
        number *image = maps + row / rows * height * width * channels;
        size top = row % rows * 4;
        for (size column = 0; column < columns; column++) {
            size left = column * 4;
            for (size channel = 0; channel < channels; channel += 16) {
                vec tile[36];
                const number *from = tiles + (row * columns + column) * channels + channel;
                for (int i = 0; i < 36; i++) tile[i] = load(from + i * plane);
                for (int j = 0; j < 6; j++) to_pixels(tile + j, 6);
                for (int i = 0; i < 4; i++) to_pixels(tile + 6 * i, 1);
                for (int i = 0; i < 4 && top + i < height; i++)
                    for (int j = 0; j < 4 && left + j < width; j++) {
                        size y = top + i, x = left + j;
                        store(image + (y * width + x) * channels + channel, tile[6 * i + j]);
                    }
            }
        }
    }
}
