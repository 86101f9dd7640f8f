/* The transforms of Winograd's F(4×4, 3×3), which winograd.py explains, compiles and calls.

Maps are (images, height, width, channels) in memory, tiles (36, images · rows · columns, channels).
A vector holds sixteen channels, so channels must be a multiple of 16. */

typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef long long size;

/* Six numbers, `step` apart, become Bᵀ times them. */
static inline void to_products(vec *x, int step) {
    vec a = x[4 * step] - 4 * x[2 * step], b = x[3 * step] - 4 * x[step];
    vec c = x[4 * step] - x[2 * step], d = 2 * (x[3 * step] - x[step]);
    vec first = 4 * x[0] - 5 * x[2 * step] + x[4 * step];
    vec last = 4 * x[step] - 5 * x[3 * step] + x[5 * step];
    x[0] = first, x[step] = a + b, x[2 * step] = a - b;
    x[3 * step] = c + d, x[4 * step] = c - d, x[5 * step] = last;
}

/* Six become four: Aᵀ times them. */
static inline void to_pixels(vec *x, int step) {
    vec a = x[step] + x[2 * step], b = x[step] - x[2 * step];
    vec c = x[3 * step] + x[4 * step], d = x[3 * step] - x[4 * step];
    vec last = b + 8 * d + x[5 * step];
    x[0] = x[0] + a + c, x[step] = b + 2 * d, x[2 * step] = a + 4 * c, x[3 * step] = last;
}

/* Four become six: A times them, which takes a gradient back through `to_pixels`. */
static inline void from_pixels(vec *x, int step) {
    vec even = x[0] + x[2 * step], odd = x[step] + x[3 * step];
    vec even4 = x[0] + 4 * x[2 * step], odd8 = 2 * x[step] + 8 * x[3 * step];
    x[5 * step] = x[3 * step];
    x[step] = even + odd, x[2 * step] = even - odd;
    x[3 * step] = even4 + odd8, x[4 * step] = even4 - odd8;
}

/* Tiles of maps: of 6×6 pixels each, transformed by Bᵀ · B, two neighbours sharing two rows or
columns, with a border of zeros; or, for a gradient, of 4×4 pixels, transformed by A · Aᵀ. */
void maps_to_tiles(const float *maps, float *tiles, size gradient, size images, size height,
                   size width, size channels, size threads) {
    size rows = (height + 3) / 4, columns = (width + 3) / 4;
    size plane = images * rows * columns * channels;
    int side = gradient ? 4 : 6, border = gradient ? 0 : 1;
#pragma omp parallel for num_threads(threads)
    for (size row = 0; row < images * rows; row++) {
        const float *image = maps + row / rows * height * width * channels;
        size top = row % rows * 4 - border;
        for (size column = 0; column < columns; column++) {
            size left = column * 4 - border;
            for (size channel = 0; channel < channels; channel += 16) {
                vec tile[36];
                for (int i = 0; i < side; i++)
                    for (int j = 0; j < side; j++) {
                        size y = top + i, x = left + j;
                        int inside = 0 <= y && y < height && 0 <= x && x < width;
                        const float *pixel = image + (y * width + x) * channels + channel;
                        tile[6 * i + j] = inside ? *(const vec *)pixel : (vec){0};
                    }
                if (gradient) {
                    for (int j = 0; j < 4; j++) from_pixels(tile + j, 6);
                    for (int i = 0; i < 6; i++) from_pixels(tile + 6 * i, 1);
                } else {
                    for (int j = 0; j < 6; j++) to_products(tile + j, 6);
                    for (int i = 0; i < 6; i++) to_products(tile + 6 * i, 1);
                }
                float *to = tiles + (row * columns + column) * channels + channel;
                for (int i = 0; i < 36; i++) *(vec *)(to + i * plane) = tile[i];
            }
        }
    }
}

/* Maps of tiles, by Aᵀ · A: 4×4 pixels of each, less what lies outside. */
void tiles_to_maps(const float *tiles, float *maps, size images, size height, size width,
                   size channels, size threads) {
    size rows = (height + 3) / 4, columns = (width + 3) / 4;
    size plane = images * rows * columns * channels;
#pragma omp parallel for num_threads(threads)
    for (size row = 0; row < images * rows; row++) {
        float *image = maps + row / rows * height * width * channels;
        size top = row % rows * 4;
        for (size column = 0; column < columns; column++) {
            size left = column * 4;
            for (size channel = 0; channel < channels; channel += 16) {
                vec tile[36];
                const float *from = tiles + (row * columns + column) * channels + channel;
                for (int i = 0; i < 36; i++) tile[i] = *(const vec *)(from + i * plane);
                for (int j = 0; j < 6; j++) to_pixels(tile + j, 6);
                for (int i = 0; i < 4; i++) to_pixels(tile + 6 * i, 1);
                for (int i = 0; i < 4 && top + i < height; i++)
                    for (int j = 0; j < 4 && left + j < width; j++)
                        *(vec *)(image + ((top + i) * width + left + j) * channels + channel) =
                            tile[6 * i + j];
            }
        }
    }
}
