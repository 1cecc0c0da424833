#include "kernels/cuda/cudnn_graph.h"

#include <bit>

#include "core/base/error.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/plan_cache.h"

#ifdef NEOX_HAS_CUDNN
#define CUDNN_FRONTEND_SKIP_JSON_LIB  // it serializes graphs, which we don't
#include <cudnn_frontend.h>
#endif

namespace neox {

std::size_t CudnnAttentionKey::hash() const {
  std::uint64_t hash = 0;
  mix_hash(hash, static_cast<std::int64_t>(dtype) | std::int64_t{backward} << 8 |
                     std::int64_t{std::bit_cast<std::uint32_t>(scale)} << 16);
  for (const std::int64_t value : {batch, query_length, key_length, heads, kv_heads, head_dim}) {
    mix_hash(hash, value);
  }
  for (const Strides& strides : {q, k, v, dq, dk, dv}) {
    for (const std::int64_t value : strides) mix_hash(hash, value);
  }
  return hash;
}

#ifdef NEOX_HAS_CUDNN
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;
using Operand = std::shared_ptr<Tensor_attributes>;

/// The order of these is that of CudnnGraph::run's pointers.
enum Uid : std::int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };
constexpr std::size_t kForwardPointers = kLse;
constexpr std::size_t kBackwardPointers = kDv;

void cudnn_check(cudnnStatus_t status, std::string_view call,
                 std::source_location where = std::source_location::current()) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  throw Error(fmt::format("cuDNN call {} failed with {} ({})", call, cudnnGetErrorString(status),
                          static_cast<int>(status)),
              where);
}

/// Sets what all heads, [batch, heads, length, head_dim] to cuDNN, have in common.
void shape_heads(Tensor_attributes& tensor, const CudnnAttentionKey& key, Uid uid,
                 std::int64_t heads, std::int64_t length,
                 const CudnnAttentionKey::Strides& strides) {
  tensor.set_uid(uid)
      .set_dim({key.batch, heads, length, key.head_dim})
      .set_stride({strides[0], strides[2], strides[1], 1});
}
void shape_lse(Tensor_attributes& tensor, const CudnnAttentionKey& key) {
  tensor.set_uid(kLse)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim({key.batch, key.heads, key.query_length, 1})
      .set_stride({key.heads * key.query_length, key.query_length, 1, 1});
}
/// Of out and dout [batch, query_length, heads * head_dim].
CudnnAttentionKey::Strides contiguous(const CudnnAttentionKey& key) {
  const std::int64_t width = key.heads * key.head_dim;
  return {key.query_length * width, width, key.head_dim};
}

Operand input_heads(Graph& graph, const CudnnAttentionKey& key, Uid uid, std::int64_t heads,
                    std::int64_t length, const CudnnAttentionKey::Strides& strides) {
  Tensor_attributes tensor;
  shape_heads(tensor, key, uid, heads, length, strides);
  return graph.tensor(tensor);
}

/// Query i sees keys j <= i + key_length - query_length: the diagonal ends at the bottom right.
template <class Attributes>
Attributes attributes_of(const CudnnAttentionKey& key) {
  Attributes attributes;
  attributes.set_name("attention");
  attributes.set_attn_scale(key.scale);
  attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT);
  attributes.set_diagonal_band_right_bound(0);
  return attributes;
}

void describe_forward(Graph& graph, const CudnnAttentionKey& key, const Operand& q,
                      const Operand& k, const Operand& v) {
  auto attributes = attributes_of<fe::graph::SDPA_attributes>(key);
  attributes.set_generate_stats(true);
  const auto [out, lse] = graph.sdpa(q, k, v, attributes);
  out->set_output(true);
  shape_heads(*out, key, kOut, key.heads, key.query_length, contiguous(key));
  lse->set_output(true);
  shape_lse(*lse, key);
}

void describe_backward(Graph& graph, const CudnnAttentionKey& key, bool deterministic,
                       const Operand& q, const Operand& k, const Operand& v) {
  auto attributes = attributes_of<fe::graph::SDPA_backward_attributes>(key);
  attributes.set_deterministic_algorithm(deterministic);
  const Operand out = input_heads(graph, key, kOut, key.heads, key.query_length, contiguous(key));
  const Operand dout = input_heads(graph, key, kDout, key.heads, key.query_length, contiguous(key));
  Tensor_attributes lse;
  shape_lse(lse, key);
  const auto [dq, dk, dv] = graph.sdpa_backward(q, k, v, out, dout, graph.tensor(lse), attributes);
  for (const Operand& gradient : {dq, dk, dv}) gradient->set_output(true);
  shape_heads(*dq, key, kDq, key.heads, key.query_length, key.dq);
  shape_heads(*dk, key, kDk, key.kv_heads, key.key_length, key.dk);
  shape_heads(*dv, key, kDv, key.kv_heads, key.key_length, key.dv);
}

