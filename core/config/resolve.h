#pragma once
// Derived values and cross-checks of a parsed configuration.

#include <cstdint>
#include <span>

#include "core/config/config.h"
#include "core/config/parse.h"

namespace neox {

/// Makes a parsed configuration ready for training on `world_size` ranks: fills what was left open
/// (the third batch size, num_kv_heads, intermediate_size, max_position_embeddings, seeds,
/// lr_decay_iters, log directories) and checks everything that needs more than one option.
/// Idempotent. vocab_size may stay 0 (from the tokenizer). `origins` (from ParsedCommand) adds file
/// and line to the messages. Throws one Error that lists every problem, one line each.
void resolve(Config& config, std::int64_t world_size, const Origins& origins = {});

/// The part of resolve() that concerns the model; for programs that do not train.
void resolve_model(ModelConfig& model, const Origins& origins = {});

/// `model` with num_kv_heads, intermediate_size and max_position_embeddings filled in; checks
/// nothing.
ModelConfig with_derived_values(ModelConfig model);

/// Keys of the options that only mean something with precision.precision = fp16.
std::span<const char* const> loss_scale_options();

/// Data-parallel size: world_size / (pipe_parallel_size * model_parallel_size).
std::int64_t data_parallel_size(const ParallelConfig& parallel, std::int64_t world_size);

}  // namespace neox
