#include "tests/train/layout_run.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "core/config/describe.h"
#include "core/config/resolve.h"
#include "core/train/run_state.h"

namespace neox::testing {
namespace {

// So that a few steps move the weights by far more than rounding.
double learning_rate(const std::string& optimizer) {
  return optimizer == "sgd" ? 0.3 : optimizer == "madgrad_wd" || optimizer == "sm3" ? 1e-2 : 1e-3;
}

// Blocks of sparse layers have 16 tokens.
std::int64_t length_of(Family family) {
  return family == Family::masked ? 48 : 16;
}

ModelConfig model_config(Family family, std::int64_t hidden) {
  ModelConfig m;
  m.num_layers = family == Family::deep_neox ? 8 : 4;
  m.hidden_size = hidden;
  m.num_attention_heads = 4;
  m.seq_length = length_of(family);
  m.hidden_dropout = 0.1;
  m.attention_dropout = 0.1;
  m.vocab_size = 101;
  m.no_weight_tying = true;
  switch (family) {
    case Family::neox:
    case Family::deep_neox:
      m.gpt_j_residual = true;
      m.rotary_pct = 0.5;
      break;
    case Family::gpt2:
      m.vocab_size = 90;
      m.no_weight_tying = false;
      m.pos_emb = PositionEmbedding::learned;
      m.activation = Activation::gelu_tanh;
      break;
    case Family::llama:
      m.vocab_size = 109;  // no tensor group divides it, and 28 rows need more room than 27
      m.make_vocab_size_divisible_by = 1;
      m.norm = NormKind::rmsnorm;
      m.num_kv_heads = 2;
      m.intermediate_size = 3 * hidden;
      m.activation = Activation::silu;
      m.gated = true;
      m.use_bias_in_attn_linear = m.use_bias_in_mlp = m.use_bias_in_norms = false;
      break;
    case Family::bloom:
      m.no_weight_tying = false;
      m.pos_emb = PositionEmbedding::alibi;
      m.embedding_norm = m.use_qk_layernorm = true;
      break;
    case Family::scaled:
      m.norm = NormKind::scalenorm;
      m.pos_emb = PositionEmbedding::learned;
      m.opt_pos_emb_offset = 2;
      m.embedding_norm = true;
      m.activation = Activation::squared_relu;
      break;
    case Family::plain_norm:
      m.norm = NormKind::non_parametric_layernorm;
      m.pos_emb = PositionEmbedding::sinusoidal;
      m.num_kv_heads = 2;
      m.use_qk_layernorm = true;
      m.activation = Activation::mish;
      break;
    case Family::masked:
      m.num_kv_heads = 2;
      m.attention_config = {"window", "bigbird"};
      m.sliding_window_width = 5;
      m.sparse_num_sliding_window_blocks = m.sparse_num_random_blocks = 1;
      m.sparse_num_global_blocks = 0;
      m.sparse_different_layout_per_head = true;
      break;
  }
  return m;
}

// A well mixed number, the same everywhere.
std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Offset in the global tensor of element `index` of the box `slice`.
std::int64_t global_offset(const Shape& global, const Slice& slice, std::int64_t index) {
  std::int64_t offset = 0, stride = 1;
  for (int axis = global.rank() - 1; axis >= 0; --axis) {
    const std::int64_t at = index % slice.extent[axis];
    index /= slice.extent[axis];
    offset += (slice.offset[axis] + at) * stride;
    stride *= global[axis];
  }
  return offset;
}

// std::max would lose what is not a number.
void keep_worst(double& worst, double value) {
  if (std::isnan(worst)) return;
  if (!(value <= worst)) worst = value;
}

double relative(double value, double expected) {
  if (value == expected) return 0.0;
  return std::abs(value - expected) / std::abs(expected);
}

double worst_of(const std::vector<double>& values, const std::vector<double>& expected) {
  require(values.size() == expected.size(), "a run of {} steps is compared with one of {}",
          values.size(), expected.size());
  double worst = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    keep_worst(worst, relative(values[i], expected[i]));
  }
  return worst;
}

template <class T>
std::vector<T> broadcast_values(Communicator& group, const std::vector<T>& values, int root) {
  std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  bytes = group.host_broadcast(std::move(bytes), root);
  std::vector<T> result(bytes.size() / sizeof(T));
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(result.data()));
  return result;
}

}  // namespace

