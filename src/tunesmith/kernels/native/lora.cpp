// The adapters' part of linear layers with LoRA that read the same inputs, in bfloat16 with sums in float32: what is
// added to the frozen layers' products, their gradients, and dropout on the way.
//
// N positions, I inputs, O outputs, r rank. With x the inputs, M what dropout leaves of them, A (r, I) and B (O, r):
//   out += scale * middle B.T          middle = (M * x) A.T
//   of_B = scale * of_out.T middle     of_middle = scale * of_out B
//   of_A = of_middle.T (M * x)         of_x += M * (of_middle A)
// All but x are those of each layer, and of_x is their sum. Each pass goes through the positions once, in blocks that
// stay in the caches: those of x and of_x are read and written once for all layers.

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

struct Layer {
  int64_t outputs, rank;
  const bf16 *down, *up;
  float scale;
  int64_t tile, deep, start;  // how many tiles(), depth() and room() the layers before it have
  int64_t tiles() const { return round_up(rank, 16); }  // the rank as rows or columns of a product,
  int64_t depth() const { return round_up(rank, 32); }  // and as what it sums over
  int64_t outs() const { return round_up(outputs, kPanel); }
  int64_t room() const { return outs() * depth(); }  // for `up`, however it is laid
};

struct Layers {
  int64_t positions, inputs, tiles = 0, depth = 0, room = 0;
  std::vector<Layer> each;
  Layers(int64_t positions, int64_t inputs, int64_t count, const int64_t* outputs, const int64_t* ranks,
         const bf16* const* downs, const bf16* const* ups, const float* scales)
      : positions(positions), inputs(inputs) {
    for (int64_t l = 0; l < count; ++l) {
      each.push_back({outputs[l], ranks[l], downs[l], ups[l], scales[l], tiles, depth, room});
      tiles += each[l].tiles();
      depth += each[l].depth();
      room += each[l].room();
    }
  }
  int64_t ins() const { return round_up(inputs, kPanel); }
  int64_t words() const { return (inputs + 31) / 32; }  // of 32 bits in a row of what is dropped
  int64_t blocks() const { return (positions + kBlock - 1) / kBlock; }
};

// Layers that are computed as one, because they drop the same: nothing (null), or each what it drew itself.
struct Part {
  int64_t tile, tiles, deep, depth;
  uint32_t* dropped;
};

std::vector<Part> parts_of(const Layers& layers, uint32_t* const* dropped) {
  if (!dropped[0]) return {{0, layers.tiles, 0, layers.depth, nullptr}};
  std::vector<Part> parts;
  for (const Layer& l : layers.each)
    parts.push_back({l.tile, l.tiles(), l.deep, l.depth(), dropped[parts.size()]});
  return parts;
}

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

// (rows, columns) -> (padded_rows, padded) with zeros around.
void lay(bf16* to, const bf16* from, int64_t rows, int64_t columns, int64_t padded_rows, int64_t padded) {
  for (int64_t i = 0; i < rows; ++i) copy_row(to + i * padded, from + i * columns, columns, padded);
  std::memset(to + rows * padded, 0, (padded_rows - rows) * padded * sizeof(bf16));
}

// factor * (kBlock, tiles) -> (kBlock, depth) of rows with `row` numbers, zeros between.
void narrow_block(bf16* to, int64_t row, const float* from, int64_t from_row, const Layer& layer, float factor) {
  for (int64_t i = 0; i < kBlock; ++i) {
    std::memset(to + i * row, 0, layer.depth() * sizeof(bf16));
    for (int64_t j = 0; j < layer.tiles(); j += 16)
      store(to + i * row + j, _mm512_mul_ps(_mm512_set1_ps(factor), _mm512_loadu_ps(from + i * from_row + j)));
  }
}

// (kBlock, depth) of rows with `row` numbers -> (tiles, kBlock).
void turn(bf16* to, const bf16* from, int64_t row, const Layer& layer) {
  for (int64_t j = 0; j < layer.tiles(); ++j)
    for (int64_t i = 0; i < kBlock; ++i) to[j * kBlock + i] = from[i * row + j];
}

