// Norms, gates, GELU, rotary positions and the softmax of a loss in one pass each: bfloat16 in memory, float32 in registers,
// rounded where the formulas in transformers round.

#include <cmath>

#include "simd.h"

using namespace tunesmith;

namespace {

inline __m512 rounded(__m512 wide) { return widen(narrow(wide)); }

// x / (1 + exp(-x))
inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1);
  return _mm512_div_ps(one, _mm512_add_ps(one, tunesmith::exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// Of the approximation of GELU: Hendrycks & Gimpel 2016, arXiv:1606.08415.
constexpr float kRoot = 0.7978845608f;  // sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

// sigmoid(2 u) with u = sqrt(2 / pi) * (x + 0.044715 x^3)
inline __m512 gelu_share(__m512 x) {
  const __m512 one = _mm512_set1_ps(1);
  const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(kCubic), one);
  return sigmoid(_mm512_mul_ps(_mm512_mul_ps(x, cubic), _mm512_set1_ps(2 * kRoot)));
}

}  // namespace

// out = round(inputs * scale) * weight with scale = 1 / sqrt(mean(inputs^2) + eps). inputs, out: (rows, width); weight:
// (width,); scales: (rows,) float32.
extern "C" void rms_norm(const bf16* inputs, const bf16* weight, int64_t rows, int64_t width, float eps, bf16* out,
                         float* scales, int threads, int) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < rows; ++i) {
    const bf16* row = inputs + i * width;
    __m512 squares = _mm512_setzero_ps();
    for (int64_t j = 0; j < width; j += 16) {
      const __m512 x = load(row + j, first_lanes(width - j));
      squares = _mm512_fmadd_ps(x, x, squares);
    }
    const float scale = 1 / std::sqrt(_mm512_reduce_add_ps(squares) / width + eps);
    scales[i] = scale;
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 lanes = first_lanes(width - j);
      const __m512 normed = rounded(_mm512_mul_ps(load(row + j, lanes), _mm512_set1_ps(scale)));
      store(out + i * width + j, _mm512_mul_ps(normed, load(weight + j, lanes)), lanes);
    }
  }
}

// of_inputs = scale * (e - inputs * mean(e * inputs) * scale^2) with e = round(of_out * weight).
extern "C" void rms_norm_backward(const bf16* of_out, const bf16* inputs, const bf16* weight, const float* scales,
                                  int64_t rows, int64_t width, bf16* of_inputs, int threads, int) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < rows; ++i) {
    const bf16 *errors = of_out + i * width, *row = inputs + i * width;
    __m512 along = _mm512_setzero_ps();
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 lanes = first_lanes(width - j);
      const __m512 e = rounded(_mm512_mul_ps(load(errors + j, lanes), load(weight + j, lanes)));
      along = _mm512_fmadd_ps(e, load(row + j, lanes), along);
    }
    const float scale = scales[i], share = _mm512_reduce_add_ps(along) / width * scale * scale * scale;
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 lanes = first_lanes(width - j);
      const __m512 e = rounded(_mm512_mul_ps(load(errors + j, lanes), load(weight + j, lanes)));
      store(of_inputs + i * width + j,
            _mm512_fnmadd_ps(load(row + j, lanes), _mm512_set1_ps(share), _mm512_mul_ps(e, _mm512_set1_ps(scale))),
            lanes);
    }
  }
}

// out = round(silu(gate)) * up, `count` numbers.
extern "C" void silu_product(const bf16* gate, const bf16* up, int64_t count, bf16* out, int threads, int) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 x = load(gate + i, lanes);
    store(out + i, _mm512_mul_ps(rounded(_mm512_mul_ps(x, sigmoid(x))), load(up + i, lanes)), lanes);
  }
}

// of_gate = of_out * up * s * (1 + gate * (1 - s)) with s = sigmoid(gate); of_up = of_out * round(silu(gate)).
extern "C" void silu_product_backward(const bf16* of_out, const bf16* gate, const bf16* up, int64_t count,
                                      bf16* of_gate, bf16* of_up, int threads, int) {
  const __m512 one = _mm512_set1_ps(1);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 x = load(gate + i, lanes), error = load(of_out + i, lanes), s = sigmoid(x);
    const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one));
    store(of_gate + i, _mm512_mul_ps(rounded(_mm512_mul_ps(error, load(up + i, lanes))), slope), lanes);
    store(of_up + i, _mm512_mul_ps(error, rounded(_mm512_mul_ps(x, s))), lanes);
  }
}

