// Causal attention over sequences laid end to end, in bfloat16 with sums, scores and softmax in float32.
//
// T tokens of all sequences, H query heads, K key/value heads, G = H / K queries that share one, D numbers per head.
// The work is divided by sequence and key/value head. A block is `block` queries of each of the G heads against every
// key up to the last of them: rows of a block are (head, query). The backward pass computes the scores anew from what
// the forward pass kept, the logarithm of each query's sum of exponentials (Dao 2023, arXiv:2307.08691, section 3.1).

#include <algorithm>
#include <cmath>
#include <new>

#include "matrices.h"

namespace tunesmith {
namespace {

// (T, heads, D) with numbers of a head side by side. token, head: numbers from one to the next.
template <typename Number>
struct Heads {
  Number* data;
  int64_t token, head;
  Number* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};

// One sequence and one key/value head of it.
struct Piece {
  int64_t start, length;  // tokens
  int64_t key_head, groups, width;
  int64_t padded_length() const { return round_up(length, 32); }
  int64_t padded_width() const { return round_up(width, 32); }
  int64_t block() const { return groups == 1 ? 64 : 32; }
  int64_t rows() const { return groups * block(); }
};

// `count` rows of `width` numbers, `first` being the first token, padded with zeros to (rows, padded).
void lay_rows(bf16* to, Heads<const bf16> from, int64_t head, int64_t first, int64_t count, int64_t rows, int64_t width,
              int64_t padded) {
  for (int64_t i = 0; i < count; ++i) copy_row(to + i * padded, from.at(first + i, head), width, padded);
  if (rows > count) std::memset(to + count * padded, 0, (rows - count) * padded * sizeof(bf16));
}

// What one piece of the forward pass needs.
struct Forward {
  std::vector<bf16> rows, keys, values, queries, weights;
  std::vector<float> scores, sums;

  template <bool amx>
  void run(const Piece& piece, Heads<const bf16> query, Heads<const bf16> key, Heads<const bf16> value, Heads<bf16> out,
           float* log_sums, int64_t tokens, float scale);
};

template <bool amx>
void Forward::run(const Piece& p, Heads<const bf16> query, Heads<const bf16> key, Heads<const bf16> value,
                  Heads<bf16> out, float* log_sums, int64_t tokens, float scale) {
  const int64_t n = p.padded_length(), width = p.padded_width(), rows = p.rows(), block = p.block();
  bf16* plain = reuse(this->rows, n * width);
  bf16* keys = reuse(this->keys, n * width);      // (width / 2, n, 2)
  bf16* values = reuse(this->values, n * width);  // (n / 2, width, 2)
  bf16* queries = reuse(this->queries, rows * width);
  const int64_t most = round_up(n, block);
  bf16* weights = reuse(this->weights, rows * most);
  float* scores = reuse(this->scores, rows * most);
  float* sums = reuse(this->sums, rows * width);
  lay_rows(plain, key, p.key_head, p.start, p.length, n, p.width, width);
  interleave_transpose(keys, plain, n, width);
  lay_rows(plain, value, p.key_head, p.start, p.length, n, p.width, width);
  interleave(values, plain, n, width, width);
  for (int64_t first = 0; first < p.length; first += block) {
    const int64_t count = std::min(block, p.length - first), seen = std::min(n, first + block);
    for (int64_t g = 0; g < p.groups; ++g)
      lay_rows(queries + g * block * width, query, p.key_head * p.groups + g, p.start + first, count, block, p.width,
               width);
    multiply<amx>(rows, seen, width, queries, width, keys, n, scores, seen, false);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t own = row % block, head = p.key_head * p.groups + row / block;
      float* score = scores + row * seen;
      bf16* weight = weights + row * seen;
      if (own >= count) {
        std::memset(weight, 0, seen * sizeof(bf16));
        continue;
      }
      const int64_t visible = first + own + 1;
      __m512 high = _mm512_set1_ps(-INFINITY);
      for (int64_t j = 0; j < visible; j += 16)
        high = _mm512_mask_max_ps(high, first_lanes(visible - j), high, _mm512_loadu_ps(score + j));
      const __m512 factor = _mm512_set1_ps(scale);
      const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(high) * scale);
      __m512 total = _mm512_setzero_ps();
      for (int64_t j = 0; j < seen; j += 16) {
        const __mmask16 lanes = j < visible ? first_lanes(visible - j) : 0;
        const __m512 e = _mm512_maskz_mov_ps(lanes, exp(_mm512_fmsub_ps(_mm512_loadu_ps(score + j), factor, largest)));
        total = _mm512_add_ps(total, e);
        store(weight + j, e);
      }
      const float sum = _mm512_reduce_add_ps(total);
      log_sums[head * tokens + p.start + first + own] = _mm512_cvtss_f32(largest) + std::log(sum);
      score[0] = 1 / sum;
    }
    multiply<amx>(rows, width, seen, weights, seen, values, width, sums, width, false);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t own = row % block, head = p.key_head * p.groups + row / block;
      if (own >= count) continue;
      const __m512 factor = _mm512_set1_ps(scores[row * seen]);
      bf16* to = out.at(p.start + first + own, head);
      for (int64_t d = 0; d < p.width; d += 16)
        store(to + d, _mm512_mul_ps(factor, _mm512_loadu_ps(sums + row * width + d)), first_lanes(p.width - d));
    }
  }
}

