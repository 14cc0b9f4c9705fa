// The adapter's part of a linear layer with LoRA, in bfloat16 with sums in float32: what is added to the frozen layer's
// product, its gradients, and dropout on the way.
//
// N positions, I inputs, O outputs, r rank. With x the inputs, M what dropout leaves of them, A (r, I) and B (O, r):
//   out += scale * middle B.T          middle = (M * x) A.T
//   of_B = scale * of_out.T middle     of_middle = scale * of_out B
//   of_A = of_middle.T (M * x)         of_x += M * (of_middle A)
// Each pass goes through the positions once, in blocks that stay in the caches.

#include <omp.h>

#include <algorithm>
#include <new>

#include "matrices.h"

namespace tunesmith {
namespace {

constexpr int64_t kBlock = 64;   // positions
constexpr int64_t kPanel = 128;  // columns that are worked on at once, so that they stay in the first cache

// 16 generators side by side: xoshiro128++ (Blackman and Vigna 2021, doi:10.1145/3460772), begun by splitmix64.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream) {
    uint64_t state = seed ^ (stream * 0xd1342543de82ef95u);
    alignas(64) uint64_t words[32];
    for (uint64_t& word : words) {
      uint64_t z = state += 0x9e3779b97f4a7c15u;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      word = z ^ (z >> 31);
    }
    for (int i = 0; i < 4; ++i) state_[i] = _mm512_load_si512(words + 8 * i);
  }

  // Of 32 numbers, which are dropped: those whose 16 random bits are below `threshold`.
  uint32_t dropped(__m512i threshold) {
    const __m512i bits =
        _mm512_add_epi32(_mm512_rol_epi32(_mm512_add_epi32(state_[0], state_[3]), 7), state_[0]);
    const __m512i shifted = _mm512_slli_epi32(state_[1], 9);
    state_[2] = _mm512_xor_si512(state_[2], state_[0]);
    state_[3] = _mm512_xor_si512(state_[3], state_[1]);
    state_[1] = _mm512_xor_si512(state_[1], state_[2]);
    state_[0] = _mm512_xor_si512(state_[0], state_[3]);
    state_[2] = _mm512_xor_si512(state_[2], shifted);
    state_[3] = _mm512_rol_epi32(state_[3], 11);
    return _mm512_cmplt_epu16_mask(bits, threshold);
  }

 private:
  __m512i state_[4];
};

struct Sizes {
  int64_t positions, inputs, outputs, rank;
  int64_t tiles() const { return round_up(rank, 16); }  // the rank as rows or columns of a product,
  int64_t depth() const { return round_up(rank, 32); }  // and as what it sums over
  int64_t words() const { return (inputs + 31) / 32; }  // of 32 bits in a row of `dropped`
  int64_t blocks() const { return (positions + kBlock - 1) / kBlock; }
};

// Columns from `panel` on of (count, columns) -> (kBlock, kPanel) with zeros around, without what is dropped. `words`:
// of a row of `dropped`, which may be null.
void lay_panel(bf16* to, const bf16* from, const uint32_t* dropped, int64_t words, int64_t count, int64_t columns,
               int64_t panel) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < kPanel; j += 32) {
      const int64_t left = columns - panel - j;
      __mmask32 kept = left >= 32 ? ~0u : left > 0 ? (1u << left) - 1 : 0;
      if (dropped && left > 0) kept &= ~dropped[i * words + (panel + j) / 32];
      _mm512_storeu_si512(to + i * kPanel + j, _mm512_maskz_loadu_epi16(kept, from + i * columns + panel + j));
    }
  }
  std::memset(to + count * kPanel, 0, (kBlock - count) * kPanel * sizeof(bf16));
}

// (rows, columns) in `memory` -> (padded_rows, padded).
bf16* padded_copy(std::vector<bf16>& memory, const bf16* from, int64_t rows, int64_t columns, int64_t padded_rows,
                  int64_t padded) {
  bf16* to = reuse(memory, padded_rows * padded);
  for (int64_t i = 0; i < rows; ++i) copy_row(to + i * padded, from + i * columns, columns, padded);
  std::memset(to + rows * padded, 0, (padded_rows - rows) * padded * sizeof(bf16));
  return to;
}

// factor * (kBlock, tiles) -> (kBlock, depth), zeros between.
void narrow_block(bf16* to, const float* from, const Sizes& s, float factor) {
  std::memset(to, 0, kBlock * s.depth() * sizeof(bf16));
  for (int64_t i = 0; i < kBlock; ++i)
    for (int64_t j = 0; j < s.tiles(); j += 16)
      store(to + i * s.depth() + j, _mm512_mul_ps(_mm512_set1_ps(factor), _mm512_loadu_ps(from + i * s.tiles() + j)));
}

// (kBlock, depth) -> (tiles, kBlock).
void turn(bf16* to, const bf16* from, const Sizes& s) {
  for (int64_t j = 0; j < s.tiles(); ++j)
    for (int64_t i = 0; i < kBlock; ++i) to[j * kBlock + i] = from[i * s.depth() + j];
}

