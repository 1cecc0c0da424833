#include "core/parallel/step_runner.h"

#include <algorithm>

#include "comm/activity.h"
#include "core/base/trace.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox {

StepRunner::StepRunner(Transformer& model, const Backend& ops, Stream& stream,
                       const PipelinePlace& place, const TensorParallel& tensor,
                       const TensorParallel& measuring, const RunnerOptions& options)
    : model_(model),
      ops_(ops),
      stream_(stream),
      place_(place),
      tensor_(tensor),
      options_(options),
      dry_run_(model.parameters().dry_run()),
      keep_(ops.device(), dry_run_),
      recompute_(ops.device(), dry_run_),
      scratch_(ops.device(), dry_run_),
      passes_(ops.device(), model.chunk_count(), dry_run_) {
  const bool records = device_tools(ops.device().kind).why_no_graphs().empty();
  if (options.graphs == GraphMode::automatic && !records) options_.graphs = GraphMode::off;
  if (options_.graphs != GraphMode::off && !dry_run_) graphs_.emplace(stream, options_.graphs);
  allocate_inputs();
  const Room room = this->room();
  measure(measuring, room.passes);
  if (place.stages > 1) {
    const Shape shape{tensor.local_rows(options.micro_batch * options.seq_length),
                      model.config().hidden_size};
    const DType dtype = model.parameters().compute_dtype();
    const Device device = ops.device();
    constexpr int kSending = kSendsInFlight + 1;
    send_forward_.emplace(place.forward, shape, dtype, device, kSending, dry_run_);
    send_backward_.emplace(place.backward, shape, dtype, device, kSending, dry_run_);
    receive_forward_.emplace(place.forward, shape, dtype, device, room.receive_forward, dry_run_);
    receive_backward_.emplace(place.backward, shape, dtype, device, room.receive_backward,
                              dry_run_);
    border_ = OwnedTensor(shape, dtype, device, dry_run_);
  }
}

// ---- memory -------------------------------------------------------------------------------------

const StageActions& StepRunner::actions_for(Plan& plan, ScheduleKind kind,
                                            std::size_t micro_batches) {
  const auto count = static_cast<int>(micro_batches);
  if (plan.micro_batches != count) {
    plan = {count, stage_actions(make_schedule(kind, place_.stages, model_.chunk_count(), count))};
  }
  return plan.actions;
}

StageActions StepRunner::stage_actions(const Schedule& schedule) const {
  const StageActions& actions = schedule.actions.at(static_cast<std::size_t>(place_.stage));
  const bool join = options_.recompute == Recompute::full && schedule.kind != ScheduleKind::zb_h1;
  return join ? join_backward_halves(actions) : actions;
}

// What any step of up to options_.micro_batches needs: a batch that grows starts with fewer, which
// may be grouped otherwise.
StepRunner::Room StepRunner::room() const {
  Room most;
  most.passes.passes.resize(static_cast<std::size_t>(model_.chunk_count()));
  const auto largest = static_cast<int>(options_.micro_batches);
  std::vector<int> counts{largest};
  for (int m = 1; m < std::min(largest, 2 * place_.stages); ++m) counts.push_back(m);
  for (const int m : counts) {
    for (const ScheduleKind kind : {options_.schedule, ScheduleKind::forward_only}) {
      const Schedule schedule = make_schedule(kind, place_.stages, model_.chunk_count(), m);
      const StageBuffers needs = stage_buffers(schedule, place_.stage);
      most.receive_forward = std::max(most.receive_forward, needs.receive_forward);
      most.receive_backward = std::max(most.receive_backward, needs.receive_backward);
      if (kind == ScheduleKind::forward_only) continue;
      const PassCounts passes = count_passes(stage_actions(schedule), model_.chunk_count());
      most.passes.split = std::max(most.passes.split, passes.split);
      for (std::size_t c = 0; c < passes.passes.size(); ++c) {
        most.passes.passes[c] = std::max(most.passes.passes[c], passes.passes[c]);
      }
    }
  }
  return most;
}

