// What a dry run says about memory and communication is what a real run takes, to the byte.

#include <cstdio>

#include <gtest/gtest.h>

#include "comm/dry_run_communicator.h"
#include "comm/mpi.h"
#include "core/config/resolve.h"
#include "core/train/dry_run.h"

namespace neox::testing {
namespace {

constexpr int kRanks = 4;

Config base_config() {
  Config config;
  ModelConfig& m = config.model;
  m.num_layers = 4;
  m.hidden_size = 64;
  m.num_attention_heads = 4;
  m.seq_length = 32;
  m.vocab_size = 300;
  m.no_weight_tying = true;
  m.hidden_dropout = 0.1;
  m.attention_dropout = 0.1;
  config.batch.train_batch_size = 16;
  config.batch.train_micro_batch_size_per_gpu = 2;
  config.train.train_iters = 2;
  config.train.cross_entropy_chunk = 24;
  config.parallel.gradient_bucket_mb = 0.05;
  return config;
}

struct Case {
  const char* name;
  void (*change)(Config&);
};

void pipe2(Config& c) {
  c.parallel.pipe_parallel_size = 2;
}
void tensor2(Config& c) {
  c.parallel.model_parallel_size = 2;
}
void zero(Config& c, int stage, DType dtype) {
  c.parallel.zero_stage = stage;
  c.precision.precision = dtype;
}

const Case kCases[] = {
    {"tp 2 x pp 2", [](Config& c) { tensor2(c), pipe2(c); }},
    {"tp 2 x pp 2, rows whole",
     [](Config& c) { tensor2(c), pipe2(c), c.parallel.sequence_parallel = false; }},
    {"tp 2 x pp 2, tied, bf16",
     [](Config& c) {
       tensor2(c), pipe2(c);
       c.model.no_weight_tying = false;
       c.precision.precision = DType::bf16;
     }},
    {"tp 4, two key/value heads",
     [](Config& c) {
       c.parallel.model_parallel_size = 4;
       c.model.num_kv_heads = 2;
     }},
    {"tp 2 x dp 2, zero 3", [](Config& c) { tensor2(c), zero(c, 3, DType::f32); }},
    {"pp 2 x dp 2, zb-h1, zero 2, bf16",
     [](Config& c) {
       pipe2(c), zero(c, 2, DType::bf16);
       c.parallel.pipeline_schedule = "zb-h1";
     }},
    {"pp 2 x 2 chunks x dp 2, zero 1",
     [](Config& c) {
       pipe2(c), zero(c, 1, DType::f32);
       c.parallel.pipeline_schedule = "interleaved";
       c.parallel.virtual_pipeline_size = 2;
     }},
    {"pp 4, gpipe, learned positions, tied",
     [](Config& c) {
       c.parallel.pipe_parallel_size = 4;
       c.parallel.pipeline_schedule = "gpipe";
       c.model.pos_emb = PositionEmbedding::learned;
       c.model.no_weight_tying = false;
     }},
    {"tp 2 x pp 2, zb-h1, ALiBi, embedding norm, QK-norm, tied",
     [](Config& c) {
       tensor2(c), pipe2(c);
       c.parallel.pipeline_schedule = "zb-h1";
       c.model.pos_emb = PositionEmbedding::alibi;
       c.model.embedding_norm = c.model.use_qk_layernorm = true;
       c.model.no_weight_tying = false;
     }},
    {"tp 2 x dp 2, zero 3, scalenorm, sinusoidal, bf16",
     [](Config& c) {
       tensor2(c), zero(c, 3, DType::bf16);
       c.model.norm = NormKind::scalenorm;
       c.model.pos_emb = PositionEmbedding::sinusoidal;
       c.model.embedding_norm = true;
     }},
    {"dp 4, zero 0", [](Config& c) { zero(c, 0, DType::f32); }},
    {"dp 4, zero 1", [](Config& c) { zero(c, 1, DType::f32); }},
    {"dp 4, zero 2", [](Config& c) { zero(c, 2, DType::f32); }},
    {"dp 4, zero 3", [](Config& c) { zero(c, 3, DType::f32); }},
    {"dp 4, zero 0, bf16", [](Config& c) { zero(c, 0, DType::bf16); }},
    {"dp 4, zero 1, bf16", [](Config& c) { zero(c, 1, DType::bf16); }},
    {"dp 4, zero 2, bf16", [](Config& c) { zero(c, 2, DType::bf16); }},
    {"dp 4, zero 3, bf16", [](Config& c) { zero(c, 3, DType::bf16); }},
    {"dp 4, zero 0, fp16", [](Config& c) { zero(c, 0, DType::f16); }},
    {"dp 4, zero 3, fp16, fp16 gradients",
     [](Config& c) {
       zero(c, 3, DType::f16);
       c.parallel.gradient_reduce_dtype = DType::f16;
     }},
    {"tp 2 x pp 2, tied, fp16",
     [](Config& c) {
       tensor2(c), pipe2(c);
       c.model.no_weight_tying = false;
       c.precision.precision = DType::f16;
     }},
    {"dp 4, bf16 gradients", [](Config& c) { c.parallel.gradient_reduce_dtype = DType::bf16; }},
    {"dp 4, zero 2, bf16, lion",
     [](Config& c) {
       zero(c, 2, DType::bf16);
       c.optimizer.type = "lion";
     }},
    {"tp 2 x pp 2, tied, lamb",
     [](Config& c) {
       tensor2(c), pipe2(c);
       c.model.no_weight_tying = false;
       c.optimizer.type = "lamb";
     }},
    {"dp 4, zero 3, bf16, lamb",
     [](Config& c) {
       zero(c, 3, DType::bf16);
       c.optimizer.type = "lamb";
     }},
    {"pp 2 x dp 2, zero 1, sgd with momentum",
     [](Config& c) {
       pipe2(c), zero(c, 1, DType::f32);
       c.optimizer.type = "sgd";
     }},
    {"dp 4, zero 3, plain sgd",
     [](Config& c) {
       zero(c, 3, DType::f32);
       c.optimizer.type = "sgd";
       c.optimizer.momentum = 0;
     }},
    {"dp 4, zero 1, bf16, madgrad",
     [](Config& c) {
       zero(c, 1, DType::bf16);
       c.optimizer.type = "madgrad_wd";
     }},
    {"tp 2 x pp 2, sm3",
     [](Config& c) {
       tensor2(c), pipe2(c);
       c.optimizer.type = "sm3";
     }},
    {"dp 4, zero 2, bf16, sm3",
     [](Config& c) {
       zero(c, 2, DType::bf16);
       c.optimizer.type = "sm3";
       c.optimizer.momentum = 0;
     }},
    {"dp 4, recompute selective", [](Config& c) { c.parallel.recompute = "selective"; }},
    {"dp 4, recompute full", [](Config& c) { c.parallel.recompute = "full"; }},
    {"tp 2 x pp 2, recompute first_n",
     [](Config& c) {
       tensor2(c), pipe2(c);
       c.parallel.recompute = "first_n";
       c.parallel.recompute_layers = 1;
     }},
};

std::vector<MicroBatch> micro_batches(const Config& config) {
  const std::int64_t rows = config.batch.train_micro_batch_size_per_gpu * config.model.seq_length;
  std::vector<MicroBatch> batches;
  for (std::int64_t i = 0; i < config.batch.gradient_accumulation_steps; ++i) {
    MicroBatch& batch = batches.emplace_back();
    for (std::int64_t r = 0; r < rows; ++r) {
      batch.tokens.push_back(static_cast<std::int32_t>((7 * r + i) % config.model.vocab_size));
      batch.labels.push_back(static_cast<std::int32_t>((3 * r + i) % config.model.vocab_size));
      batch.loss_mask.push_back(1.0f);
    }
  }
  return batches;
}

struct Measured {
  MemoryPlan plan;
  std::int64_t peak = 0;                // of the run's own allocations
  std::vector<GroupTraffic> traffic{};  // of the second step
};

Measured measure(Communicator& world, const Config& config) {
  world.barrier();
  restart_allocation_peaks();
  const std::int64_t before = allocation_counts(MemoryOwner::run).bytes_live;
  Engine engine(world, config);
  engine.initialise(1);
  const std::vector<MicroBatch> batches = micro_batches(config);
  engine.train_step(batches, 1e-3, 0, 1e-3);
  const std::vector<GroupTraffic> first = engine.traffic();
  engine.train_step(batches, 1e-3, 1, 1e-3);
  Measured measured{engine.memory_plan(), 0, engine.traffic()};
  for (std::size_t i = 0; i < first.size(); ++i) measured.traffic[i].counts -= first[i].counts;
  engine.evaluate(batches);
  measured.peak = allocation_counts(MemoryOwner::run).bytes_peak - before;
  return measured;
}

Config config_of(const Case& c) {
  Config config = base_config();
  c.change(config);
  resolve(config, kRanks);
  return config;
}

std::size_t state_bytes(const MemoryPlan& m) {
  return m.weights + m.main_weights + m.gradients + m.optimizer;
}

TEST(MemoryOfARun, IsThatOfItsDryRunToTheByte) {
  const auto world = make_world_communicator();
  ASSERT_EQ(world->size(), kRanks);
  if (world->rank() == 0) {
    std::printf("    %-38s %12s %12s %12s\n", "bytes of rank 0", "dry run", "real peak", "backend");
  }
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const Config config = config_of(c);
    const Measured real = measure(*world, config);
    const std::int64_t calls = allocation_counts(MemoryOwner::run).calls;
    const RankPlan dry = plan_rank(config, world->rank(), kRanks);
    EXPECT_EQ(allocation_counts(MemoryOwner::run).calls, calls) << "a dry run allocated";
    EXPECT_EQ(dry.memory, real.plan) << "dry run\n"
                                     << dry.memory.table() << "real\n"
                                     << real.plan.table();
    EXPECT_EQ(static_cast<std::int64_t>(dry.memory.total()), real.peak);
    ASSERT_EQ(dry.traffic.size(), real.traffic.size());
    for (std::size_t i = 0; i < dry.traffic.size(); ++i) {
      EXPECT_EQ(dry.traffic[i].group, real.traffic[i].group);
      EXPECT_EQ(dry.traffic[i].size, real.traffic[i].size);
      EXPECT_TRUE(dry.traffic[i].counts == real.traffic[i].counts) << dry.traffic[i].group;
    }
    if (world->rank() == 0) {
      std::printf("    %-38s %12zu %12lld %12lld\n", c.name, dry.memory.total(),
                  static_cast<long long>(real.peak),
                  static_cast<long long>(allocation_counts(MemoryOwner::backend).bytes_peak));
    }
  }
}

// ZeRO: Rajbhandari et al. 2020, §5; with psi parameters (padding included), d ranks, gradients and
// Adam's two moments in f32, and in bf16 also f32 main weights. In f32 the weights are the main
// weights, so that stage 1 has only the moments to divide.
double bytes_per_parameter(int stage, DType dtype, double d) {
  const bool separate = dtype != DType::f32;
  const double weights = separate ? 2 : 4, main = separate ? 4 : 0;
  return weights / (stage >= 3 ? d : 1) + 4 / (stage >= 2 ? d : 1) +
         (main + 8) / (stage >= 1 ? d : 1);
}

TEST(StateOfZero, ShrinksAsTheFormulasSay) {
  const auto world = make_world_communicator();
  if (world->rank() == 0) {
    std::printf("    %-6s %5s %14s %14s %16s %16s\n", "dtype", "stage", "measured", "formula",
                "bytes/parameter", "temporary blocks");
  }
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (int stage = 0; stage <= 3; ++stage) {
      Config config = base_config();
      zero(config, stage, dtype);
      resolve(config, kRanks);
      std::int64_t parameters = 0;
      {
        const auto dry_world = make_dry_run_communicator(world->rank(), kRanks);
        const Engine dry(*dry_world, config, EngineMode::dry_run);
        parameters = dry.model().parameters().numel();
      }
      const Measured real = measure(*world, config);
      const double formula =
          bytes_per_parameter(stage, dtype, kRanks) * static_cast<double>(parameters);
      const std::size_t temporary = real.plan.gathered_weights + real.plan.gradient_buffers;
      EXPECT_EQ(static_cast<double>(state_bytes(real.plan)), formula);
      EXPECT_EQ(static_cast<std::int64_t>(real.plan.total()), real.peak);
      if (world->rank() == 0) {
        std::printf("    %-6s %5d %14zu %14.0f %16.4f %16zu\n", std::string(name_of(dtype)).c_str(),
                    stage, state_bytes(real.plan), formula,
                    static_cast<double>(state_bytes(real.plan)) / static_cast<double>(parameters),
                    temporary);
      }
    }
  }
}

}  // namespace
}  // namespace neox::testing