// to += factor * left right, where nothing is dropped. to: (count, columns); left: (kBlock, depth); right: interleaved,
// (depth / 2, padded, 2).
template <bool amx>
void add_product(bf16* to, const bf16* left, const bf16* right, const Sizes& s, const uint32_t* dropped, int64_t count,
                 int64_t columns, float factor, float* memory) {
  const int64_t padded = round_up(columns, kPanel);
  const __m512 by = _mm512_set1_ps(factor);
  for (int64_t panel = 0; panel < columns; panel += kPanel) {
    multiply<amx>(kBlock, kPanel, s.depth(), left, s.depth(), right + 2 * panel, padded, memory, kPanel, false);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = panel; j < std::min(panel + kPanel, columns); j += 16) {
        const __mmask16 lanes = first_lanes(columns - j);
        const __mmask16 kept = dropped ? (__mmask16)~(dropped[i * s.words() + j / 32] >> (j % 32)) : 0xffff;
        bf16* at = to + i * columns + j;
        const __m512 before = load(at, lanes);
        store(at, _mm512_mask3_fmadd_ps(_mm512_loadu_ps(memory + i * kPanel + j - panel), by, before, kept), lanes);
      }
    }
  }
}

struct Memory {
  std::vector<bf16> plain, down, up, panel, paired, narrow, turned;
  std::vector<float> wide, sums, of_down, of_up;
};

template <bool amx>
void forward(const Sizes& s, const bf16* inputs, const bf16* down, const bf16* up, float scale, float share,
             uint64_t seed, bf16* out, bf16* middle, uint32_t* dropped, int threads) {
  const int64_t ins = round_up(s.inputs, kPanel), outs = round_up(s.outputs, kPanel);
  thread_local Memory shared;
  bf16* down_right = reuse(shared.down, ins * s.tiles());  // (ins / 2, tiles, 2)
  interleave_transpose(down_right, padded_copy(shared.plain, down, s.rank, s.inputs, s.tiles(), ins), s.tiles(), ins);
  bf16* up_right = reuse(shared.up, s.depth() * outs);  // (depth / 2, outs, 2)
  interleave_transpose(up_right, padded_copy(shared.plain, up, s.outputs, s.rank, outs, s.depth()), outs, s.depth());
  const __m512i threshold = _mm512_set1_epi16((short)(int)(share * 65536 + 0.5f));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    thread_local Memory own;
    const Tiles tiles(amx);
    bf16* panel = reuse(own.panel, kBlock * kPanel);
    bf16* narrow = reuse(own.narrow, kBlock * s.depth());
    float* wide = reuse(own.wide, kBlock * s.tiles());
    float* sums = reuse(own.sums, kBlock * kPanel);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < s.blocks(); ++b) {
      const int64_t first = b * kBlock, count = std::min(kBlock, s.positions - first);
      uint32_t* marks = nullptr;
      if (dropped) {
        marks = dropped + first * s.words();
        Random random(seed, b);
        for (int64_t i = 0; i < count * s.words(); ++i) marks[i] = random.dropped(threshold);
      }
      for (int64_t j = 0; j < s.inputs; j += kPanel) {
        lay_panel(panel, inputs + first * s.inputs, marks, s.words(), count, s.inputs, j);
        multiply<amx>(kBlock, s.tiles(), kPanel, panel, kPanel, down_right + j * s.tiles(), s.tiles(), wide, s.tiles(),
                      j > 0);
      }
      narrow_block(narrow, wide, s, 1);
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(middle + (first + i) * s.rank, narrow + i * s.depth(), s.rank * sizeof(bf16));
      add_product<amx>(out + first * s.outputs, narrow, up_right, s, nullptr, count, s.outputs, scale, sums);
    }
  }
}