void StepRunner::allocate_inputs() {
  const std::int64_t rows = options_.micro_batch * options_.seq_length;
  const Shape all{options_.micro_batches, rows};
  const Device device = ops_.device();
  ids_ = OwnedTensor(all, DType::i32, device, dry_run_);
  labels_ = OwnedTensor(all, DType::i32, device, dry_run_);
  weights_ = OwnedTensor(all, DType::f32, device, dry_run_);
  losses_ = OwnedTensor(all, DType::f32, device, dry_run_);
  host_weights_ = OwnedTensor(all, DType::f32, {}, dry_run_);
  host_losses_ = OwnedTensor(all, DType::f32, {}, dry_run_);
  positions_ = OwnedTensor({rows}, DType::i32, device, dry_run_);
  if (options_.reset_positions) {
    all_positions_ = OwnedTensor(all, DType::i32, device, dry_run_);
    host_positions_ = OwnedTensor(all, DType::i32, {}, dry_run_);
  }
  if (options_.mask_documents) {
    all_documents_ = OwnedTensor(all, DType::i32, device, dry_run_);
    documents_ = OwnedTensor({rows}, DType::i32, device, dry_run_);
  }
  first_samples_.resize(static_cast<std::size_t>(options_.micro_batches));
  const ModelConfig& model = model_.config();
  if (options_.graphs != GraphMode::off &&
      (model.hidden_dropout > 0 || model.attention_dropout > 0)) {
    static_assert(sizeof(DropoutPosition) == 2 * sizeof(std::int64_t));
    dropout_positions_ = OwnedTensor({options_.micro_batches, 2}, DType::i64, device, dry_run_);
    host_dropout_positions_ = OwnedTensor({options_.micro_batches, 2}, DType::i64, {}, dry_run_);
    dropout_position_ = OwnedTensor({2}, DType::i64, device, dry_run_);
  }
  if (dry_run_) return;
  std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) {
    positions[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(r % options_.seq_length);
  }
  copy(stream_, host_view(positions), positions_);
  stream_.synchronize();
}

void StepRunner::measure(const TensorParallel& measuring, const PassCounts& counts) {
  const DryRunBackend dry(ops_.device(), ops_);
  // A dry model: the same code, no memory behind its parameters.
  Transformer twin(model_.config(), model_.partition());
  twin.commit(dry, stream_, model_.parameters().compute_dtype(), StoreMode::training, true);
  const Execution run = execution(dry, measuring, 0, nullptr);
  MicroBatchView batch = view(0);
  for (ConstTensor* t : {&batch.ids, &batch.positions, &batch.labels, &batch.weights}) {
    t->data = nullptr;
  }
  const Tensor losses(nullptr, {batch.rows()}, DType::f32, ops_.device());
  const Tensor border(nullptr, {run.tensor.local_rows(batch.rows()), model_.config().hidden_size},
                      model_.parameters().compute_dtype(), ops_.device());

  std::vector<std::size_t> keep_bytes;
  Arena gradients(ops_.device());
  for (int chunk = 0; chunk < model_.chunk_count(); ++chunk) {
    // Some passes of a chunk may be split and others not; both ways are measured.
    ChunkPass pass(ops_.device());
    for (const bool split : {false, true}) {
      if (split && counts.split == 0) continue;
      pass.gradients = split ? &gradients : nullptr;
      if (!model_.chunk(chunk).embedding) twin.take_input(run, batch, pass);
      twin.forward(run, batch, chunk, pass);
      pass.output_gradient = pass.output;
      twin.backward(run, batch, chunk, pass, losses);
      twin.backward_weight(run, batch, chunk, pass);
      pass.clear();
    }
    twin.evaluate(run, batch, chunk, border, border, losses);
    keep_bytes.push_back(pass.keep.high_water());
  }
  passes_.reserve(counts, keep_bytes, gradients.high_water());
  keep_.commit();
  recompute_.commit();
  scratch_.commit();
}

