#include "core/train/run_state.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/ranges.h>

#include "core/base/log.h"
#include "core/config/describe.h"
#include "core/config/parse.h"
#include "core/optim/update_rule.h"
#include "core/train/checkpoint_policy.h"
#include "core/train/host_snapshot.h"

namespace neox {
namespace {

constexpr const char* kModel = "/model";
constexpr const char* kMain = "/optimizer/master";
constexpr const char* kOptimizer = "/optimizer";
constexpr const char* kConfigText = "/config/effective";
constexpr const char* kGuards = "/guards";
constexpr const char* kWindow = "/guards/window";
constexpr const char* kLossScaler = "/loss_scaler";

// Where optimizer state `number` is stored.
std::string state_section(const ParameterStore& store, int number) {
  return fmt::format("{}/{}", kOptimizer,
                     store.optimizer_states()[static_cast<std::size_t>(number)]);
}

int state_count(const ParameterStore& store) {
  return static_cast<int>(store.optimizer_states().size());
}

CheckpointTensor checkpoint_tensor(const ParameterStore& store, const std::string& section,
                                   State state, ParameterId id, const ParameterPiece& piece) {
  CheckpointTensor tensor;
  tensor.path = checkpoint_path(section, store.spec(id).name);
  tensor.shard = store.shard(state, id, piece);
  tensor.write_begin = piece.begin;
  tensor.write_end = piece.begin + piece.piece.size;
  return tensor;
}

std::string shared_path(const SharedState& state) {
  return checkpoint_path(fmt::format("{}/{}", kOptimizer, state.name), state.parameter);
}

Shard shared_shard(const SharedState& state) {
  const Shape& shape = state.tensor.shape;
  return {shared_path(state), DType::f32, shape, Slice::whole(shape), state.tensor};
}

// What this rank writes: the elements that it owns of parameters that it counts. Over all ranks
// that is every element of the model exactly once.
std::vector<CheckpointTensor> run_tensors(const Transformer& model, const Optimizer& optimizer,
                                          bool with_optimizer) {
  const ParameterStore& store = model.parameters();
  std::vector<CheckpointTensor> tensors;
  for (ParameterId id = 0; id < store.size(); ++id) {
    if (!store.spec(id).counted) continue;
    for (const ParameterPiece& piece : store.owned_pieces(id)) {
      const auto add = [&](const std::string& section, State state) {
        tensors.push_back(checkpoint_tensor(store, section, state, id, piece));
      };
      add(kModel, State::weights);
      tensors.back().attributes = model_attributes(model.config(), store.spec(id).name);
      if (!with_optimizer) continue;
      // In f32 the model's weights are the main weights: they are not stored twice.
      if (store.has_separate_main()) add(kMain, State::main);
      for (int i = 0; i < state_count(store); ++i) {
        add(state_section(store, i), optimizer_state(i));
      }
    }
  }
  if (!with_optimizer || !optimizer.saves_shared_states()) return tensors;
  for (const SharedState& state : optimizer.shared_states()) {
    CheckpointTensor& tensor = tensors.emplace_back();
    tensor.path = shared_path(state);
    tensor.shard = shared_shard(state);
    tensor.write_end = state.tensor.numel();
  }
  return tensors;
}

void add_guards(const GuardState& guards, CheckpointInfo& info) {
  if (guards == GuardState{}) return;
  info.groups[kGuards] = {{"in_a_row", guards.in_a_row},
                          {"spikes_in_a_row", guards.spikes_in_a_row},
                          {"skipped_steps", guards.skipped_steps},
                          {"rewinds", guards.rewinds},
                          {"rewound_samples", text_of(guards.rewound_samples)}};
  if (!guards.losses.empty()) info.texts[kWindow] = window_text(guards);
}

void add_loss_scaler(const LossScalerState& state, CheckpointInfo& info) {
  if (state == LossScalerState{}) return;
  info.groups[kLossScaler] = {{"scale", state.scale},
                              {"dynamic", std::int64_t{state.dynamic}},
                              {"hysteresis", state.hysteresis},
                              {"good_steps", state.good_steps},
                              {"overflow_steps", state.overflow_steps}};
}

// Reads elements of tensors stored in any float dtype.
class TensorLoader {
 public:
  TensorLoader(CheckpointReader& reader, const Backend& ops, Stream& stream)
      : reader_(reader), ops_(ops), stream_(stream) {}