template <bool amx>
void backward(const Sizes& s, const bf16* of_out, const bf16* inputs, const bf16* down, const bf16* up,
              const bf16* middle, const uint32_t* dropped, float scale, bf16* of_inputs, bf16* of_down, bf16* of_up,
              int threads) {
  const int64_t ins = round_up(s.inputs, kPanel), outs = round_up(s.outputs, kPanel);
  thread_local Memory shared;
  bf16* down_right = reuse(shared.down, s.depth() * ins);  // (depth / 2, ins, 2)
  interleave(down_right, padded_copy(shared.plain, down, s.rank, s.inputs, s.depth(), ins), s.depth(), ins, ins);
  bf16* up_right = reuse(shared.up, outs * s.tiles());  // (outs / 2, tiles, 2)
  interleave(up_right, padded_copy(shared.plain, up, s.outputs, s.rank, outs, s.tiles()), outs, s.tiles(), s.tiles());
  // (tiles, ins) and (tiles, outs) of each thread, summed in their order at the end
  float* of_downs = reuse(shared.of_down, threads * s.tiles() * ins);
  float* of_ups = reuse(shared.of_up, threads * s.tiles() * outs);
  std::memset(of_downs, 0, threads * s.tiles() * ins * sizeof(float));
  std::memset(of_ups, 0, threads * s.tiles() * outs * sizeof(float));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    thread_local Memory own;
    const Tiles tiles(amx);
    float* of_down_here = of_downs + omp_get_thread_num() * s.tiles() * ins;
    float* of_up_here = of_ups + omp_get_thread_num() * s.tiles() * outs;
    bf16* panel = reuse(own.panel, kBlock * kPanel);
    bf16* paired = reuse(own.paired, kBlock * kPanel);
    bf16* narrow = reuse(own.narrow, kBlock * s.depth());
    bf16* turned = reuse(own.turned, kBlock * s.tiles());
    float* wide = reuse(own.wide, kBlock * s.tiles());
    float* sums = reuse(own.sums, kBlock * kPanel);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < s.blocks(); ++b) {
      const int64_t first = b * kBlock, count = std::min(kBlock, s.positions - first);
      const uint32_t* marks = dropped ? dropped + first * s.words() : nullptr;
      std::memset(narrow + count * s.depth(), 0, (kBlock - count) * s.depth() * sizeof(bf16));
      for (int64_t i = 0; i < count; ++i)
        copy_row(narrow + i * s.depth(), middle + (first + i) * s.rank, s.rank, s.depth());
      turn(turned, narrow, s);
      for (int64_t j = 0; j < s.outputs; j += kPanel) {
        lay_panel(panel, of_out + first * s.outputs, nullptr, 0, count, s.outputs, j);
        interleave(paired, panel, kBlock, kPanel, kPanel);
        multiply<amx>(s.tiles(), kPanel, kBlock, turned, kBlock, paired, kPanel, of_up_here + j, outs, true);
        multiply<amx>(kBlock, s.tiles(), kPanel, panel, kPanel, up_right + j * s.tiles(), s.tiles(), wide, s.tiles(),
                      j > 0);
      }
      narrow_block(narrow, wide, s, scale);  // the gradient of `middle`
      turn(turned, narrow, s);
      for (int64_t j = 0; j < s.inputs; j += kPanel) {
        lay_panel(panel, inputs + first * s.inputs, marks, s.words(), count, s.inputs, j);
        interleave(paired, panel, kBlock, kPanel, kPanel);
        multiply<amx>(s.tiles(), kPanel, kBlock, turned, kBlock, paired, kPanel, of_down_here + j, ins, true);
      }
      if (of_inputs)
        add_product<amx>(of_inputs + first * s.inputs, narrow, down_right, s, marks, count, s.inputs, 1, sums);
    }
  }
  for (int t = 1; t < threads; ++t) {
    for (int64_t i = 0; i < s.tiles() * ins; ++i) of_downs[i] += of_downs[t * s.tiles() * ins + i];
    for (int64_t i = 0; i < s.tiles() * outs; ++i) of_ups[i] += of_ups[t * s.tiles() * outs + i];
  }
  for (int64_t i = 0; i < s.rank; ++i)
    for (int64_t j = 0; j < s.inputs; j += 16)
      store(of_down + i * s.inputs + j, _mm512_loadu_ps(of_downs + i * ins + j), first_lanes(s.inputs - j));
  const __m512i apart = _mm512_mullo_epi32(_mm512_set1_epi32((int)outs),
                                           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int64_t o = 0; o < s.outputs; ++o)
    for (int64_t j = 0; j < s.rank; j += 16)
      store(of_up + o * s.rank + j,
            _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_i32gather_ps(apart, of_ups + j * outs + o, 4)),
            first_lanes(s.rank - j));
}

}  // namespace
}  // namespace tunesmith

using namespace tunesmith;

// inputs (N, I), down (r, I), up (O, r), out (N, O) is added to, middle (N, r), dropped (N, ceil(I / 32)) or null: bit
// j of word w says that number 32 w + j is dropped. All without gaps. share: of the numbers to drop, to a 65,536th. Both
// return 0 where memory ran out; what a thread takes for itself, below a megabyte, is not watched.
extern "C" int lora(const bf16* inputs, const bf16* down, const bf16* up, int64_t positions, int64_t ins, int64_t outs,
                    int64_t rank, float scale, float share, int64_t seed, bf16* out, bf16* middle, uint32_t* dropped,
                    int threads, int amx) try {
  const Sizes sizes{positions, ins, outs, rank};
  (amx ? forward<true> : forward<false>)(sizes, inputs, down, up, scale, share, seed, out, middle, dropped, threads);
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}

// of_inputs (N, I) is added to, or null; of_down (r, I) and of_up (O, r) are written.
extern "C" int lora_backward(const bf16* of_out, const bf16* inputs, const bf16* down, const bf16* up,
                             const bf16* middle, const uint32_t* dropped, int64_t positions, int64_t ins, int64_t outs,
                             int64_t rank, float scale, bf16* of_inputs, bf16* of_down, bf16* of_up, int threads,
                             int amx) try {
  const Sizes sizes{positions, ins, outs, rank};
  (amx ? backward<true> : backward<false>)(sizes, of_out, inputs, down, up, middle, dropped, scale, of_inputs, of_down,
                                           of_up, threads);
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}