// to += factor * products, of each part where it drops nothing. to: (count, columns), of which the columns from `panel`
// on are meant; products: of each part (kBlock, kPanel). `first`: the position of the first row.
void add_kept(bf16* to, const float* products, const std::vector<Part>& parts, int64_t words, int64_t first,
              int64_t count, int64_t columns, int64_t panel, float factor) {
  const __m512 by = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = panel; j < std::min(panel + kPanel, columns); j += 16) {
      const __mmask16 lanes = first_lanes(columns - j);
      bf16* at = to + i * columns + j;
      __m512 sum = load(at, lanes);
      const float* product = products + i * kPanel + j - panel;
      for (const Part& part : parts) {
        const uint32_t bits = part.dropped ? part.dropped[(first + i) * words + j / 32] >> (j % 32) : 0;
        sum = _mm512_mask3_fmadd_ps(_mm512_loadu_ps(product), by, sum, (__mmask16)~bits);
        product += kBlock * kPanel;
      }
      store(at, sum, lanes);
    }
  }
}

struct Memory {
  std::vector<bf16> plain, down, up, panel, paired, narrow, turned;
  std::vector<float> wide, sums, of_down, of_up;
};

template <bool amx>
void forward(const Layers& s, const bf16* inputs, float share, const int64_t* seeds, bf16* const* outs,
             bf16* const* middles, uint32_t* const* dropped, int threads) {
  const int64_t ins = s.ins(), words = s.words();
  const std::vector<Part> parts = parts_of(s, dropped), all = {{0, s.tiles, 0, s.depth, nullptr}};
  thread_local Memory shared;
  bf16* plain = reuse(shared.plain, std::max(s.tiles * ins, s.room));
  bf16* down_right = reuse(shared.down, ins * s.tiles);  // (ins / 2, tiles, 2)
  bf16* up_right = reuse(shared.up, s.room);             // of each layer (depth / 2, outs, 2)
  for (const Layer& l : s.each) lay(plain + l.tile * ins, l.down, l.rank, s.inputs, l.tiles(), ins);
  interleave_transpose(down_right, plain, s.tiles, ins);
  for (const Layer& l : s.each) {
    lay(plain, l.up, l.outputs, l.rank, l.outs(), l.depth());
    interleave_transpose(up_right + l.start, plain, l.outs(), l.depth());
  }
  const __m512i threshold = _mm512_set1_epi16((short)(int)(share * 65536 + 0.5f));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    thread_local Memory own;
    const Tiles tiles(amx);
    bf16* panel = reuse(own.panel, kBlock * kPanel);
    bf16* narrow = reuse(own.narrow, kBlock * s.depth);
    float* wide = reuse(own.wide, kBlock * s.tiles);
    float* sums = reuse(own.sums, kBlock * kPanel);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < s.blocks(); ++b) {
      const int64_t first = b * kBlock, count = std::min(kBlock, s.positions - first);
      for (size_t p = 0; p < parts.size() && parts[p].dropped; ++p) {
        Random random(seeds[p], b);
        for (int64_t i = first * words; i < (first + count) * words; ++i)
          parts[p].dropped[i] = random.dropped(threshold);
      }
      for (int64_t j = 0; j < s.inputs; j += kPanel) {
        for (const Part& part : parts) {
          const uint32_t* marks = part.dropped ? part.dropped + first * words : nullptr;
          lay_panel(panel, inputs + first * s.inputs, marks, words, count, s.inputs, j);
          multiply<amx>(kBlock, part.tiles, kPanel, panel, kPanel, down_right + j * s.tiles + 2 * part.tile, s.tiles,
                        wide + part.tile, s.tiles, j > 0);
        }
      }
      for (size_t l = 0; l < s.each.size(); ++l) {
        const Layer& layer = s.each[l];
        narrow_block(narrow, layer.depth(), wide + layer.tile, s.tiles, layer, 1);
        for (int64_t i = 0; i < count; ++i)
          std::memcpy(middles[l] + (first + i) * layer.rank, narrow + i * layer.depth(), layer.rank * sizeof(bf16));
        for (int64_t j = 0; j < layer.outputs; j += kPanel) {
          multiply<amx>(kBlock, kPanel, layer.depth(), narrow, layer.depth(), up_right + layer.start + 2 * j,
                        layer.outs(), sums, kPanel, false);
          add_kept(outs[l] + first * layer.outputs, sums, all, 0, first, count, layer.outputs, j, layer.scale);
        }
      }
    }
  }
}

