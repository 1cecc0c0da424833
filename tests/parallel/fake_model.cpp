#include "tests/parallel/fake_model.h"

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

namespace neox::testing {
namespace {

std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

ParameterSpec spec(const std::string& name, Shape shape, bool decay) {
  ParameterSpec s;
  s.name = name;
  s.global = shape;
  s.slice = Slice::whole(shape);
  s.decay = decay;
  return s;
}

bool same_bytes(ConstTensor a, ConstTensor b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

OptimizerConfig optimizer_config(double clipping) {
  OptimizerConfig config;
  config.lr = 0.01;
  config.gradient_clipping = clipping;
  return config;
}

}  // namespace

FakeModel::FakeModel(const FakeCase& what, Communicator& world, Communicator& data,
                     Communicator& model)
    : case_(what),
      world_(world),
      data_(data),
      model_(model),
      ops_(make_backend(Device{})),
      stream_(make_stream(Device{})) {
  build(store);
  build(oracle_);
  ShardPlan plan;
  plan.rank = data.rank();
  plan.size = data.size();
  plan.zero_stage = what.zero_stage;
  plan.bucket_elements = what.bucket_elements;
  store.commit(Device{}, what.compute, StoreMode::training, false, plan);
  oracle_.commit(Device{}, what.compute, StoreMode::training);
  for (ParameterId id = 0; id < store.size(); ++id) {
    const Tensor whole = oracle_.main_shard(id).local;
    for (std::int64_t e = 0; e < whole.numel(); ++e) {
      whole.ptr<float>()[e] = contribution(store.spec(id).name, e, -1, 0, 0, false);
    }
    for (const ParameterPiece& p : store.update_pieces(id)) {
      const Tensor flat = whole.reshape({whole.numel()});
      copy(*stream_, flat.slice(p.begin, p.begin + p.piece.size),
           store.piece(State::main, p.piece));
    }
  }
  oracle_.refresh_weights(*ops_, *stream_);
  store.refresh_weights(*ops_, *stream_);
  GradientGroups groups{&data};
  if (what.beside == Beside::tensor) groups.tensor = &model;
  if (what.beside == Beside::key_value) groups.key_value = &model;
  if (what.beside == Beside::embedding) groups.embedding = &model;
  parallel = std::make_unique<DataParallel>(store, groups, *ops_, *stream_, what.exchange);
  const OptimizerConfig config = optimizer_config(what.clipping);
  optimizer_ = std::make_unique<Optimizer>(store, config, *ops_, *stream_, &world);
  oracle_optimizer_ = std::make_unique<Optimizer>(oracle_, optimizer_config(0.0), *ops_, *stream_);
}

void FakeModel::build(ParameterStore& to) const {
  const bool counts = model_.rank() == 0;
  const auto add = [&](const std::string& name, Shape shape, bool decay,
                       GradientSum sum = GradientSum::none) {
    ParameterSpec s = spec(name, shape, decay);
    s.sum = sum;
    if (sum == GradientSum::tensor && case_.beside == Beside::tensor) s.counted = counts;
    return to.add(s);
  };
  const auto layer = [&](int i, std::int64_t width) {
    const std::string name = "layers." + std::to_string(i);
    to.begin_block(name);
    add(name + ".norm", {width}, false, GradientSum::tensor);
    for (const bool weight : {true, false}) {
      std::vector<ParameterSpec> fused;
      for (const char* part : {".q", ".k", ".v"}) {
        const std::int64_t rows = part[1] == 'q' ? 24 : 9;
        const std::string end = weight ? ".weight" : ".bias";
        fused.push_back(spec(name + part + end, weight ? Shape{rows, width} : Shape{rows}, weight));
        if (part[1] == 'q') continue;
        fused.back().sum = GradientSum::key_value;
        fused.back().counted = case_.beside != Beside::key_value || counts;
      }
      to.add_fused(fused);
    }
    add(name + ".dense.weight", {width, 7}, true);
    add(name + ".dense.bias", {width}, false, GradientSum::tensor);
  };
  const auto table = [&](bool counted) {
    ParameterSpec s = spec("word", {13, 8}, true);
    s.tied_across_stages = case_.beside == Beside::embedding;
    s.counted = counted;
    return to.add(s);
  };
  const bool first = case_.beside != Beside::embedding || model_.rank() == 0;
  const bool last = case_.beside != Beside::embedding || model_.rank() == 1;
  ParameterId word = -1;
  if (first) {
    to.begin_block("embedding");
    add("positions", {5, 8}, true, GradientSum::tensor);
    word = table(true);
  }
  if (first) layer(0, 8);
  layer(first ? 1 : 7, 11);
  if (last) layer(2, 8);
  if (!last) return;
  to.begin_block("head");
  add("final_norm", {8}, false, GradientSum::tensor);
  if (case_.beside == Beside::embedding) {
    table(false);
  } else if (case_.tied) {
    to.share(word);
  } else {
    add("output", {13, 8}, true);
  }
}

// ---- gradients ---------------------------------------------------------------------------------

float FakeModel::contribution(const std::string& name, std::int64_t e, std::int64_t micro_batch,
                              int data, int model, bool from_head) const {
  std::uint64_t h = 17;
  for (const char c : name) h = mix(h + static_cast<unsigned char>(c));
  const std::int64_t step = micro_batch < 0 ? -1 : step_;
  for (const std::int64_t x :
       {e, micro_batch, step, std::int64_t{data}, std::int64_t{model}, std::int64_t{from_head}}) {
    h = mix(h + static_cast<std::uint64_t>(x));
  }
  return static_cast<float>(static_cast<double>(h >> 11) * 0x1p-52 - 1.0) * 0.3f;
}

void FakeModel::add_gradient(ParameterId id, std::int64_t micro_batch, bool from_head) {
  const Tensor grad = store.grad(id);
  const bool add = store.accumulates(id);
  float* g = grad.ptr<float>();
  for (std::int64_t e = 0; e < grad.numel(); ++e) {
    const float c =
        contribution(store.spec(id).name, e, micro_batch, data_.rank(), model_.rank(), from_head);
    g[e] = add ? g[e] + c : c;
  }
}

void FakeModel::write_gradients(int block, std::int64_t micro_batch) {
  for (ParameterId id = 0; id < store.size(); ++id) {
    const bool uses_table =
        case_.tied && block == store.block_count() - 1 && store.spec(id).name == "word";
    if (store.block_of(id) == block || uses_table) add_gradient(id, micro_batch, uses_table);
  }
}

// The sum over micro-batches and data-parallel ranks, in the order in which the stage makes it.
float FakeModel::expected_over_data(ParameterId id, std::int64_t e, int model) const {
  const std::string& name = store.spec(id).name;
  const bool table = case_.tied && name == "word";
  const bool every_micro_batch =
      store.sharded(State::gradients) && !store.is_shared(store.block_of(id));
  const auto sent = [&](float x) { return case_.exchange == DType::bf16 ? float(bf16(x)) : x; };
  std::vector<std::pair<std::int64_t, bool>> writes;  // in the order of the calls
  for (const bool pass : {true, false}) {
    for (std::int64_t m = 0; m < case_.micro_batches; ++m) {
      if (case_.pipelined || !table) {
        if (table || !pass) writes.emplace_back(m, pass);
      } else if (pass) {
        writes.emplace_back(m, true);
        writes.emplace_back(m, false);
      }
    }
  }
  float total = 0.0f;
  if (every_micro_batch) {
    for (const auto& [m, head] : writes) {
      float sum = 0.0f;
      for (int d = 0; d < data_.size(); ++d) {
        const float c = sent(contribution(name, e, m, d, model, head));
        sum = d == 0 ? c : sum + c;
      }
      total = m == 0 ? sum : total + sum;
    }
    return total;
  }
  for (int d = 0; d < data_.size(); ++d) {
    float local = 0.0f;
    for (std::size_t w = 0; w < writes.size(); ++w) {
      const float c = contribution(name, e, writes[w].first, d, model, writes[w].second);
      local = w == 0 ? c : local + c;
    }
    if (data_.size() > 1) local = sent(local);
    total = d == 0 ? local : total + local;
  }
  return total;
}

float FakeModel::expected(ParameterId id, std::int64_t e) const {
  const ParameterSpec& s = store.spec(id);
  const bool summed = (case_.beside == Beside::tensor && s.sum == GradientSum::tensor) ||
                      (case_.beside == Beside::key_value && s.sum == GradientSum::key_value) ||
                      (case_.beside == Beside::embedding && s.tied_across_stages);
  if (!summed) return expected_over_data(id, e, model_.rank());
  float total = expected_over_data(id, e, 0);
  for (int m = 1; m < model_.size(); ++m) total += expected_over_data(id, e, m);
  return total;
}

void FakeModel::check_gradients() {
  std::int64_t wrong = 0, checked = 0;
  for (ParameterId id = 0; id < store.size(); ++id) {
    const Tensor want = oracle_.grad(id);
    for (std::int64_t e = 0; e < want.numel(); ++e) want.ptr<float>()[e] = expected(id, e);
    const Tensor flat = want.reshape({want.numel()});
    for (const ParameterPiece& p : store.update_pieces(id)) {
      const Tensor have = store.piece(State::gradients, p.piece);
      checked += have.numel();
      if (!same_bytes(have, flat.slice(p.begin, p.begin + p.piece.size))) ++wrong;
    }
  }
  EXPECT_EQ(wrong, 0) << "gradient pieces of step " << step_;
  EXPECT_GT(checked, 0);
}

double FakeModel::expected_norm() const {
  double sum = 0.0;
  for (ParameterId id = 0; id < store.size(); ++id) {
    if (!store.spec(id).counted || data_.rank() != 0) continue;
    for (const float g : oracle_.grad(id).span<float>()) sum += double{g} * g;
  }
  world_.host_all_reduce(std::span(&sum, 1), ReduceOp::sum);
  return std::sqrt(sum);
}

// ---- a step ------------------------------------------------------------------------------------

void FakeModel::check_block(int block) const {
  for (ParameterId id = 0; id < store.size(); ++id) {
    const bool used =
        case_.tied && block == store.block_count() - 1 && store.spec(id).name == "word";
    if (store.block_of(id) != block && !used) continue;
    EXPECT_TRUE(same_bytes(store.weight(id), oracle_.weight(id)))
        << store.spec(id).name << " in step " << step_;
  }
}

// Of one chunk, or of both when there is one (index -1).
std::vector<int> FakeModel::chunk(int index) const {
  const int half = store.block_count() / 2;
  std::vector<int> blocks;
  for (int b = 0; b < store.block_count(); ++b) {
    if (index < 0 || (b >= half) == (index == 1)) blocks.push_back(b);
  }
  return blocks;
}

void FakeModel::forward(const std::vector<int>& blocks) {
  for (const int b : blocks) {
    parallel->weights_needed(b, false);
    check_block(b);
    parallel->weights_done(b);
  }
}

void FakeModel::backward(const std::vector<int>& blocks, std::int64_t micro_batch) {
  for (auto b = blocks.rbegin(); b != blocks.rend(); ++b) {
    parallel->weights_needed(*b, true);
    check_block(*b);
    parallel->gradients_needed(*b);
    write_gradients(*b, micro_batch);
    parallel->gradients_done(*b);
    parallel->weights_done(*b);
  }
}

double FakeModel::step() {
  ++step_;
  parallel->begin_step(case_.micro_batches);
  const auto pass = [&](int index, bool back) {
    for (std::int64_t m = 0; m < case_.micro_batches; ++m) {
      if (back) backward(chunk(index), m);
      if (!back) forward(chunk(index));
    }
  };
  if (case_.pipelined) {
    pass(0, false), pass(1, false), pass(1, true), pass(0, true);
  } else {
    for (std::int64_t m = 0; m < case_.micro_batches; ++m) {
      forward(chunk(-1));
      backward(chunk(-1), m);
    }
  }
  parallel->finish_gradients();
  check_gradients();
  const double norm = optimizer_->step(0.01).grad_norm;
  parallel->gather_weights();
  const double want = expected_norm();
  EXPECT_NEAR(norm / want, 1.0, 1e-12);
  if (case_.clipping > 0.0) return norm;
  oracle_optimizer_->step(0.01);
  return norm;
}

void FakeModel::check_state() const {
  const auto check = [&](State state, ParameterId id, const Shard& whole) {
    const Tensor flat = whole.local.reshape({whole.local.numel()});
    for (const ParameterPiece& p : store.update_pieces(id)) {
      EXPECT_TRUE(
          same_bytes(store.piece(state, p.piece), flat.slice(p.begin, p.begin + p.piece.size)))
          << whole.name << ", state " << static_cast<int>(state) << ", element " << p.begin;
    }
  };
  for (ParameterId id = 0; id < store.size(); ++id) {
    for (const State state : {State::weights, State::main, State::optimizer0, State::optimizer1}) {
      check(state, id, oracle_.whole_shard(state, id));
    }
  }
}

void expect_all_stages(FakeCase what, Communicator& world, Communicator& data,
                       Communicator& model) {
  std::vector<double> norms;
  for (what.zero_stage = 0; what.zero_stage <= 3; ++what.zero_stage) {
    SCOPED_TRACE(::testing::Message()
                 << "stage " << what.zero_stage << ", micro-batches " << what.micro_batches
                 << ", buckets " << what.bucket_elements << ", tied " << what.tied << ", pipelined "
                 << what.pipelined << ", compute " << name_of(what.compute) << ", exchange "
                 << name_of(what.exchange));
    FakeModel fake(what, world, data, model);
    for (int i = 0; i < 3; ++i) norms.push_back(fake.step());
    fake.check_state();
    if (what.zero_stage == 0) continue;
    const std::size_t same = what.micro_batches == 1 ? 0 : (what.zero_stage < 2 ? 0 : 2);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto stage = static_cast<std::size_t>(what.zero_stage);
      EXPECT_EQ(norms[stage * 3 + i], norms[same * 3 + i]) << "norm of step " << i;
    }
  }
}

}  // namespace neox::testing