// out = gelu(inputs), `count` numbers, by its approximation with tanh: x / 2 * (1 + tanh(u)) = x * sigmoid(2 u) with
// u = sqrt(2 / pi) * (x + 0.044715 x^3).
extern "C" void gelu(const bf16* inputs, int64_t count, bf16* out, int threads, int) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 x = load(inputs + i, lanes);
    store(out + i, _mm512_mul_ps(x, gelu_share(x)), lanes);
  }
}

// of_inputs = of_out * (s + x * s * (1 - s) * 2 u') with s = sigmoid(2 u).
extern "C" void gelu_backward(const bf16* of_out, const bf16* inputs, int64_t count, bf16* of_inputs, int threads,
                              int) {
  const __m512 one = _mm512_set1_ps(1);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 x = load(inputs + i, lanes), s = gelu_share(x);
    const __m512 steepness = _mm512_mul_ps(
        _mm512_set1_ps(2 * kRoot), _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(3 * kCubic), one));
    const __m512 curve = _mm512_mul_ps(_mm512_mul_ps(x, s), _mm512_mul_ps(_mm512_sub_ps(one, s), steepness));
    store(of_inputs + i, _mm512_mul_ps(load(of_out + i, lanes), _mm512_add_ps(s, curve)), lanes);
  }
}

// Rotary positions: with (a, b) the halves of a head, out = (a cos - b sin, b cos' + a sin'), cos and cos' being the
// halves of `cosine`. back: the gradient, which is the transpose of that. inputs: (tokens, heads, width), `token` and
// `head` numbers from one to the next; cosine, sine: (tokens, width); out: as inputs without gaps. width is even.
extern "C" void rotate(const bf16* inputs, const bf16* cosine, const bf16* sine, int64_t tokens, int64_t heads,
                       int64_t width, int64_t token, int64_t head, int64_t back, bf16* out, int threads, int) {
  const int64_t half = width / 2;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t t = 0; t < tokens; ++t) {
    const bf16 *c = cosine + t * width, *s = sine + t * width;
    for (int64_t h = 0; h < heads; ++h) {
      const bf16* from = inputs + t * token + h * head;
      bf16* to = out + (t * heads + h) * width;
      for (int64_t j = 0; j < half; j += 16) {
        const __mmask16 lanes = first_lanes(half - j);
        const __m512 a = load(from + j, lanes), b = load(from + half + j, lanes);
        const __m512 s1 = load(s + j, lanes), s2 = load(s + half + j, lanes);
        const __m512 first = _mm512_mul_ps(a, load(c + j, lanes)), second = _mm512_mul_ps(b, load(c + half + j, lanes));
        store(to + j, back ? _mm512_fmadd_ps(b, s2, first) : _mm512_fnmadd_ps(b, s1, first), lanes);
        store(to + half + j, back ? _mm512_fnmadd_ps(a, s1, second) : _mm512_fmadd_ps(a, s2, second), lanes);
      }
    }
  }
}

// nll = -log softmax(logits)[targets]; unless only_nll, logits become softmax(logits) - onehot(targets). logits:
// (rows, width); targets: (rows,); nll: (rows,) float32.
extern "C" void softmax_errors(bf16* logits, const int64_t* targets, int64_t rows, int64_t width, int64_t only_nll,
                               float* nll, int threads, int) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < rows; ++i) {
    bf16* row = logits + i * width;
    __m512 high = _mm512_set1_ps(-INFINITY);
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 lanes = first_lanes(width - j);
      high = _mm512_mask_max_ps(high, lanes, high, load(row + j, lanes));
    }
    const float largest = _mm512_reduce_max_ps(high);
    __m512 total = _mm512_setzero_ps();
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 lanes = first_lanes(width - j);
      const __m512 e = tunesmith::exp(_mm512_sub_ps(load(row + j, lanes), _mm512_set1_ps(largest)));
      total = _mm512_mask_add_ps(total, lanes, total, e);
    }
    const float log_sum = largest + std::log(_mm512_reduce_add_ps(total));
    const float target = _mm512_cvtss_f32(load(row + targets[i], 1));
    nll[i] = log_sum - target;
    if (only_nll) continue;
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 lanes = first_lanes(width - j);
      store(row + j, tunesmith::exp(_mm512_sub_ps(load(row + j, lanes), _mm512_set1_ps(log_sum))), lanes);
    }
    store(row + targets[i], _mm512_set1_ps(std::exp(target - log_sum) - 1), 1);
  }
}