template <bool amx>
void backward(const Layers& s, const bf16* const* of_outs, const bf16* inputs, const bf16* const* middles,
              uint32_t* const* dropped, bf16* of_inputs, bf16* const* of_downs, bf16* const* of_ups, int threads) {
  const int64_t ins = s.ins(), words = s.words();
  const std::vector<Part> parts = parts_of(s, dropped);
  thread_local Memory shared;
  bf16* plain = reuse(shared.plain, std::max(s.depth * ins, s.room));
  bf16* down_right = reuse(shared.down, s.depth * ins);  // (depth / 2, ins, 2)
  bf16* up_right = reuse(shared.up, s.room);             // of each layer (outs / 2, tiles, 2)
  for (const Layer& l : s.each) lay(plain + l.deep * ins, l.down, l.rank, s.inputs, l.depth(), ins);
  interleave(down_right, plain, s.depth, ins, ins);
  for (const Layer& l : s.each) {
    lay(plain, l.up, l.outputs, l.rank, l.outs(), l.tiles());
    interleave(up_right + l.start, plain, l.outs(), l.tiles(), l.tiles());
  }
  // (tiles, ins), and (tiles, outs) of each layer, of each thread; summed in their order at the end
  float* all_of_down = reuse(shared.of_down, threads * s.tiles * ins);
  float* all_of_up = reuse(shared.of_up, threads * s.room);
  std::memset(all_of_down, 0, threads * s.tiles * ins * sizeof(float));
  std::memset(all_of_up, 0, threads * s.room * sizeof(float));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    thread_local Memory own;
    const Tiles tiles(amx);
    float* of_down = all_of_down + omp_get_thread_num() * s.tiles * ins;
    float* of_up = all_of_up + omp_get_thread_num() * s.room;
    bf16* panel = reuse(own.panel, kBlock * kPanel);
    bf16* paired = reuse(own.paired, kBlock * kPanel);
    bf16* narrow = reuse(own.narrow, kBlock * s.depth);
    bf16* turned = reuse(own.turned, kBlock * s.tiles);
    float* wide = reuse(own.wide, kBlock * s.tiles);
    float* sums = reuse(own.sums, (int64_t)parts.size() * kBlock * kPanel);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < s.blocks(); ++b) {
      const int64_t first = b * kBlock, count = std::min(kBlock, s.positions - first);
      std::memset(narrow + count * s.depth, 0, (kBlock - count) * s.depth * sizeof(bf16));
      for (size_t l = 0; l < s.each.size(); ++l) {
        const Layer& layer = s.each[l];
        bf16 *narrow_here = narrow + layer.deep, *turned_here = turned + layer.tile * kBlock;
        for (int64_t i = 0; i < count; ++i)
          copy_row(narrow_here + i * s.depth, middles[l] + (first + i) * layer.rank, layer.rank, layer.depth());
        turn(turned_here, narrow_here, s.depth, layer);
        for (int64_t j = 0; j < layer.outputs; j += kPanel) {
          lay_panel(panel, of_outs[l] + first * layer.outputs, nullptr, 0, count, layer.outputs, j);
          interleave(paired, panel, kBlock, kPanel, kPanel);
          multiply<amx>(layer.tiles(), kPanel, kBlock, turned_here, kBlock, paired, kPanel, of_up + layer.start + j,
                        layer.outs(), true);
          multiply<amx>(kBlock, layer.tiles(), kPanel, panel, kPanel, up_right + layer.start + j * layer.tiles(),
                        layer.tiles(), wide, layer.tiles(), j > 0);
        }
        narrow_block(narrow_here, s.depth, wide, layer.tiles(), layer, layer.scale);  // the gradient of `middle`
        turn(turned_here, narrow_here, s.depth, layer);
      }
      for (int64_t j = 0; j < s.inputs; j += kPanel) {
        for (const Part& part : parts) {
          const uint32_t* marks = part.dropped ? part.dropped + first * words : nullptr;
          lay_panel(panel, inputs + first * s.inputs, marks, words, count, s.inputs, j);
          interleave(paired, panel, kBlock, kPanel, kPanel);
          multiply<amx>(part.tiles, kPanel, kBlock, turned + part.tile * kBlock, kBlock, paired, kPanel,
                        of_down + part.tile * ins + j, ins, true);
        }
      }
      for (int64_t j = 0; of_inputs && j < s.inputs; j += kPanel) {
        for (size_t p = 0; p < parts.size(); ++p)
          multiply<amx>(kBlock, kPanel, parts[p].depth, narrow + parts[p].deep, s.depth,
                        down_right + parts[p].deep * ins + 2 * j, ins, sums + p * kBlock * kPanel, kPanel, false);
        add_kept(of_inputs + first * s.inputs, sums, parts, words, first, count, s.inputs, j, 1);
      }
    }
  }
  for (int t = 1; t < threads; ++t) {
    for (int64_t i = 0; i < s.tiles * ins; ++i) all_of_down[i] += all_of_down[t * s.tiles * ins + i];
    for (int64_t i = 0; i < s.room; ++i) all_of_up[i] += all_of_up[t * s.room + i];
  }
  for (size_t l = 0; l < s.each.size(); ++l) {
    const Layer& layer = s.each[l];
    const float *of_down = all_of_down + layer.tile * ins, *of_up = all_of_up + layer.start;
    for (int64_t i = 0; i < layer.rank; ++i)
      for (int64_t j = 0; j < s.inputs; j += 16)
        store(of_downs[l] + i * s.inputs + j, _mm512_loadu_ps(of_down + i * ins + j), first_lanes(s.inputs - j));
    const __m512i apart = _mm512_mullo_epi32(_mm512_set1_epi32((int)layer.outs()),
                                             _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (int64_t o = 0; o < layer.outputs; ++o)
      for (int64_t j = 0; j < layer.rank; j += 16)
        store(of_ups[l] + o * layer.rank + j,
              _mm512_mul_ps(_mm512_set1_ps(layer.scale), _mm512_i32gather_ps(apart, of_up + j * layer.outs() + o, 4)),
              first_lanes(layer.rank - j));
  }
}

}  // namespace
}  // namespace tunesmith

