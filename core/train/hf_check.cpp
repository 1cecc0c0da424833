#include "core/train/hf_check.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/base/format.h"
#include "core/train/preflight_host.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox {
namespace {

constexpr std::int64_t kTokens = 32;
constexpr double kTolerance = 1e-5;  // of the largest logit

// First and last id of the vocabulary, and ids between.
std::vector<std::int32_t> fixed_tokens(const ModelConfig& model) {
  const std::int64_t n = std::min(kTokens, model.max_position_embeddings);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t id = n == 1 ? 0 : i * 7 % n * (model.vocab_size - 1) / (n - 1);
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

}  // namespace

std::vector<float> check_logits(const ModelConfig& model, const WeightLoader& load) {
  const Device device{};
  const auto ops = make_backend(device);
  const auto stream = make_stream(device);
  Transformer transformer(model);
  transformer.commit(*ops, *stream, DType::f32, StoreMode::inference);
  load(transformer, *ops, *stream);
  std::vector<std::int32_t> ids = fixed_tokens(model), positions;
  const auto n = static_cast<std::int64_t>(ids.size());
  for (std::int32_t i = 0; i < n; ++i) positions.push_back(i);
  MicroBatchView batch{1, n, 0};
  batch.ids = host_view(ids);
  batch.positions = host_view(positions);
  Arena keep(device), recompute(device), scratch(device);
  const Shape shape{n, model.padded_vocab_size()};
  {
    const DryRunBackend dry(device, *ops);
    Transformer twin(model);
    twin.commit(dry, *stream, DType::f32, StoreMode::inference, true);
    MicroBatchView measured = batch;
    measured.ids = measured.positions = Tensor(nullptr, {n}, DType::i32, device);
    twin.logits({dry, *stream, keep, recompute, scratch}, measured,
                Tensor(nullptr, shape, DType::f32, device));
    keep.commit();
    recompute.commit();
    scratch.commit();
  }
  const OwnedTensor out(shape, DType::f32);
  transformer.logits({*ops, *stream, keep, recompute, scratch}, batch, out);
  stream->synchronize();
  std::vector<float> logits;
  for (std::int64_t row = 0; row < n; ++row) {  // without the vocabulary's padding
    const float* values = out.tensor.ptr<float>() + row * shape[1];
    logits.insert(logits.end(), values, values + model.vocab_size);
  }
  return logits;
}

void require_memory_for_check(const ModelConfig& model) {
  const auto needed = static_cast<std::uint64_t>(count_parameters(model)) * sizeof(float) +
                      (std::uint64_t{512} << 20);
  const std::int64_t available = memory_available();
  require(available < 0 || needed <= static_cast<std::uint64_t>(available),
          "the self-check computes with the whole model in float32, which needs {}; {} are free. "
          "Use a machine with more memory, or --skip-check, with which only the tensors' names and "
          "shapes are checked",
          format_bytes(needed), format_bytes(static_cast<std::uint64_t>(available)));
}

LogitDifference measure_difference(const std::vector<float>& before,
                                   const std::vector<float>& after) {
  require(before.size() == after.size(), "internal error: {} logits before, {} after",
          before.size(), after.size());
  LogitDifference result;
  for (std::size_t i = 0; i < before.size(); ++i) {
    result.finite = result.finite && std::isfinite(before[i]) && std::isfinite(after[i]);
    result.difference = std::max(result.difference, std::abs(double{before[i]} - double{after[i]}));
    result.magnitude = std::max(result.magnitude, std::abs(double{before[i]}));
  }
  return result;
}

std::string compare_logits(const std::vector<float>& before, const std::vector<float>& after) {
  const LogitDifference d = measure_difference(before, after);
  require(d.finite,
          "self-check: the model's logits are not finite (before or after the conversion); nothing "
          "was written");
  require(d.difference <= kTolerance * d.magnitude,
          "self-check failed: the logits differ by {:.3g} (largest logit {:.3g}) before and after "
          "the conversion; nothing was written",
          d.difference, d.magnitude);
  return fmt::format("largest difference {:.3g} of {} logits up to {:.3g}", d.difference,
                     before.size(), d.magnitude);
}

}  // namespace neox