void describe(Graph& graph, const CudnnAttentionKey& key, bool deterministic) {
  graph.set_io_data_type(key.dtype == DType::f16 ? fe::DataType_t::HALF : fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const Operand q = input_heads(graph, key, kQ, key.heads, key.query_length, key.q);
  const Operand k = input_heads(graph, key, kK, key.kv_heads, key.key_length, key.k);
  const Operand v = input_heads(graph, key, kV, key.kv_heads, key.key_length, key.v);
  if (key.backward) {
    describe_backward(graph, key, deterministic, q, k, v);
  } else {
    describe_forward(graph, key, q, k, v);
  }
}

class FrontendGraph final : public CudnnGraph {
 public:
  /// `compute_capability` 90 is Hopper; 0: that of the current device.
  FrontendGraph(const CudnnAttentionKey& key, bool deterministic, int compute_capability)
      : pointers_(key.backward ? kBackwardPointers : kForwardPointers) {
    // First of all: operations copy what the graph knows when they are added.
    if (compute_capability > 0) graph_.set_sm_version(compute_capability);
    describe(graph_, key, deterministic);
  }
  Graph& graph() { return graph_; }

  std::size_t workspace_bytes() const override { return workspace_bytes_; }
  void run(cudnnContext* handle, std::span<void*> pointers, void* workspace) override {
    if (pointers.size() != pointers_) fail("internal error: wrong operands of cuDNN attention");
    fe::error_t error =
        graph_.execute(handle, pointers.data(), static_cast<int>(pointers.size()), workspace);
    if (error.is_bad()) fail("attention by cuDNN failed: {}", error.get_message());
  }
  /// After plans were built.
  void learn_workspace() {
    workspace_bytes_ = static_cast<std::size_t>(graph_.get_workspace_size());
  }

 private:
  Graph graph_;
  std::size_t pointers_;
  std::size_t workspace_bytes_ = 0;
};

/// Calls the steps until one fails; its message, or "".
template <class... Steps>
std::string first_failure(Steps&&... steps) {
  std::string message;
  const auto failed = [&](auto&& step) {
    fe::error_t error = step();
    if (error.is_good()) return false;
    message = error.get_message();
    if (message.empty()) message = "it gives no reason";
    return true;
  };
  static_cast<void>((failed(steps) || ...));
  return message;
}

const std::vector<fe::HeurMode_t> kHeuristics = {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK};

}  // namespace

cudnnContext* create_cudnn_handle() {
  cudnnHandle_t handle = nullptr;
  cudnn_check(cudnnCreate(&handle), "cudnnCreate");
  return handle;
}
void destroy_cudnn_handle(cudnnContext* handle) {
  static_cast<void>(cudnnDestroy(handle));
}
void set_cudnn_stream(cudnnContext* handle, const Stream& stream) {
  cudnn_check(cudnnSetStream(handle, cuda_stream(stream)), "cudnnSetStream");
}

CudnnPlan build_attention(const CudnnAttentionKey& key, bool deterministic, cudnnContext* handle) {
  auto built = std::make_unique<FrontendGraph>(key, deterministic, 0);
  Graph& graph = built->graph();
  CudnnPlan plan;
  plan.reason = first_failure(
      [&] { return graph.validate(); }, [&] { return graph.build_operation_graph(handle); },
      [&] { return graph.create_execution_plans(kHeuristics); },
      [&] { return graph.check_support(); }, [&] { return graph.build_plans(); });
  if (!plan.reason.empty()) return plan;
  plan.candidates = graph.get_execution_plan_count();
  built->learn_workspace();
  plan.graph = std::move(built);
  return plan;
}

CudnnPlan check_attention(const CudnnAttentionKey& key, bool deterministic,
                          const std::string& device) {
  const auto version = device.find("\"deviceVer\": ");  // 900 on Hopper
  require(version != std::string::npos, "the description of a device names no \"deviceVer\"");
  FrontendGraph built(key, deterministic, std::stoi(device.substr(version + 13)) / 10);
  Graph& graph = built.graph();
  const auto properties = std::make_shared<fe::DeviceProperties>();
  graph.set_device_properties(properties);
  CudnnPlan plan;
  plan.reason = first_failure(
      [&] {
        return properties->deserialize({device.begin(), device.end()});
      },
      [&] { return graph.validate(); }, [&] { return graph.build_operation_graph(); },
      [&] { return graph.create_execution_plans(kHeuristics); },
      [&] { return graph.check_support(); });
  if (plan.reason.empty()) plan.candidates = graph.get_execution_plan_count();
  return plan;
}

#else  // without cuDNN or cudnn-frontend at build time

const std::string& cudnn_problem() {
  static const std::string problem =
      "this program was built without cudnn.h or cudnn_frontend.h (./setup.sh --cuda gets the "
      "latter)";
  return problem;
}

cudnnContext* create_cudnn_handle() {
  fail("no cuDNN: {}", cudnn_problem());
}
void destroy_cudnn_handle(cudnnContext*) {}
void set_cudnn_stream(cudnnContext*, const Stream&) {
  fail("no cuDNN: {}", cudnn_problem());
}
CudnnPlan build_attention(const CudnnAttentionKey&, bool, cudnnContext*) {
  return {nullptr, cudnn_problem(), 0};
}
CudnnPlan check_attention(const CudnnAttentionKey&, bool, const std::string&) {
  return {nullptr, cudnn_problem(), 0};
}

#endif

}  // namespace neox
