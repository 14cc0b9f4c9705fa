// Products of matrices of bfloat16 in float32, and the layouts that they want.
//
// The right side of a product is interleaved: rows 2i and 2i+1 side by side, number by number, (rows / 2, columns, 2).
#pragma once

#include <vector>

#include "simd.h"

namespace tunesmith {

// C = A B, or C += A B. A: (m, k) with `lda` numbers from row to row; B: (k, n) interleaved, with `ldb` pairs from
// pair of rows to pair of rows; C: (m, n) float32. m and n are multiples of 16, k is one of 32.
template <bool amx>
void multiply(int64_t m, int64_t n, int64_t k, const bf16* a, int64_t lda, const bf16* b, int64_t ldb, float* c,
              int64_t ldc, bool add);

// By vector instructions: 8 rows of C and `halves` times 16 columns in registers.
template <int halves>
inline void multiply_strip(int64_t m, int64_t k, const bf16* a, int64_t lda, const bf16* b, int64_t ldb, float* c,
                           int64_t ldc, bool add) {
  constexpr int rows = 8;
  for (int64_t i = 0; i < m; i += rows, a += rows * lda, c += rows * ldc) {
    __m512 sum[rows][halves];
    for (int r = 0; r < rows; ++r)
      for (int h = 0; h < halves; ++h) sum[r][h] = add ? _mm512_loadu_ps(c + r * ldc + 16 * h) : _mm512_setzero_ps();
    for (int64_t p = 0; p < k / 2; ++p) {
      __m512bh right[halves];
      for (int h = 0; h < halves; ++h) right[h] = (__m512bh)_mm512_loadu_si512(b + (p * ldb + 16 * h) * 2);
      for (int r = 0; r < rows; ++r) {
        int32_t pair;
        std::memcpy(&pair, a + r * lda + 2 * p, sizeof pair);
        for (int h = 0; h < halves; ++h)
          sum[r][h] = _mm512_dpbf16_ps(sum[r][h], (__m512bh)_mm512_set1_epi32(pair), right[h]);
      }
    }
    for (int r = 0; r < rows; ++r)
      for (int h = 0; h < halves; ++h) _mm512_storeu_ps(c + r * ldc + 16 * h, sum[r][h]);
  }
}

template <>
inline void multiply<false>(int64_t m, int64_t n, int64_t k, const bf16* a, int64_t lda, const bf16* b, int64_t ldb,
                            float* c, int64_t ldc, bool add) {
  for (int64_t j = 0; j < n; j += 32)
    (j + 16 < n ? multiply_strip<2> : multiply_strip<1>)(m, k, a, lda, b + 2 * j, ldb, c + j, ldc, add);
}

template <>
inline void multiply<true>(int64_t m, int64_t n, int64_t k, const bf16* a, int64_t lda, const bf16* b, int64_t ldb,
                           float* c, int64_t ldc, bool add) {
  for (int64_t j = 0; j < n; j += 32) {
    const bool right = j + 16 < n;  // there is a second tile of columns
    for (int64_t i = 0; i < m; i += 32) {
      const bool below = i + 16 < m;
      float* corner = c + i * ldc + j;
      if (add) {
        _tile_loadd(0, corner, ldc * 4);
        if (right) _tile_loadd(1, corner + 16, ldc * 4);
        if (below) _tile_loadd(2, corner + 16 * ldc, ldc * 4);
        if (below && right) _tile_loadd(3, corner + 16 * ldc + 16, ldc * 4);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      for (int64_t p = 0; p < k; p += 32) {
        _tile_loadd(4, a + i * lda + p, lda * 2);
        if (below) _tile_loadd(5, a + (i + 16) * lda + p, lda * 2);
        _tile_loadd(6, b + (p / 2 * ldb + j) * 2, ldb * 4);
        if (right) _tile_loadd(7, b + (p / 2 * ldb + j + 16) * 2, ldb * 4);
        _tile_dpbf16ps(0, 4, 6);
        if (right) _tile_dpbf16ps(1, 4, 7);
        if (below) _tile_dpbf16ps(2, 5, 6);
        if (below && right) _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, corner, ldc * 4);
      if (right) _tile_stored(1, corner + 16, ldc * 4);
      if (below) _tile_stored(2, corner + 16 * ldc, ldc * 4);
      if (below && right) _tile_stored(3, corner + 16 * ldc + 16, ldc * 4);
    }
  }
}

// Inside its scope the tiles of AMX are 16 rows of 64 bytes each; afterwards they are what they were.
class Tiles {
 public:
  explicit Tiles(bool amx) : amx_(amx) {
    if (!amx_) return;
    _tile_storeconfig(before_);
    alignas(64) uint8_t shape[64] = {1};  // palette 1; 16: bytes in a row of each tile, 48: rows
    for (int tile = 0; tile < 8; ++tile) shape[16 + 2 * tile] = 64, shape[48 + tile] = 16;
    _tile_loadconfig(shape);
  }
  ~Tiles() {
    if (!amx_) return;
    if (before_[0]) {
      _tile_loadconfig(before_);
    } else {
      _tile_release();
    }
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  bool amx_;
  alignas(64) uint8_t before_[64];
};

// Memory of a thread that the next call uses again.
template <typename Number>
Number* reuse(std::vector<Number>& memory, int64_t count) {
  if ((int64_t)memory.size() < count + 32) memory.resize(count + 32);
  return (Number*)(((uintptr_t)memory.data() + 63) / 64 * 64);
}

// A row of `width` numbers, and zeros up to `padded`.
inline void copy_row(bf16* to, const bf16* from, int64_t width, int64_t padded) {
  std::memcpy(to, from, width * sizeof(bf16));
  std::memset(to + width, 0, (padded - width) * sizeof(bf16));
}

// (rows, columns) -> the same as the right side of a product, (rows / 2, columns, 2). `row`: numbers from row to row.
inline void interleave(bf16* to, const bf16* from, int64_t rows, int64_t columns, int64_t row) {
  for (int64_t i = 0; i < rows; i += 2) {
    const bf16 *even = from + i * row, *odd = even + row;
    for (int64_t j = 0; j < columns; j += 16) {
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(even + j)));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(odd + j)));
      _mm512_storeu_si512(to + (i / 2 * columns + j) * 2, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// 16 x 16 numbers of 32 bits, `from_row` and `to_row` of them from row to row.
inline void transpose_16(uint32_t* to, int64_t to_row, const uint32_t* from, int64_t from_row) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * from_row);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i low = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), high = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    const __m512i low2 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    const __m512i high2 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    _mm512_storeu_si512(to + i * to_row, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_storeu_si512(to + (i + 8) * to_row, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_storeu_si512(to + (i + 4) * to_row, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_storeu_si512(to + (i + 12) * to_row, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

// (rows, columns) -> its transpose as the right side of a product, (columns / 2, rows, 2).
inline void interleave_transpose(bf16* to, const bf16* from, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t j = 0; j < columns; j += 32)
      transpose_16((uint32_t*)to + j / 2 * rows + i, rows, (const uint32_t*)(from + i * columns + j), columns / 2);
}

}  // namespace tunesmith