RunnerMemory StepRunner::memory() const {
  RunnerMemory memory;
  memory.activations = passes_.bytes() + keep_.high_water();
  memory.recompute = recompute_.high_water();
  memory.scratch = scratch_.high_water();
  if (place_.stages > 1) {
    memory.messages = send_forward_->bytes() + send_backward_->bytes() + receive_forward_->bytes() +
                      receive_backward_->bytes() + border_.tensor.bytes();
  }
  for (const OwnedTensor* t : {&ids_, &positions_, &labels_, &weights_, &losses_,
                               &dropout_positions_, &dropout_position_, &all_positions_,
                               &all_documents_, &documents_}) {
    memory.inputs += t->tensor.bytes();
  }
  for (const OwnedTensor* t :
       {&host_weights_, &host_losses_, &host_dropout_positions_, &host_positions_}) {
    memory.host_copies += t->tensor.bytes();
  }
  return memory;
}

std::int64_t StepRunner::bubble_ns() const {
  if (place_.stages == 1) return 0;
  return receive_forward_->waited_ns() + receive_backward_->waited_ns();
}

Execution StepRunner::execution(const Backend& ops, const TensorParallel& tensor, std::int64_t step,
                                BlockObserver* observer) {
  Execution run{ops, stream_, keep_, recompute_, scratch_};
  run.tensor = tensor;
  run.observer = observer;
  run.recompute_mode = options_.recompute;
  run.recompute_layers = options_.recompute_layers;
  run.loss_chunk = options_.loss_chunk;
  run.dropout_seed = options_.dropout_seed;
  run.step = step;
  if (&ops == &ops_ && graphs_) {
    run.graphs = &*graphs_;
    if (dropout_position_.tensor) {
      run.dropout_position =
          reinterpret_cast<const DropoutPosition*>(dropout_position_.tensor.data);
    }
  }
  return run;
}

// ---- inputs and losses --------------------------------------------------------------------------

void StepRunner::upload(std::span<const MicroBatch> batches, double weight_scale) {
  const std::int64_t rows = options_.micro_batch * options_.seq_length;
  require(static_cast<std::int64_t>(batches.size()) <= options_.micro_batches,
          "internal error: {} micro-batches, expected at most {}", batches.size(),
          options_.micro_batches);
  if (dry_run_) return;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const MicroBatch& batch = batches[i];
    const auto at = static_cast<std::int64_t>(i);
    require(static_cast<std::int64_t>(batch.tokens.size()) == rows,
            "internal error: a micro-batch of {} tokens, expected {}", batch.tokens.size(), rows);
    float* weights = host_weights_.tensor.ptr<float>() + at * rows;
    for (std::size_t r = 0; r < batch.loss_mask.size(); ++r) {
      weights[r] = static_cast<float>(static_cast<double>(batch.loss_mask[r]) * weight_scale);
    }
    const auto part = [&](const OwnedTensor& t) {
      return t.tensor.slice(at, at + 1).reshape({rows});
    };
    copy(stream_, host_view(batch.tokens), part(ids_));
    copy(stream_, host_view(batch.labels), part(labels_));
    copy(stream_, part(host_weights_), part(weights_));
    first_samples_[i] = batch.first_sample;
    if (options_.mask_documents || options_.reset_positions) upload_documents(batch, at);
  }
}

