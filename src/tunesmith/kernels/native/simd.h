// bfloat16 in and out of AVX-512 registers, and exp.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace tunesmith {

using bf16 = uint16_t;

inline int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// The first `count` (at most 16) of the lanes.
inline __mmask16 first_lanes(int64_t count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

inline __m512 widen(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m512 load(const bf16* from) { return widen(_mm256_loadu_si256((const __m256i*)from)); }
inline __m512 load(const bf16* from, __mmask16 lanes) { return widen(_mm256_maskz_loadu_epi16(lanes, from)); }

// Rounded to the nearest, ties to even, as PyTorch does.
inline __m256i narrow(__m512 wide) { return (__m256i)_mm512_cvtneps_pbh(wide); }
inline void store(bf16* to, __m512 wide) { _mm256_storeu_si256((__m256i*)to, narrow(wide)); }
inline void store(bf16* to, __m512 wide, __mmask16 lanes) { _mm256_mask_storeu_epi16(to, lanes, narrow(wide)); }

// exp within 3 units in the last place; 0 below -87.3. Cody and Waite 1980, Software Manual for the Elementary
// Functions, chapter 6: x = n ln 2 + r, and a Taylor polynomial for exp(r).
inline __m512 exp(__m512 x) {
  const __mmask16 tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_LT_OQ);
  x = _mm512_min_ps(_mm512_set1_ps(88.7f), x);  // in this order a NaN stays one
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.f / 720);
  for (float c : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), tiny, _mm512_setzero_ps());
}

}  // namespace tunesmith
