#include "core/model/generator.h"

#include <algorithm>

#include "kernels/dry_run/dry_run_backend.h"

namespace neox {
namespace {

ConstTensor host_view(std::span<const std::int32_t> values) {
  return {reinterpret_cast<const std::byte*>(values.data()),
          Shape{static_cast<std::int64_t>(values.size())}, DType::i32, Device{}};
}

}  // namespace

Generator::Generator(Transformer& model, const Backend& ops, Stream& stream,
                     std::int64_t max_length)
    : model_(model),
      ops_(ops),
      stream_(stream),
      max_length_(max_length),
      keep_(ops.device()),
      recompute_(ops.device()),
      scratch_(ops.device()) {
  const ModelConfig& m = model.config();
  require(max_length > 0 && max_length <= m.max_position_embeddings,
          "the model's context is {} tokens; {} were asked for", m.max_position_embeddings,
          max_length);
  const Shape cache{1, max_length, m.num_kv_heads * m.head_dim()};
  const DType dtype = model.parameters().compute_dtype();
  for (std::int64_t i = 0; i < m.num_layers; ++i) {
    cache_memory_.emplace_back(cache, dtype, ops.device());
    const Tensor keys = cache_memory_.back();
    cache_memory_.emplace_back(cache, dtype, ops.device());
    caches_.push_back({keys, cache_memory_.back(), 0});
  }
  ids_ = OwnedTensor({max_length}, DType::i32, ops.device());
  positions_ = OwnedTensor({max_length}, DType::i32, ops.device());
  logits_ = OwnedTensor({1, m.padded_vocab_size()}, DType::f32, ops.device());
  host_logits_ = OwnedTensor({1, m.padded_vocab_size()}, DType::f32);
  sequence_.reserve(static_cast<std::size_t>(max_length));
  host_positions_.reserve(static_cast<std::size_t>(max_length));
  measure();
}

void Generator::measure() {
  const DryRunBackend dry(ops_.device(), ops_);
  Transformer twin(model_.config());
  twin.commit(dry, stream_, model_.parameters().compute_dtype(), StoreMode::inference, true);
  MicroBatchView batch{1, max_length_, 0};
  batch.ids = batch.positions = Tensor(nullptr, {max_length_}, DType::i32, ops_.device());
  std::vector<KvCache> caches = caches_;
  for (KvCache& cache : caches) cache.keys.data = cache.values.data = nullptr;
  Tensor logits = logits_;
  logits.data = nullptr;
  twin.next_token_logits(execution(dry), batch, caches, logits);
  keep_.commit();
  scratch_.commit();
}

Execution Generator::execution(const Backend& ops) {
  return {ops, stream_, keep_, recompute_, scratch_};
}

void Generator::check_prompt(std::span<const std::int32_t> prompt) const {
  require(!prompt.empty(), "a prompt needs at least one token");
  require(static_cast<std::int64_t>(prompt.size()) < max_length_,
          "the prompt has {} tokens, but the model's context is {}; shorten the prompt",
          prompt.size(), max_length_);
  for (const std::int32_t id : prompt) {
    require(
        id >= 0 && id < model_.config().vocab_size,
        "the prompt holds the token {}, but the model's vocabulary is {}: the tokenizer is not the "
        "one the model was trained with",
        id, model_.config().vocab_size);
  }
}

// Runs `tokens` at the positions that follow the cache.
std::span<const float> Generator::next_logits(std::span<const std::int32_t> tokens) {
  const auto n = static_cast<std::int64_t>(tokens.size());
  host_positions_.clear();
  for (std::int64_t i = 0; i < n; ++i) {
    host_positions_.push_back(static_cast<std::int32_t>(caches_.front().length + i));
  }
  const Tensor ids = ids_.tensor.slice(0, n), positions = positions_.tensor.slice(0, n);
  copy(stream_, host_view(tokens), ids);
  copy(stream_, host_view(host_positions_), positions);
  MicroBatchView batch{1, n, 0};
  batch.ids = ids;
  batch.positions = positions;
  model_.next_token_logits(execution(ops_), batch, caches_, logits_);
  copy(stream_, logits_, host_logits_);
  stream_.synchronize();
  const std::span<const float> all = host_logits_.tensor.span<float>();
  return all.first(static_cast<std::size_t>(model_.config().vocab_size));  // without padding
}

GenerationEnd Generator::generate(std::span<const std::int32_t> prompt,
                                  const GenerationOptions& options,
                                  const std::function<bool(std::int32_t)>& on_token) {
  check_prompt(prompt);
  for (KvCache& cache : caches_) cache.length = 0;
  sequence_.assign(prompt.begin(), prompt.end());
  const RngKey key = RngKey::make(options.seed, RngPurpose::sampling, options.stream, 0);
  std::size_t fed = 0;  // tokens of sequence_ that the cache holds
  for (std::int64_t produced = 0; produced < options.maximum_tokens; ++produced) {
    if (options.recompute) {
      for (KvCache& cache : caches_) cache.length = 0;
      fed = 0;
    }
    const auto logits = next_logits(std::span(sequence_).subspan(fed));
    fed = sequence_.size();
    const double uniform =
        static_cast<double>(philox_word(key, static_cast<std::uint64_t>(produced))) * 0x1p-32;
    const std::int32_t token = sampler_.choose(logits, options.sampling, uniform);
    if (token == options.stop_token) return GenerationEnd::stop_token;
    if (!on_token(token)) return GenerationEnd::caller;
    sequence_.push_back(token);
    if (static_cast<std::int64_t>(sequence_.size()) >= max_length_) {
      return GenerationEnd::context_full;
    }
  }
  return GenerationEnd::maximum_tokens;
}

}  // namespace neox