void StepRunner::upload_documents(const MicroBatch& batch, std::int64_t micro_batch) {
  const std::vector<std::int32_t>& begins = batch.documents;
  require(begins.size() == batch.tokens.size(),
          "internal error: documents of {} tokens, expected {}", begins.size(),
          batch.tokens.size());
  const auto part = [&](const OwnedTensor& t) {
    return t.tensor.slice(micro_batch, micro_batch + 1).reshape({t.tensor.shape[1]});
  };
  if (options_.mask_documents) copy(stream_, host_view(begins), part(all_documents_));
  if (!options_.reset_positions) return;
  std::int32_t* positions = part(host_positions_).ptr<std::int32_t>();
  for (std::size_t r = 0; r < begins.size(); ++r) {
    const auto row = static_cast<std::int64_t>(r) % options_.seq_length;
    positions[r] = static_cast<std::int32_t>(row) - begins[r];
  }
  copy(stream_, part(host_positions_), part(all_positions_));
}

void StepRunner::upload_dropout_positions(const Execution& run,
                                          std::span<const MicroBatch> batches) {
  if (run.dropout_position == nullptr) return;
  auto* at = reinterpret_cast<DropoutPosition*>(host_dropout_positions_.tensor.data);
  for (const MicroBatch& batch : batches) {
    *at++ = {static_cast<std::uint64_t>(run.step), batch.first_sample};
  }
  copy(stream_, host_dropout_positions_, dropout_positions_);
}

void StepRunner::set_micro_batch(const Execution& run, int micro_batch) {
  const auto set = [&](const OwnedTensor& all, const OwnedTensor& now) {
    if (!all.tensor) return;
    copy(stream_, all.tensor.slice(micro_batch, micro_batch + 1), now);
  };
  if (run.dropout_position != nullptr) set(dropout_positions_, dropout_position_);
  set(all_positions_, positions_);
  set(all_documents_, documents_);
}

MicroBatchView StepRunner::view(int micro_batch) const {
  const std::int64_t rows = options_.micro_batch * options_.seq_length;
  const auto part = [&](const OwnedTensor& t) {
    return ConstTensor(t.tensor.slice(micro_batch, micro_batch + 1).reshape({rows}));
  };
  return {options_.micro_batch,
          options_.seq_length,
          first_samples_[static_cast<std::size_t>(micro_batch)],
          part(ids_),
          positions_.tensor,
          options_.mask_documents ? ConstTensor(documents_.tensor) : ConstTensor(),
          part(labels_),
          part(weights_)};
}

Tensor StepRunner::losses_of(int micro_batch) const {
  const std::int64_t rows = options_.micro_batch * options_.seq_length;
  return losses_.tensor.slice(micro_batch, micro_batch + 1).reshape({rows});
}

bool StepRunner::has_head() const {
  return model_.chunk(model_.chunk_count() - 1).head;
}

double StepRunner::masked_loss_sum(std::span<const MicroBatch> batches) {
  if (!has_head() || dry_run_) return 0.0;
  copy(stream_, losses_, host_losses_);
  stream_.synchronize();
  const float* loss = host_losses_.tensor.ptr<float>();
  double sum = 0.0;
  for (const MicroBatch& batch : batches) {
    for (const float mask : batch.loss_mask) {
      if (mask != 0.0f) sum += double{mask} * double{*loss};
      ++loss;
    }
  }
  return sum;
}

// ---- the schedule -------------------------------------------------------------------------------

double StepRunner::train(std::span<const MicroBatch> batches, double gradient_scale,
                         std::int64_t step, BlockObserver& observer) {
  enter(Phase::inputs);
  upload(batches, gradient_scale);
  const Execution run = execution(ops_, tensor_, step, &observer);
  upload_dropout_positions(run, batches);
  for (const Action& action : actions_for(training_, options_.schedule, batches.size())) {
    Activity::set(name_of(action.kind), step + 1, action.micro_batch);
    const trace::Range range(name_of(action.kind), action.micro_batch);
    act(run, action);
  }
  if (place_.stages > 1) {
    enter(Phase::messages);
    send_forward_->finish(stream_);
    send_backward_->finish(stream_);
  }
  return masked_loss_sum(batches);
}

