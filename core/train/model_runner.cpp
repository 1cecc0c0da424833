#include "core/train/model_runner.h"

#include <utility>
#include <vector>

#include "core/base/format.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox {
namespace {

template <class T>
ConstTensor host_view(const std::vector<T>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()),
          Shape{static_cast<std::int64_t>(values.size())}, dtype_of<T>, Device{}};
}

}  // namespace

std::string MemoryPlan::table() const {
  const std::pair<const char*, std::size_t> lines[] = {{"weights", weights},
                                                       {"main weights (f32)", main_weights},
                                                       {"gradients (f32)", gradients},
                                                       {"optimizer state", optimizer},
                                                       {"gathered weights", moving.weights},
                                                       {"blocks' gradients", moving.gradients},
                                                       {"communication", moving.communication},
                                                       {"activations", activations},
                                                       {"recomputed block", recompute},
                                                       {"temporaries", scratch},
                                                       {"total", total()}};
  std::string text;
  for (const auto& [name, bytes] : lines) {
    if (bytes > 0) text += fmt::format("  {:<20} {:>12}\n", name, format_bytes(bytes));
  }
  return text;
}

ModelRunner::ModelRunner(Transformer& model, const Backend& ops, Stream& stream,
                         const RunnerOptions& options)
    : model_(model),
      ops_(ops),
      stream_(stream),
      options_(options),
      keep_(ops.device()),
      recompute_(ops.device()),
      scratch_(ops.device()) {
  const std::int64_t rows = options.micro_batch * options.seq_length;
  ids_ = OwnedTensor({rows}, DType::i32, ops.device());
  positions_ = OwnedTensor({rows}, DType::i32, ops.device());
  labels_ = OwnedTensor({rows}, DType::i32, ops.device());
  weights_ = OwnedTensor({rows}, DType::f32, ops.device());
  losses_ = OwnedTensor({rows}, DType::f32, ops.device());
  host_weights_ = OwnedTensor({rows}, DType::f32);
  host_losses_ = OwnedTensor({rows}, DType::f32);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) {
    positions[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(r % options.seq_length);
  }
  copy(stream_, host_view(positions), positions_);
  stream_.synchronize();
  measure();
}

void ModelRunner::measure() {
  const DryRunBackend dry(ops_.device(), ops_);
  const std::int64_t rows = options_.micro_batch * options_.seq_length;
  const auto absent = [&](DType dtype) { return Tensor(nullptr, {rows}, dtype, ops_.device()); };
  MicroBatchView batch{options_.micro_batch, options_.seq_length, 0};
  batch.ids = batch.positions = batch.labels = absent(DType::i32);
  batch.weights = absent(DType::f32);
  // A dry model: the same code, no memory behind its parameters.
  Transformer twin(model_.config());
  twin.commit(dry, stream_, model_.parameters().compute_dtype(), StoreMode::training, true);
  const Execution run = execution(dry, 0, false);
  twin.forward_backward(run, batch, absent(DType::f32), nullptr);
  twin.evaluate(run, batch, absent(DType::f32));
  keep_.commit();
  recompute_.commit();
  scratch_.commit();
}

Execution ModelRunner::execution(const Backend& ops, std::int64_t step, bool accumulate) {
  return {ops,
          stream_,
          keep_,
          recompute_,
          scratch_,
          options_.recompute_blocks,
          options_.loss_chunk,
          accumulate,
          options_.dropout_seed,
          step};
}

MicroBatchView ModelRunner::upload(const MicroBatch& batch, double weight_scale) {
  const std::int64_t rows = options_.micro_batch * options_.seq_length;
  require(static_cast<std::int64_t>(batch.tokens.size()) == rows,
          "internal error: a micro-batch of {} tokens, expected {}", batch.tokens.size(), rows);
  float* weights = host_weights_.tensor.ptr<float>();
  for (std::size_t i = 0; i < batch.loss_mask.size(); ++i) {
    weights[i] = static_cast<float>(static_cast<double>(batch.loss_mask[i]) * weight_scale);
  }
  copy(stream_, host_view(batch.tokens), ids_);
  copy(stream_, host_view(batch.labels), labels_);
  copy(stream_, host_weights_, weights_);
  return {options_.micro_batch,
          options_.seq_length,
          batch.first_sample,
          ids_,
          positions_,
          labels_,
          weights_};
}

double ModelRunner::masked_loss_sum(const MicroBatch& batch) {
  copy(stream_, losses_, host_losses_);
  stream_.synchronize();
  const float* losses = host_losses_.tensor.ptr<float>();
  double sum = 0.0;
  for (std::size_t i = 0; i < batch.loss_mask.size(); ++i) {
    if (batch.loss_mask[i] != 0.0f) sum += double{batch.loss_mask[i]} * double{losses[i]};
  }
  return sum;
}

double ModelRunner::forward_backward(const MicroBatch& batch, double gradient_scale,
                                     std::int64_t step, bool accumulate, BlockObserver* observer) {
  const MicroBatchView view = upload(batch, gradient_scale);
  model_.forward_backward(execution(ops_, step, accumulate), view, losses_, observer);
  return masked_loss_sum(batch);
}

double ModelRunner::evaluate(const MicroBatch& batch, BlockObserver* observer) {
  const MicroBatchView view = upload(batch, 1.0);
  model_.evaluate(execution(ops_, 0, false), view, losses_, observer);
  return masked_loss_sum(batch);
}

MemoryPlan ModelRunner::memory_plan() const {
  const ParameterStore& store = model_.parameters();
  MemoryPlan plan;
  plan.weights = store.memory().weights;
  plan.main_weights = store.memory().main;
  plan.gradients = store.memory().gradients;
  plan.optimizer = store.memory().optimizer;
  plan.activations = keep_.high_water();
  plan.recompute = recompute_.high_water();
  plan.scratch = scratch_.high_water();
  return plan;
}

}  // namespace neox
