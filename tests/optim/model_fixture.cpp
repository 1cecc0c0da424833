#include "tests/optim/model_fixture.h"

#include <algorithm>

#include "kernels/dry_run/dry_run_backend.h"

namespace neox::testing {

TestModel::TestModel(const ModelConfig& config, std::int64_t batch, std::int64_t seq, DType compute,
                     Recompute recompute, bool split_backward)
    : ops(make_backend(Device{})),
      stream(make_stream(Device{})),
      model(config),
      batch_(batch),
      seq_(seq),
      recompute_(recompute),
      pass_(Device{}),
      gradients_(Device{}),
      keep_(Device{}),
      recompute_arena_(Device{}),
      scratch_(Device{}) {
  if (split_backward) pass_.gradients = &gradients_;
  model.commit(*ops, *stream, compute, StoreMode::training);
  const Shape rows{batch * seq};
  ids_ = OwnedTensor(rows, DType::i32);
  positions_ = OwnedTensor(rows, DType::i32);
  labels_ = OwnedTensor(rows, DType::i32);
  weights_ = OwnedTensor(rows, DType::f32);
  losses_ = OwnedTensor(rows, DType::f32);
  for (std::int64_t r = 0; r < rows[0]; ++r) {
    positions_.tensor.ptr<std::int32_t>()[r] = static_cast<std::int32_t>(r % seq);
  }
  measure();
}

void TestModel::measure() {
  const DryRunBackend dry(Device{}, *ops);
  Transformer twin(model.config());
  twin.commit(dry, *stream, model.parameters().compute_dtype(), StoreMode::training, true);
  const Execution run = execution(dry, 0);
  const Tensor losses(nullptr, {batch_ * seq_}, DType::f32, {});
  const Tensor logits(nullptr, {batch_ * seq_, model.config().padded_vocab_size()}, DType::f32, {});
  twin.forward_backward(run, view(), pass_, losses);
  twin.evaluate(run, view(), losses);
  twin.logits(run, view(), logits);
  pass_.keep.commit();
  gradients_.commit();
  keep_.commit();
  recompute_arena_.commit();
  scratch_.commit();
}

void TestModel::set_batch(const std::vector<std::int32_t>& ids,
                          const std::vector<std::int32_t>& labels,
                          const std::vector<float>& weights, std::int64_t first_sample) {
  std::copy(ids.begin(), ids.end(), ids_.tensor.ptr<std::int32_t>());
  std::copy(labels.begin(), labels.end(), labels_.tensor.ptr<std::int32_t>());
  std::copy(weights.begin(), weights.end(), weights_.tensor.ptr<float>());
  first_sample_ = first_sample;
}

void TestModel::set_documents(const std::vector<std::int32_t>& begins, bool reset_positions) {
  documents_ = OwnedTensor({batch_ * seq_}, DType::i32);
  copy(*stream, host_view(begins), documents_);
  for (std::int64_t r = 0; reset_positions && r < batch_ * seq_; ++r) {
    positions_.tensor.ptr<std::int32_t>()[r] =
        static_cast<std::int32_t>(r % seq_) - begins[static_cast<std::size_t>(r)];
  }
}

MicroBatchView TestModel::view() const {
  const ConstTensor documents = documents_.tensor.numel() > 0 ? documents_.tensor : Tensor();
  return {batch_, seq_, first_sample_, ids_, positions_, documents, labels_, weights_};
}

Execution TestModel::execution(const Backend& backend, std::int64_t step) {
  Execution run{backend, *stream, keep_, recompute_arena_, scratch_};
  run.recompute_mode = recompute_;
  run.loss_chunk = 16;  // small, so that tests cross chunk borders
  run.dropout_seed = 7;
  run.step = step;
  return run;
}

double TestModel::forward_backward(bool accumulate, std::int64_t step) {
  ParameterStore& store = model.parameters();
  for (int block = 0; block < store.block_count(); ++block)
    store.set_accumulates(block, accumulate);
  model.forward_backward(execution(*ops, step), view(), pass_, losses_);
  double sum = 0;
  for (std::int64_t r = 0; r < batch_ * seq_; ++r) {
    sum += double{losses_.tensor.ptr<float>()[r]} * weights_.tensor.ptr<float>()[r];
  }
  return sum;
}

std::vector<float> TestModel::losses() const {
  return values(losses_);
}

std::vector<float> TestModel::logits(std::vector<std::vector<float>>* residuals) {
  const std::int64_t rows = batch_ * seq_;
  const OwnedTensor out({rows, model.config().padded_vocab_size()}, DType::f32);
  std::vector<OwnedTensor> owned;
  std::vector<Tensor> views;
  if (residuals != nullptr) {
    for (std::int64_t i = 0; i < model.config().num_layers; ++i) {
      owned.emplace_back(Shape{rows, model.config().hidden_size},
                         model.parameters().compute_dtype());
      views.push_back(owned.back());
    }
  }
  model.logits(execution(*ops, 0), view(), out, residuals != nullptr ? &views : nullptr);
  if (residuals != nullptr) {
    for (const Tensor& t : views) residuals->push_back(values(t));
  }
  return values(out);
}

std::vector<float> values(ConstTensor tensor) {
  std::vector<float> out;
  visit_float(tensor.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (const T& x : tensor.span<T>()) out.push_back(float(x));
  });
  return out;
}

}  // namespace neox::testing
