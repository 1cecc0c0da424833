#include "core/model/init.h"

#include <algorithm>
#include <cmath>

#include "core/base/rng.h"

namespace neox {
namespace {

// Bounds the host memory beside a device's: 64 MiB.
constexpr std::int64_t kStagedElements = std::int64_t{16} << 20;

// Fills `local` (host, f32) with the values of elements [begin, ...) of a slice of a global tensor.
void fill_random(const Shard& shard, std::int64_t begin, Tensor local, InitMethod method,
                 double deviation, std::uint64_t seed) {
  require(shard.global.rank() == 2, "internal error: random initialisation of {} {}", shard.name,
          shard.global.str());
  const RngKey key = RngKey::for_tensor(seed, shard.name);
  const std::int64_t n = local.numel(), cols = shard.slice.extent[1];
  float* out = local.ptr<float>();
  const bool uniform = method == InitMethod::xavier_uniform;
  const float bound = static_cast<float>(deviation * std::sqrt(3.0));
  const float scale = static_cast<float>(deviation);
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = shard.slice.offset[0] + (begin + i) / cols;
    const std::int64_t column = shard.slice.offset[1] + (begin + i) % cols;
    const auto index = static_cast<std::uint64_t>(row * shard.global[1] + column);
    out[i] = uniform ? bound * (2.0f * uniform01(philox_word(key, index)) - 1.0f)
                     : scale * normal_at(key, index);
  }
}

}  // namespace

double init_std(InitMethod method, const ModelConfig& model, const Shape& global) {
  const auto layers = static_cast<double>(model.num_layers);
  const auto hidden = static_cast<double>(model.hidden_size);
  switch (method) {
    case InitMethod::normal:
      return model.init_method_std;
    case InitMethod::scaled_normal:
      return model.init_method_std / std::sqrt(2.0 * layers);
    case InitMethod::single_residual_scaled_normal:
      return model.init_method_std / std::sqrt(layers);
    case InitMethod::small_init:
      return std::sqrt(2.0 / (5.0 * hidden));
    case InitMethod::wang_init:
      return 2.0 / (layers * std::sqrt(hidden));
    case InitMethod::xavier_uniform:
    case InitMethod::xavier_normal:
      return std::sqrt(2.0 / static_cast<double>(global[0] + global[1]));
  }
  fail("internal error: unknown initialisation rule");
}

void initialise_parameters(ParameterStore& store, const ModelConfig& model, std::uint64_t seed,
                           const Backend& ops, Stream& stream) {
  for (ParameterId id = 0; id < store.size(); ++id) {
    const InitRule rule = store.spec(id).init;
    for (const ParameterPiece& piece : store.update_pieces(id)) {
      const Shard shard = store.shard(State::main, id, piece);
      if (rule.kind == InitRule::Kind::zeros) {
        fill_zero(stream, shard.local);
        continue;
      }
      // Computed on the host in f32, where it is the same for every device; in place where
      // possible.
      for (std::int64_t at = 0; at < piece.piece.size; at += kStagedElements) {
        const Tensor part = shard.local.slice(at, std::min(at + kStagedElements, piece.piece.size));
        const bool in_place = part.device.is_cpu() && part.dtype == DType::f32;
        const OwnedTensor staged = in_place ? OwnedTensor() : OwnedTensor(part.shape, DType::f32);
        const Tensor host = in_place ? part : staged.tensor;
        if (rule.kind == InitRule::Kind::ones) {
          for (float& x : host.span<float>()) x = 1.0f;
        } else {
          fill_random(shard, piece.begin + at, host, rule.method,
                      init_std(rule.method, model, shard.global), seed);
        }
        if (in_place) continue;
        const OwnedTensor moved(part.shape, DType::f32, part.device);
        copy(stream, host, moved);
        ops.cast(stream, moved, part);
        stream.synchronize();
      }
    }
  }
  store.refresh_weights(ops, stream);
}

}  // namespace neox