// What one piece of the backward pass needs.
struct Backward {
  std::vector<bf16> keys, keys_across, values, queries, queries_turned, queries_paired, errors, errors_turned,
      errors_paired, weights, slopes, slopes_paired;
  std::vector<float> scores, of_weights, of_keys, of_values, of_queries, across, log_sums, along;

  template <bool amx>
  void run(const Piece& piece, Heads<const bf16> of_out, Heads<const bf16> out, const float* log_sums,
           Heads<const bf16> query, Heads<const bf16> key, Heads<const bf16> value, Heads<bf16> of_query,
           Heads<bf16> of_key, Heads<bf16> of_value, int64_t tokens, float scale);
};

// (count, width) float32 of one head, times `factor`, to tokens from `first`.
void write_rows(Heads<bf16> to, int64_t head, int64_t first, int64_t count, const float* from, int64_t row,
                int64_t width, float factor) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < width; d += 16)
      store(to.at(first + i, head) + d, _mm512_mul_ps(_mm512_set1_ps(factor), _mm512_loadu_ps(from + i * row + d)),
            first_lanes(width - d));
}

// With P the probabilities: dV = P.T dO; dP = dO V.T; dS = P * (dP - rowsum(O * dO)); dQ = scale dS K;
// dK = scale dS.T Q. Scores are held transposed, (keys, rows): then every product but that for dQ has its left side.
template <bool amx>
void Backward::run(const Piece& p, Heads<const bf16> of_out, Heads<const bf16> out, const float* kept,
                   Heads<const bf16> query, Heads<const bf16> key, Heads<const bf16> value, Heads<bf16> of_query,
                   Heads<bf16> of_key, Heads<bf16> of_value, int64_t tokens, float scale) {
  const int64_t n = p.padded_length(), width = p.padded_width(), rows = p.rows(), block = p.block();
  const int64_t most = round_up(n, block);
  bf16* keys = reuse(this->keys, n * width);                // (n, width)
  bf16* keys_across = reuse(this->keys_across, n * width);  // (width, n)
  bf16* values = reuse(this->values, n * width);
  bf16* queries = reuse(this->queries, rows * width);
  bf16* queries_turned = reuse(this->queries_turned, rows * width);  // (width / 2, rows, 2)
  bf16* queries_paired = reuse(this->queries_paired, rows * width);  // (rows / 2, width, 2)
  bf16* errors = reuse(this->errors, rows * width);
  bf16* errors_turned = reuse(this->errors_turned, rows * width);
  bf16* errors_paired = reuse(this->errors_paired, rows * width);
  bf16* weights = reuse(this->weights, rows * most);              // (seen, rows)
  bf16* slopes = reuse(this->slopes, rows * most);                // (seen, rows)
  bf16* slopes_paired = reuse(this->slopes_paired, rows * most);  // (seen / 2, rows, 2)
  float* scores = reuse(this->scores, rows * most);
  float* of_weights = reuse(this->of_weights, rows * most);
  float* of_keys = reuse(this->of_keys, n * width);
  float* of_values = reuse(this->of_values, n * width);
  float* across = reuse(this->across, rows * width);          // (width, rows), the gradient of the queries
  float* of_queries = reuse(this->of_queries, rows * width);  // (rows, width)
  float* log_sums = reuse(this->log_sums, rows);
  float* along = reuse(this->along, rows);  // rowsum(O * dO)
  lay_rows(keys, key, p.key_head, p.start, p.length, n, p.width, width);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t d = 0; d < width; ++d) keys_across[d * n + i] = keys[i * width + d];
  lay_rows(values, value, p.key_head, p.start, p.length, n, p.width, width);
  std::memset(of_keys, 0, n * width * sizeof(float));
  std::memset(of_values, 0, n * width * sizeof(float));
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t first = 0; first < p.length; first += block) {
    const int64_t count = std::min(block, p.length - first), seen = std::min(n, first + block);
    for (int64_t g = 0; g < p.groups; ++g) {
      const int64_t head = p.key_head * p.groups + g, token = p.start + first;
      lay_rows(queries + g * block * width, query, head, token, count, block, p.width, width);
      lay_rows(errors + g * block * width, of_out, head, token, count, block, p.width, width);
      for (int64_t own = 0; own < block; ++own) {
        __m512 product = _mm512_setzero_ps();
        for (int64_t d = 0; own < count && d < p.width; d += 16)
          product = _mm512_fmadd_ps(load(errors + (g * block + own) * width + d),
                                    load(out.at(token + own, head) + d, first_lanes(p.width - d)), product);
        along[g * block + own] = _mm512_reduce_add_ps(product);
        log_sums[g * block + own] = own < count ? kept[head * tokens + token + own] : 0;
      }
    }
    interleave_transpose(queries_turned, queries, rows, width);
    interleave_transpose(errors_turned, errors, rows, width);
    interleave(queries_paired, queries, rows, width, width);
    interleave(errors_paired, errors, rows, width, width);
    multiply<amx>(seen, rows, width, keys, width, queries_turned, rows, scores, rows, false);
    multiply<amx>(seen, rows, width, values, width, errors_turned, rows, of_weights, rows, false);
    for (int64_t j = 0; j < seen; j += 2) {
      for (int64_t row = 0; row < rows; row += 16) {
        const int64_t own = row % block;
        const __mmask16 there = first_lanes(std::max<int64_t>(count - own, 0));
        __m256i pair[2];
        for (int odd = 0; odd < 2; ++odd) {
          const int64_t hidden = j + odd - first - own;  // queries of these 16 that come before the key
          const int64_t at = (j + odd) * rows + row;
          const __mmask16 lanes = there & ~first_lanes(std::max<int64_t>(hidden, 0));
          const __m512 weight = _mm512_maskz_mov_ps(
              lanes, exp(_mm512_fmsub_ps(_mm512_loadu_ps(scores + at), factor, _mm512_loadu_ps(log_sums + row))));
          const __m512 slope =
              _mm512_mul_ps(weight, _mm512_sub_ps(_mm512_loadu_ps(of_weights + at), _mm512_loadu_ps(along + row)));
          store(weights + at, weight);
          pair[odd] = narrow(slope);
          _mm256_storeu_si256((__m256i*)(slopes + at), pair[odd]);
        }
        _mm512_storeu_si512(slopes_paired + (j / 2 * rows + row) * 2,
                            _mm512_or_si512(_mm512_cvtepu16_epi32(pair[0]),
                                            _mm512_slli_epi32(_mm512_cvtepu16_epi32(pair[1]), 16)));
      }
    }
    multiply<amx>(seen, width, rows, weights, rows, errors_paired, width, of_values, width, true);
    multiply<amx>(seen, width, rows, slopes, rows, queries_paired, width, of_keys, width, true);
    multiply<amx>(width, rows, seen, keys_across, n, slopes_paired, rows, across, rows, false);
    for (int64_t g = 0; g < p.groups; ++g) {
      for (int64_t own = 0; own < block; own += 16)
        for (int64_t d = 0; d < width; d += 16)
          transpose_16((uint32_t*)of_queries + (g * block + own) * width + d, width,
                       (const uint32_t*)across + d * rows + g * block + own, rows);
      write_rows(of_query, p.key_head * p.groups + g, p.start + first, count, of_queries + g * block * width, width,
                 p.width, scale);
    }
  }
  write_rows(of_key, p.key_head, p.start, p.length, of_keys, width, p.width, scale);
  write_rows(of_value, p.key_head, p.start, p.length, of_values, width, p.width, 1);
}