const char* name_of(Family family) {
  switch (family) {
    case Family::neox:
      return "neox";
    case Family::gpt2:
      return "gpt2";
    case Family::llama:
      return "llama";
    case Family::deep_neox:
      return "neox, 8 layers";
    case Family::bloom:
      return "bloom";
    case Family::scaled:
      return "scalenorm";
    case Family::plain_norm:
      return "plain norm";
    case Family::masked:
      return "masked";
  }
  fail("no such family");
}

std::string Layout::describe() const {
  const std::string rows = tensor == 1 ? "" : rows_sharded ? " rows sharded" : " rows replicated";
  const std::string order = pipe == 1 ? "" : " " + schedule;
  return fmt::format("{:<14} tensor {}{:<16} pipe {}{:<12} data {} zero {} micro-batch {} {}{}",
                     name_of(family), tensor, rows, pipe, order, data, zero, micro_batch,
                     recompute == "none" ? "" : recompute,
                     optimizer == "adam" ? "" : " " + optimizer);
}

Config layout_config(const Layout& layout, const RunSize& size) {
  Config c;
  c.model = model_config(layout.family, size.hidden);
  c.parallel.model_parallel_size = layout.tensor;
  c.parallel.sequence_parallel = layout.rows_sharded;
  c.parallel.pipe_parallel_size = layout.pipe;
  c.parallel.pipeline_schedule = layout.schedule;
  c.parallel.virtual_pipeline_size = layout.schedule == "interleaved" ? 2 : 1;
  c.parallel.zero_stage = layout.zero;
  c.parallel.gradient_bucket_mb = size.bucket_mb;
  c.parallel.recompute = layout.recompute;
  c.parallel.recompute_layers = layout.recompute == "first_n" ? 1 : 0;
  c.batch.train_batch_size = size.batch;
  c.batch.train_micro_batch_size_per_gpu = layout.micro_batch;
  c.parallel.gradient_reduce_dtype = size.exchange;
  c.precision = size.precision;
  c.optimizer.gradient_clipping = size.gradient_clipping;
  c.optimizer.type = layout.optimizer;
  // Some gradients are nothing but rounding (key biases with learned positions): a larger epsilon
  // keeps AdamW from making steps of them. In LAMB it must be larger: a tensor of zeros moves by
  // the raw update.
  if (layout.optimizer == "lamb") {
    c.optimizer.eps = 1e-4;
  } else if (layout.optimizer != "lion" && layout.optimizer != "sgd") {
    c.optimizer.eps = 1e-6;
  }
  c.train.train_iters = 20;
  c.data.mask_documents = c.data.reset_positions = layout.family == Family::masked;
  c.train.cross_entropy_chunk = 23;
  c.train.seed_dropout = 77;
  resolve(c, layout.ranks());
  return c;
}

bool Difference::within_tolerance() const {
  return loss <= kLossTolerance && norm <= kNormTolerance && weight <= kWeightTolerance;
}

// ---- a run --------------------------------------------------------------------------------------

LayoutRun::LayoutRun(Communicator& group, const Layout& layout, const RunSize& size)
    : group_(group),
      size_(size),
      config_(layout_config(layout, size)),
      engine_(group, config_),
      scaler_(config_.precision, scaler_state_) {
  engine_.initialise(99);
}

