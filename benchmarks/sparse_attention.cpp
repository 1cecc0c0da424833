// What windows and block patterns save: attention of 12 heads of 64 channels over one long
// sequence, forward and backward, next to global attention in the same run. "tiles": the share of
// the causal tiles of 64 queries x 128 keys that hold any visible pair; "pairs": that of the
// visible pairs.
//   bench_sparse_attention [LENGTH [REPETITIONS]]      (threads: OMP_NUM_THREADS)
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "core/config/attention_kinds.h"
#include "core/model/block_patterns.h"
#include "core/tensor/buffer.h"
#include "kernels/cpu/attention.h"

namespace {

using namespace neox;

constexpr std::int64_t kHeads = 12, kDim = 64;

struct Form {
  std::string name;
  AttentionKind kind = AttentionKind::global;
  std::int64_t window = 0, block = 64;
};

struct Shares {
  double tiles = 0, pairs = 0;
};

Shares shares(const MaskView& mask, std::int64_t length) {
  double tiles = 0, kept_tiles = 0, pairs = 0, kept_pairs = 0;
  const auto n = static_cast<std::int32_t>(length);
  for (std::int32_t i = 0; i < n; i += 64) {
    const std::int32_t last = std::min(i + 64, n) - 1;
    for (std::int32_t j = 0; j <= last; j += 128) {
      ++tiles;
      const std::int32_t last_key = std::min(j + 127, last);
      const bool kept = mask.first_key(0, i) <= last_key && mask.keeps_any(0, i, last, j, last_key);
      kept_tiles += kept ? 1 : 0;
    }
    for (std::int32_t query = i; query <= last; ++query) {
      pairs += query + 1;
      for (std::int32_t j = mask.first_key(0, query); j <= query; ++j) {
        kept_pairs += mask.keeps(0, query, j) ? 1 : 0;
      }
    }
  }
  return {kept_tiles / tiles, kept_pairs / pairs};
}

class Benchmark {
 public:
  Benchmark(std::int64_t length, int repetitions)
      : length_(length),
        repetitions_(repetitions),
        qkv_({length, 3 * kHeads * kDim}, DType::f32),
        dqkv_({length, 3 * kHeads * kDim}, DType::f32),
        out_({length, kHeads * kDim}, DType::f32),
        lse_({1, kHeads, length}, DType::f32) {
    float x = 0.5f;
    for (float& value : qkv_.tensor.span<float>()) {
      value = x = 3.7f * x * (1.0f - x);  // chaotic, in (0, 1)
    }
  }

  void run(const Form& form) {
    AttentionProblem p{1, length_, length_, kHeads, kHeads, kDim, 0.125f};
    p.mask.window = form.window;
    const BlockPatterns patterns = patterns_of(form);
    p.mask.pattern = patterns.of(form.kind);
    const OwnedTensor workspace({static_cast<std::int64_t>(cpu::attention_backward_workspace(p))},
                                DType::u8);
    const auto heads = [&](const OwnedTensor& t, std::int64_t part) {
      return Heads(t, length_, part * kHeads * kDim, kDim);
    };
    double forward = 1e30, backward = 1e30;
    for (int i = 0; i < repetitions_; ++i) {
      forward = std::min(forward, seconds([&] {
                           cpu::attention_forward(p, heads(qkv_, 0), heads(qkv_, 1), heads(qkv_, 2),
                                                  out_, lse_);
                         }));
      backward = std::min(backward, seconds([&] {
                            cpu::attention_backward(
                                p, heads(qkv_, 0), heads(qkv_, 1), heads(qkv_, 2), out_, lse_, out_,
                                heads(dqkv_, 0), heads(dqkv_, 1), heads(dqkv_, 2), workspace);
                          }));
    }
    if (global_forward_ == 0) {
      global_forward_ = forward;
      global_backward_ = backward;
    }
    const Shares share = shares(
        mask_view(p.mask, Device{}, p.batch, p.heads, p.query_length, p.key_length), length_);
    fmt::print("{:<28} {:6.1f} % {:6.1f} %   {:8.4f} s {:5.1f} %   {:8.4f} s {:5.1f} %\n",
               form.name, 100 * share.tiles, 100 * share.pairs, forward,
               100 * forward / global_forward_, backward, 100 * backward / global_backward_);
  }

 private:
  template <class F>
  static double seconds(const F& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  BlockPatterns patterns_of(const Form& form) const {
    ModelConfig m;
    m.num_layers = 1;
    m.hidden_size = kHeads * kDim;
    m.num_attention_heads = kHeads;
    m.max_position_embeddings = length_;
    m.sparse_block = form.block;
    m.sliding_window_width = form.window;
    if (is_sparse(form.kind)) m.attention_config = {std::string(name_of(form.kind))};
    const auto stream = make_stream(Device{});
    return {m, {0, kHeads}, Device{}, *stream, false};
  }

  std::int64_t length_;
  int repetitions_;
  OwnedTensor qkv_, dqkv_, out_, lse_;
  double global_forward_ = 0, global_backward_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t length = argc > 1 ? std::atoll(argv[1]) : 8192;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 3;
  Benchmark benchmark(length, repetitions);
  fmt::print("{} tokens, {} heads of {} channels, f32; best of {}; per cent of global attention\n",
             length, kHeads, kDim, repetitions);
  fmt::print("{:<28} {:>8} {:>8}   {:>18}   {:>18}\n", "", "tiles", "pairs", "forward", "backward");
  using K = AttentionKind;
  const std::vector<Form> forms = {{"global"},
                                   {"window of 256", K::window, 256},
                                   {"window of 1024", K::window, 1024},
                                   {"window of 4096", K::window, 4096},
                                   {"local, blocks of 64", K::local},
                                   {"sparse_fixed, blocks of 64", K::sparse_fixed},
                                   {"sparse_fixed, blocks of 16", K::sparse_fixed, 0, 16},
                                   {"sparse_variable, blocks of 64", K::sparse_variable},
                                   {"bigbird, blocks of 64", K::bigbird},
                                   {"bslongformer, blocks of 128", K::bslongformer, 0, 128}};
  for (const Form& form : forms) benchmark.run(form);
  return 0;
}