  /// Elements [begin, begin + n) of the shard's slice, n = shard.local.numel().
  void add(const std::string& path, const Shard& shard, std::int64_t begin) {
    const StoredTensor* stored = reader_.find(path);
    require(stored != nullptr, "the checkpoint {} has no tensor {}", reader_.path(), path);
    CheckpointTensor tensor;
    tensor.path = path;
    tensor.shard = shard;
    tensor.shard.dtype = stored->dtype;
    const bool direct = stored->dtype == shard.dtype && shard.local.device.is_cpu();
    if (!direct) {
      staging_.emplace_back(shard.local.shape, stored->dtype);
      tensor.shard.local = staging_.back();
      converted_.emplace_back(staging_.size() - 1, shard.local);
    }
    tensor.write_begin = begin;
    tensor.write_end = begin + shard.local.numel();
    wanted_.push_back(std::move(tensor));
  }

  void read() {
    reader_.read(wanted_);
    for (const auto& [index, target] : converted_) {
      const OwnedTensor& host = staging_[index];
      const OwnedTensor moved(target.shape, host.tensor.dtype, target.device);
      copy(stream_, host, moved);
      ops_.cast(stream_, moved, target);
      stream_.synchronize();
    }
  }

 private:
  CheckpointReader& reader_;
  const Backend& ops_;
  Stream& stream_;
  std::vector<CheckpointTensor> wanted_;
  std::vector<OwnedTensor> staging_;
  std::vector<std::pair<std::size_t, Tensor>> converted_;
};

template <class T>
std::optional<T> find_attribute(const CheckpointReader& reader, const std::string& group,
                                const std::string& name) {
  const auto& groups = reader.info().groups;
  const auto found = groups.find(group);
  if (found == groups.end()) return std::nullopt;
  const auto value = found->second.find(name);
  if (value == found->second.end() || !std::holds_alternative<T>(value->second)) {
    return std::nullopt;
  }
  return std::get<T>(value->second);
}

template <class T>
T attribute(const CheckpointReader& reader, const std::string& group, const std::string& name) {
  std::optional<T> value = find_attribute<T>(reader, group, name);
  if (!value) fail("the checkpoint {} lacks the attribute {} of {}", reader.path(), name, group);
  return *std::move(value);
}

GuardState read_guards(const CheckpointReader& reader) {
  GuardState guards;
  if (!reader.info().groups.contains(kGuards)) return guards;
  const auto number = [&](const char* name) {
    return attribute<std::int64_t>(reader, kGuards, name);
  };
  guards.in_a_row = number("in_a_row");
  guards.spikes_in_a_row = number("spikes_in_a_row");
  guards.skipped_steps = number("skipped_steps");
  guards.rewinds = number("rewinds");
  guards.rewound_samples =
      read_sample_ranges(attribute<std::string>(reader, kGuards, "rewound_samples"));
  const auto window = reader.info().texts.find(kWindow);
  if (window != reader.info().texts.end()) read_window(window->second, guards);
  return guards;
}

LossScalerState read_loss_scaler(const CheckpointReader& reader) {
  LossScalerState state;
  if (!reader.info().groups.contains(kLossScaler)) return state;
  const auto number = [&](const char* name) {
    return attribute<std::int64_t>(reader, kLossScaler, name);
  };
  state.scale = attribute<double>(reader, kLossScaler, "scale");
  state.dynamic = number("dynamic") != 0;
  state.hysteresis = number("hysteresis");
  state.good_steps = number("good_steps");
  state.overflow_steps = number("overflow_steps");
  return state;
}

// Not only at the start: another checkpoint may have been loaded before, as far as it was whole.
void clear_optimizer(ParameterStore& store, Optimizer& optimizer, Stream& stream) {
  for (ParameterId id = 0; id < store.size(); ++id) {
    for (const ParameterPiece& piece : store.update_pieces(id)) {
      for (int i = 0; i < state_count(store); ++i) {
        fill_zero(stream, store.piece(optimizer_state(i), piece.piece));
      }
    }
  }
  optimizer.clear_shared_states();
  optimizer.set_steps_taken(0);
}

}  // namespace

std::string checkpoint_path(const std::string& section, const std::string& parameter) {
  std::string path = section + "/" + parameter;
  std::replace(path.begin() + static_cast<std::ptrdiff_t>(section.size()), path.end(), '.', '/');
  return path;
}

Attributes model_attributes(const ModelConfig& model, const std::string& parameter) {
  Attributes attributes{{"name", parameter}};
  if (parameter.find("query_key_value") != std::string::npos) {
    attributes["row_layout"] = std::string("[head][q,k,v][head_dim]");
  }
  if (parameter.starts_with("embed_in") || parameter.starts_with("embed_out")) {
    attributes["vocab_size"] = model.vocab_size;
  }
  return attributes;
}

CheckpointInfo checkpoint_info(const Config& config, const ModelConfig& model,
                               const std::string& config_text, const Progress& progress,
                               std::int64_t optimizer_steps) {
  CheckpointInfo info;
  info.step = progress.step;
  info.consumed_samples = progress.consumed_samples;
  info.consumed_tokens = progress.consumed_tokens;
  info.groups[kOptimizer] = {{"type", config.optimizer.type},
                             {"beta1", config.optimizer.betas[0]},
                             {"beta2", config.optimizer.betas[1]},
                             {"eps", config.optimizer.eps},
                             {"weight_decay", config.optimizer.weight_decay},
                             {"momentum", config.optimizer.momentum},
                             {"adam_step", optimizer_steps}};
  info.groups["/schedule"] = {{"kind", config.schedule.lr_decay_style},
                              {"lr", config.optimizer.lr},
                              {"min_lr", config.schedule.min_lr},
                              {"warmup", config.schedule.warmup},
                              {"decay_iters", config.schedule.lr_decay_iters}};
  info.groups["/data"] = {{"seed", config.train.seed_data},
                          {"consumed_samples", progress.consumed_samples},
                          {"consumed_tokens", progress.consumed_tokens},
                          {"next_sample", progress.next_sample}};
  add_guards(progress.guards, info);
  add_loss_scaler(progress.loss_scaler, info);
  // Counter-based: the seeds and the step are the whole state of every generator.
  info.groups["/rng"] = {{"kind", std::string("philox4x32-10")},
                         {"seed_init", config.train.seed_init},
                         {"seed_dropout", config.train.seed_dropout}};
  info.texts[kConfigText] = config_text;
  if (!model.no_weight_tying) {
    info.links["/model/embed_out/weight"] = "/model/embed_in/weight";
  }
  return info;
}

RunImage run_image(const Transformer& model, const Optimizer& optimizer, const Config& config,
                   const std::string& config_text, const Progress& progress) {
  return {run_tensors(model, optimizer, !config.checkpoint.no_save_optim),
          checkpoint_info(config, model.config(), config_text, progress, optimizer.steps_taken())};
}

std::size_t checkpoint_copy_bytes(const Transformer& model, const Optimizer& optimizer,
                                  const CheckpointConfig& config) {
  const bool copied = saves_in_background(config) || !model.parameters().device().is_cpu();
  if (config.save.empty() || !copied) return 0;
  return HostSnapshot::bytes_for(run_tensors(model, optimizer, !config.no_save_optim));
}

SaveOptions save_options(const CheckpointConfig& config) {
  return {checkpoint_io_from_name(config.io), config.keep_last_n_checkpoints,
          [config](std::int64_t step) { return is_milestone(config, step); }};
}

bool has_optimizer_state(const CheckpointReader& reader) {
  const auto& tensors = reader.tensors();
  const bool any = std::any_of(tensors.begin(), tensors.end(), [](const StoredTensor& tensor) {
    return tensor.path.starts_with(std::string(kOptimizer) + "/");
  });
  if (any) return true;
  // Nothing is all that plain gradient descent in f32 has.
  const Config stored = stored_config(reader);
  return optimizer_states(stored.optimizer).empty() &&
         shared_optimizer_states(stored.optimizer).empty() &&
         stored.precision.precision == DType::f32 && !stored.checkpoint.no_save_optim;
}

Config stored_config(const CheckpointReader& reader) {
  const auto found = reader.info().texts.find(kConfigText);
  require(found != reader.info().texts.end(), "the checkpoint {} holds no configuration ({})",
          reader.path(), kConfigText);
  return parse_ini_text(found->second, reader.path() + ":" + kConfigText);
}

std::string other_optimizer(const CheckpointReader& reader, const OptimizerConfig& config) {
  const auto text = [](const OptimizerConfig& optimizer) {
    auto states = optimizer_states(optimizer);
    for (auto& name : shared_optimizer_states(optimizer)) states.push_back(std::move(name));
    return fmt::format("{} ({})", optimizer.type,
                       states.empty() ? "no state" : fmt::format("{}", fmt::join(states, ", ")));
  };
  const std::string stored = text(stored_config(reader).optimizer), wanted = text(config);
  if (stored == wanted) return "";
  return fmt::format("holds the state of optimizer.type = {}, not of {}", stored, wanted);
}

Progress load_run(CheckpointReader& reader, Transformer& model, Optimizer* optimizer,
                  LoadScope scope, const Backend& ops, Stream& stream) {
  const auto differences = compare_architecture(stored_config(reader).model, model.config());
  if (!differences.empty()) {
    fail(
        "the checkpoint {} is of another model (in the checkpoint / configured): {}; configure the "
        "checkpoint's model, or set checkpoint.save and checkpoint.load to other directories",
        reader.path(), fmt::join(differences, ", "));
  }
  if (scope == LoadScope::everything && optimizer != nullptr && !has_optimizer_state(reader)) {
    fail(
        "the checkpoint {} holds weights only (checkpoint.no_save_optim): the optimizer's state{} "
        "missing. Set checkpoint.no_load_optim = true to go on from its step with fresh optimizer "
        "state, or resume from a complete checkpoint (checkpoint.iteration)",
        reader.path(),
        stored_config(reader).precision.precision == DType::f32
            ? " is"
            : " and the float32 main weights are");
  }
  if (scope == LoadScope::everything && optimizer != nullptr) {
    const std::string other = other_optimizer(reader, optimizer->config());
    if (!other.empty()) {
      fail(
          "the checkpoint {} {}: one optimizer's state means nothing to another. Configure the "
          "checkpoint's optimizer, or set checkpoint.no_load_optim = true to go on from its step "
          "with fresh optimizer state",
          reader.path(), other);
    }
  }
  ParameterStore& store = model.parameters();
  const bool training = store.mode() == StoreMode::training;
  const bool with_optimizer = scope == LoadScope::everything && optimizer != nullptr;
  TensorLoader loader(reader, ops, stream);
  for (ParameterId id = 0; id < store.size(); ++id) {
    const std::string& name = store.spec(id).name;
    const std::string main_path = checkpoint_path(kMain, name);
    const bool use_main = training && reader.find(main_path) != nullptr;
    for (const ParameterPiece& piece : store.update_pieces(id)) {
      const auto add = [&](const std::string& path, State state) {
        loader.add(path, store.shard(state, id, piece), piece.begin);
      };
      add(use_main ? main_path : checkpoint_path(kModel, name), State::main);
      if (!with_optimizer) continue;
      for (int i = 0; i < state_count(store); ++i) {
        add(checkpoint_path(state_section(store, i), name), optimizer_state(i));
      }
    }
  }
  if (with_optimizer) {
    for (const SharedState& state : optimizer->shared_states()) {
      loader.add(shared_path(state), shared_shard(state), 0);
    }
  }
  loader.read();
  if (!with_optimizer && optimizer != nullptr) clear_optimizer(store, *optimizer, stream);
  store.refresh_weights(ops, stream);
  stream.synchronize();
  if (with_optimizer) {
    optimizer->set_steps_taken(attribute<std::int64_t>(reader, "/optimizer", "adam_step"));
  }
  if (scope == LoadScope::weights_only) return {};
  const auto& info = reader.info();
  // Checkpoints of before there were skipped samples have no position of its own.
  const auto next = find_attribute<std::int64_t>(reader, "/data", "next_sample");
  return {info.step,
          info.consumed_samples,
          info.consumed_tokens,
          next.value_or(info.consumed_samples),
          read_guards(reader),
          read_loss_scaler(reader)};
}

}  // namespace neox