// Sample s of a step goes where GPT-NeoX's order puts it (io/data/batch_loader.h); what it holds
// depends on the step and s alone.
std::vector<MicroBatch> LayoutRun::micro_batches() const {
  const std::int64_t rank = engine_.topology().coordinates().data;
  const std::int64_t ranks = engine_.topology().layout().data;
  const std::int64_t samples = config_.batch.train_micro_batch_size_per_gpu;
  const std::int64_t seq = config_.model.seq_length;
  std::vector<MicroBatch> batches;
  for (std::int64_t a = 0; a < config_.batch.gradient_accumulation_steps; ++a) {
    MicroBatch& batch = batches.emplace_back();
    batch.first_sample = (a * ranks + rank) * samples;
    for (std::int64_t i = 0; i < samples * seq; ++i) {
      const std::int64_t sample = batch.first_sample + i / seq, t = i % seq;
      const auto at = static_cast<std::uint64_t>((step_ * size_.batch + sample) * (seq + 1) + t);
      batch.tokens.push_back(static_cast<std::int32_t>(mixed(at) % 89));
      batch.labels.push_back(static_cast<std::int32_t>(mixed(at + 1) % 89));
      batch.loss_mask.push_back((t + sample) % 5 == 4 ? 0.0f : 1.0f);
      if (config_.data.mask_documents) {  // documents of 7 + sample tokens
        batch.documents.push_back(static_cast<std::int32_t>(t - t % (7 + sample)));
      }
    }
  }
  return batches;
}

// The other ranks would wait forever for one that throws: it ends the job.
void LayoutRun::train(int steps) try {
  for (int end = step_ + steps; step_ < end; ++step_) {
    const std::vector<MicroBatch> batches = micro_batches();
    double tokens = 0.0;
    for (std::int64_t sample = 0; sample < size_.batch; ++sample) {
      for (std::int64_t t = 0; t < config_.model.seq_length; ++t)
        tokens += (t + sample) % 5 == 4 ? 0.0 : 1.0;
    }
    Engine::StepLimits limits;
    limits.loss_scale = size_.loss_scale * scaler_.scale();
    const auto result = engine_.train_step(batches, 1.0 / tokens, step_,
                                           learning_rate(config_.optimizer.type), limits);
    double loss = result.loss_sum;
    group_.host_all_reduce(std::span(&loss, 1), ReduceOp::sum);
    losses_.push_back(loss / tokens);
    scales_.push_back(scaler_.scale());
    const auto verdict = scaler_.end_step(result.loss, result.grad_norm);
    require(verdict != LossScaler::Verdict::stop, "the loss scale cannot shrink any more");
    norms_.push_back(verdict == LossScaler::Verdict::overflow ? -1.0 : result.grad_norm);
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "rank %d, step %d: %s\n", group_.rank(), step_, e.what());
  std::_Exit(1);
}

void LayoutRun::save(const std::string& directory) {
  Progress progress;
  progress.step = step_;
  const RunImage image = run_image(engine_.model(), engine_.optimizer(), config_,
                                   effective_ini(config_, config_), progress);
  save_checkpoint(group_, directory, image.tensors, image.info);
}

void LayoutRun::load(const std::string& directory) {
  const auto reader = open_newest(group_, directory);
  require(reader != nullptr, "no checkpoint in {}", directory);
  const Progress progress = load_run(*reader, engine_.model(), &engine_.optimizer(),
                                     LoadScope::everything, engine_.ops(), engine_.stream());
  step_ = static_cast<int>(progress.step);
}

// Every element is owned and counted by exactly one rank: the sum over all of them is the tensor.
Reference LayoutRun::reference() {
  Reference result{losses_, norms_, scales_, {}};
  const Transformer whole(config_.model);
  for (ParameterId id = 0; id < whole.parameters().size(); ++id) {
    const ParameterSpec& spec = whole.parameters().spec(id);
    std::vector<double> values(static_cast<std::size_t>(spec.global.numel()));
    add_owned(spec.name, values);
    group_.host_all_reduce(std::span(values), ReduceOp::sum);
    result.weights[spec.name] = std::vector<float>(values.begin(), values.end());
  }
  return result;
}