// Returns whether there was memory for all of them: no exception may leave a thread.
template <typename Pass, typename Run>
bool for_each_piece(const int64_t* boundaries, int64_t sequences, int64_t heads, int64_t key_heads, int64_t width,
                    int threads, bool amx, Run run) {
  bool fits = true;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    thread_local Pass pass;
    const Tiles tiles(amx);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < sequences * key_heads; ++i) {
      const int64_t s = i / key_heads, length = boundaries[s + 1] - boundaries[s];
      try {
        run(pass, Piece{boundaries[s], length, i % key_heads, heads / key_heads, width});
      } catch (const std::bad_alloc&) {
#pragma omp atomic write
        fits = false;
      }
    }
  }
  return fits;
}

}  // namespace
}  // namespace tunesmith

using namespace tunesmith;

// Strides come as pairs, from token to token and from head to head. out and of_*: (T, heads, D) without gaps.
// log_sums: (H, T) float32. amx: whether the processor has it and the kernel lets this process use it. Both return 0
// where memory ran out.
extern "C" int attend(const bf16* query, const bf16* key, const bf16* value, const int64_t* strides,
                      const int64_t* boundaries, int64_t sequences, int64_t heads, int64_t key_heads, int64_t width,
                      float scale, bf16* out, float* log_sums, int threads, int amx) {
  const Heads<const bf16> q{query, strides[0], strides[1]}, k{key, strides[2], strides[3]},
      v{value, strides[4], strides[5]};
  const Heads<bf16> o{out, heads * width, width};
  const int64_t tokens = boundaries[sequences];
  return for_each_piece<Forward>(boundaries, sequences, heads, key_heads, width, threads, amx,
                                 [&](Forward& pass, const Piece& piece) {
                                   amx ? pass.run<true>(piece, q, k, v, o, log_sums, tokens, scale)
                                       : pass.run<false>(piece, q, k, v, o, log_sums, tokens, scale);
                                 });
}

extern "C" int attend_backward(const bf16* of_out, const bf16* out, const float* log_sums, const bf16* query,
                               const bf16* key, const bf16* value, const int64_t* strides, const int64_t* boundaries,
                               int64_t sequences, int64_t heads, int64_t key_heads, int64_t width, float scale,
                               bf16* of_query, bf16* of_key, bf16* of_value, int threads, int amx) {
  const Heads<const bf16> e{of_out, strides[6], strides[7]}, o{out, heads * width, width},
      q{query, strides[0], strides[1]}, k{key, strides[2], strides[3]}, v{value, strides[4], strides[5]};
  const Heads<bf16> of_q{of_query, heads * width, width}, of_k{of_key, key_heads * width, width},
      of_v{of_value, key_heads * width, width};
  const int64_t tokens = boundaries[sequences];
  return for_each_piece<Backward>(
      boundaries, sequences, heads, key_heads, width, threads, amx, [&](Backward& pass, const Piece& piece) {
        amx ? pass.run<true>(piece, e, o, log_sums, q, k, v, of_q, of_k, of_v, tokens, scale)
            : pass.run<false>(piece, e, o, log_sums, q, k, v, of_q, of_k, of_v, tokens, scale);
      });
}