using namespace tunesmith;

// Of `count` layers: downs (r, I), ups (O, r), outs (N, O) are added to, middles (N, r), dropped (N, ceil(I / 32)) or
// null in all: bit j of word w says that number 32 w + j is dropped. inputs: (N, I). All without gaps. share: of the
// numbers to drop, to a 65,536th. Both return 0 where memory ran out; what a thread takes for itself, below a megabyte,
// is not watched.
extern "C" int lora(const bf16* inputs, int64_t positions, int64_t ins, int64_t count, const int64_t* outputs,
                    const int64_t* ranks, const bf16* const* downs, const bf16* const* ups, const float* scales,
                    float share, const int64_t* seeds, bf16* const* outs, bf16* const* middles,
                    uint32_t* const* dropped, int threads, int amx) try {
  const Layers layers(positions, ins, count, outputs, ranks, downs, ups, scales);
  (amx ? forward<true> : forward<false>)(layers, inputs, share, seeds, outs, middles, dropped, threads);
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}

// of_inputs (N, I) is added to, or null; of_downs (r, I) and of_ups (O, r) are written.
extern "C" int lora_backward(const bf16* inputs, int64_t positions, int64_t ins, int64_t count, const int64_t* outputs,
                             const int64_t* ranks, const bf16* const* downs, const bf16* const* ups,
                             const float* scales, const bf16* const* of_outs, const bf16* const* middles,
                             uint32_t* const* dropped, bf16* of_inputs, bf16* const* of_downs, bf16* const* of_ups,
                             int threads, int amx) try {
  const Layers layers(positions, ins, count, outputs, ranks, downs, ups, scales);
  (amx ? backward<true> : backward<false>)(layers, of_outs, inputs, middles, dropped, of_inputs, of_downs, of_ups,
                                           threads);
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}