void StepRunner::act(const Execution& run, const Action& action) {
  const auto [kind, micro_batch, chunk, peer] = action;
  switch (kind) {
    case ActionKind::forward:
      return act_forward(run, action);
    case ActionKind::backward:
    case ActionKind::backward_input:
      return act_backward(run, action);
    case ActionKind::backward_weight: {
      enter(Phase::backward);
      set_micro_batch(run, micro_batch);  // the embedding's
      ChunkPass& pass = passes_.find(chunk, micro_batch);
      model_.backward_weight(run, view(micro_batch), chunk, pass);
      return passes_.release(chunk, micro_batch);
    }
    case ActionKind::receive_forward:
      return receive_forward_->post(micro_batch, chunk, peer, stream_);
    case ActionKind::receive_backward:
      return receive_backward_->post(micro_batch, chunk, peer, stream_);
    // A send follows the computation whose result it sends. That of a backward has been copied,
    // because the pass may be over.
    case ActionKind::send_forward:
      enter(Phase::messages);
      return send_forward_->send(passes_.find(chunk, micro_batch).output, peer, stream_);
    case ActionKind::send_backward:
      enter(Phase::messages);
      return send_backward_->send(border_, peer, stream_);
  }
}

void StepRunner::act_forward(const Execution& run, const Action& action) {
  const MicroBatchView batch = view(action.micro_batch);
  ChunkPass& pass = passes_.acquire(action.chunk, action.micro_batch);
  if (!model_.chunk(action.chunk).embedding) {
    enter(Phase::messages);
    model_.take_input(run, batch, pass);
    receive_forward_->take(action.micro_batch, action.chunk, pass.input, stream_);
  }
  enter(Phase::forward);
  set_micro_batch(run, action.micro_batch);
  model_.forward(run, batch, action.chunk, pass);
}

void StepRunner::act_backward(const Execution& run, const Action& action) {
  const auto [kind, micro_batch, chunk, peer] = action;
  const MicroBatchView batch = view(micro_batch);
  ChunkPass& pass = passes_.find(chunk, micro_batch);
  if (!model_.chunk(chunk).head) {
    enter(Phase::messages);
    // The output has been sent (by copy) and is not read again.
    pass.output_gradient = pass.output;
    receive_backward_->take(micro_batch, chunk, pass.output_gradient, stream_);
  }
  enter(Phase::backward);
  set_micro_batch(run, micro_batch);
  if (kind == ActionKind::backward_input) passes_.split(pass);
  model_.backward(run, batch, chunk, pass, losses_of(micro_batch));
  if (!model_.chunk(chunk).embedding) copy(stream_, pass.input_gradient, border_);
  if (kind == ActionKind::backward) passes_.release(chunk, micro_batch);
}

double StepRunner::evaluate(std::span<const MicroBatch> batches, BlockObserver& observer) {
  upload(batches, 1.0);
  const Execution run = execution(ops_, tensor_, 0, &observer);
  for (const Action& action :
       actions_for(evaluation_, ScheduleKind::forward_only, batches.size())) {
    const auto [kind, micro_batch, chunk, peer] = action;
    Activity::set("validation", -1, micro_batch);
    if (kind == ActionKind::receive_forward) {
      receive_forward_->post(micro_batch, chunk, peer, stream_);
    } else if (kind == ActionKind::send_forward) {
      send_forward_->send(border_, peer, stream_);
    } else {
      evaluate_chunk(run, action);
    }
  }
  if (place_.stages > 1) send_forward_->finish(stream_);
  return masked_loss_sum(batches);
}

void StepRunner::evaluate_chunk(const Execution& run, const Action& action) {
  if (!model_.chunk(action.chunk).embedding) {
    receive_forward_->take(action.micro_batch, action.chunk, border_, stream_);
  }
  set_micro_batch(run, action.micro_batch);
  model_.evaluate(run, view(action.micro_batch), action.chunk, border_.tensor, border_.tensor,
                  losses_of(action.micro_batch));
}

}  // namespace neox