void LayoutRun::add_owned(const std::string& name, std::vector<double>& values) const {
  const ParameterStore& store = engine_.model().parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    const ParameterSpec& spec = store.spec(id);
    if (spec.name != name || !spec.counted) continue;
    for (const ParameterPiece& piece : store.owned_pieces(id)) {
      const float* part = store.piece(State::main, piece.piece).ptr<float>();
      for (std::int64_t i = 0; i < piece.piece.size; ++i) {
        values[static_cast<std::size_t>(global_offset(spec.global, spec.slice, piece.begin + i))] +=
            double{part[i]};
      }
    }
  }
}

Difference LayoutRun::difference(const Reference& reference) {
  const ParameterStore& store = engine_.model().parameters();
  // A key's bias behind its norm adds the same to all scores of a query, unless it is rotated. Its
  // gradient is rounding alone, of which Adam makes whole steps.
  const bool rotary = engine_.model().config().pos_emb == PositionEmbedding::rotary;
  double weight = 0.0;
  std::int64_t counted = 0;
  for (ParameterId id = 0; id < store.size(); ++id) {
    const ParameterSpec& spec = store.spec(id);
    const std::vector<float>& expected = reference.weights.at(spec.name);
    require(spec.global.numel() == static_cast<std::int64_t>(expected.size()),
            "{} has {} elements, the reference {}", spec.name, spec.global.numel(),
            expected.size());
    const bool matters = rotary || !spec.name.ends_with(".key_layernorm.bias");
    double largest = 0.0;
    for (const float value : expected) largest = std::max(largest, std::abs(double{value}));
    for (const ParameterPiece& piece : store.update_pieces(id)) {
      const Tensor values = store.piece(State::main, piece.piece);
      for (std::int64_t i = 0; i < piece.piece.size; ++i) {
        const std::int64_t at = global_offset(spec.global, spec.slice, piece.begin + i);
        const double error =
            double{values.ptr<float>()[i]} - double{expected[static_cast<std::size_t>(at)]};
        if (matters) keep_worst(weight, std::abs(error) / largest);
      }
    }
    for (const ParameterPiece& piece : store.owned_pieces(id)) {
      if (spec.counted) counted += piece.piece.size;
    }
  }
  double worst[] = {worst_of(losses_, reference.losses), worst_of(norms_, reference.norms), weight};
  // What is not a number must win on every rank.
  for (double& value : worst) {
    if (std::isnan(value)) value = std::numeric_limits<double>::infinity();
  }
  group_.host_all_reduce(std::span(worst), ReduceOp::max);
  group_.host_all_reduce(std::span(&counted, 1), ReduceOp::sum);
  return {worst[0], worst[1], worst[2], counted};
}

Reference single_rank_reference(Family family, int steps, const RunSize& size,
                                const std::string& optimizer) {
  const auto alone = make_self_communicator("world");
  Layout layout;
  layout.family = family;
  layout.micro_batch = size.batch;
  layout.optimizer = optimizer;
  LayoutRun run(*alone, layout, size);
  run.train(steps);
  return run.reference();
}

Reference broadcast(Communicator& group, const Reference& reference, int root) {
  Reference result;
  result.losses = broadcast_values(group, reference.losses, root);
  result.norms = broadcast_values(group, reference.norms, root);
  result.scales = broadcast_values(group, reference.scales, root);
  std::string names;
  for (const auto& [name, values] : reference.weights) names += name + '\n';
  names = group.host_broadcast(names, root);
  for (std::size_t begin = 0; begin < names.size();) {
    const std::size_t end = names.find('\n', begin);
    const std::string name = names.substr(begin, end - begin);
    const auto here = reference.weights.find(name);
    result.weights[name] = broadcast_values(
        group, here == reference.weights.end() ? std::vector<float>{} : here->second, root);
    begin = end + 1;
  }
  return result;
}

}  // namespace neox::testing
