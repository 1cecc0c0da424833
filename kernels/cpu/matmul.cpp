#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include <dnnl.hpp>
#include <omp.h>

#include "core/base/error.h"

namespace neox {
namespace {

using dnnl::memory;

memory::data_type library_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return memory::data_type::f32;
    case DType::bf16:
      return memory::data_type::bf16;
    default:
      fail("internal error: a matrix product of {} reached oneDNN; f32 or bf16 was expected",
           name_of(dtype));
  }
}

struct ProblemHash {
  std::size_t operator()(const MatmulProblem& p) const {
    std::uint64_t h = 0xcbf29ce484222325u;
    const auto mix = [&h](std::int64_t v) {
      h = (h ^ static_cast<std::uint64_t>(v)) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    };
    for (const std::int64_t v : {p.m, p.n, p.k, p.lda, p.ldb, p.ldc}) mix(v);
    mix(static_cast<std::int64_t>(p.in) << 24 | static_cast<std::int64_t>(p.out) << 16 |
        static_cast<std::int64_t>(p.rhs) << 8 | (p.transpose_a ? 4 : 0) | (p.bias ? 2 : 0) |
        (p.accumulate ? 1 : 0));
    mix(p.threads);
    return h;
  }
};

// What we need of a memory descriptor's blocking; versions 2 and 3 of the library spell it
// differently.
struct Blocking {
  bool blocked = false;
  memory::dims strides, inner_sizes, inner_axes;
};

Blocking blocking_of(const memory::desc& desc) {
  Blocking b;
#if DNNL_VERSION_MAJOR >= 3
  b.blocked = desc.get_format_kind() == memory::format_kind::blocked;
  if (b.blocked) {
    b.strides = desc.get_strides();
    b.inner_sizes = desc.get_inner_blks();
    b.inner_axes = desc.get_inner_idxs();
  }
#else
  const auto& data = desc.data;
  b.blocked = data.format_kind == dnnl_blocked;
  if (b.blocked) {
    const auto& blocking = data.format_desc.blocking;
    b.strides.assign(blocking.strides, blocking.strides + data.ndims);
    b.inner_sizes.assign(blocking.inner_blks, blocking.inner_blks + blocking.inner_nblks);
    b.inner_axes.assign(blocking.inner_idxs, blocking.inner_idxs + blocking.inner_nblks);
  }
#endif
  return b;
}

// The layout in our packers' terms, when it is one of theirs: 16 words of k by some columns of n.
std::optional<PackedLayout> packed_layout(const memory::desc& desc, const MatmulProblem& p) {
  const Blocking b = blocking_of(desc);
  const std::int64_t pair = p.in == DType::f32 ? 1 : 2;
  const std::size_t inner = pair == 1 ? 2 : 3;
  if (!b.blocked || b.inner_sizes.size() != inner) return std::nullopt;
  if (b.inner_axes[0] != 0 || b.inner_sizes[0] != 16) return std::nullopt;
  if (b.inner_axes[1] != 1 || b.inner_sizes[1] % 16 != 0) return std::nullopt;
  if (pair == 2 && (b.inner_axes[2] != 0 || b.inner_sizes[2] != 2)) return std::nullopt;
  return PackedLayout{p.in, p.k, p.n, b.inner_sizes[1], b.strides[0] / pair, b.strides[1] / pair};
}

}  // namespace

std::byte* ScratchBuffer::at_least(std::size_t bytes) {
  if (buffer_.bytes() < bytes) {
    buffer_ = Buffer();  // give back first: both would not fit where memory is tight
    buffer_ = Buffer(bytes, Device{}, MemoryOwner::backend);
  }
  return buffer_.data();
}

class Matmul::Impl {
 public:
  struct Entry {
    dnnl::matmul primitive;
    memory a, b, bias, c, scratchpad;
    std::size_t scratchpad_bytes = 0, packed_bytes = 0;
    std::optional<PackedLayout> layout;
  };

  Entry& entry(MatmulProblem problem) {
    problem.threads = omp_get_max_threads();  // primitives divide their work when they are made
    auto found = entries_.find(problem);
    if (found == entries_.end()) found = entries_.emplace(problem, make(problem)).first;
    return found->second;
  }

  void run(const MatmulProblem& problem, const void* a, const void* b, const void* bias, void* c) {
    Entry& e = entry(problem);
    e.a.set_data_handle(const_cast<void*>(a));
    e.b.set_data_handle(const_cast<void*>(b));
    e.c.set_data_handle(c);
    // The C interface takes plain arrays; the C++ one builds a map at every call.
    std::array<dnnl_exec_arg_t, 5> args = {
        {{DNNL_ARG_SRC, e.a.get()}, {DNNL_ARG_WEIGHTS, e.b.get()}, {DNNL_ARG_DST, e.c.get()}}};
    int count = 3;
    if (problem.bias) {
      e.bias.set_data_handle(const_cast<void*>(bias));
      args[static_cast<std::size_t>(count++)] = {DNNL_ARG_BIAS, e.bias.get()};
    }
    if (e.scratchpad_bytes > 0) {
      e.scratchpad.set_data_handle(scratchpad_.at_least(e.scratchpad_bytes));
      args[static_cast<std::size_t>(count++)] = {DNNL_ARG_SCRATCHPAD, e.scratchpad.get()};
    }
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(e.primitive.get(), stream_.get(), count, args.data()),
        "a matrix product failed");
    stream_.wait();
  }

 private:
  Entry make(const MatmulProblem& p) {
    const memory::data_type in = library_type(p.in), out = library_type(p.out);
    const memory::dims a_strides = p.transpose_a ? memory::dims{1, p.lda} : memory::dims{p.lda, 1};
    const memory::desc a({p.m, p.k}, in, a_strides);
    const memory::desc c({p.m, p.n}, out, memory::dims{p.ldc, 1});
    memory::desc b;
    switch (p.rhs) {
      case Rhs::packed:
        b = memory::desc({p.k, p.n}, in, memory::format_tag::any);
        break;
      case Rhs::rows:
        b = memory::desc({p.k, p.n}, in, memory::dims{p.ldb, 1});
        break;
      case Rhs::transposed:
        b = memory::desc({p.k, p.n}, in, memory::dims{1, p.ldb});
        break;
    }
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (p.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    memory::desc bias;
    if (p.bias) bias = memory::desc({1, p.n}, in, memory::format_tag::ab);
    const auto description = describe(a, b, bias, c, attributes);
    Entry e;
    e.primitive = dnnl::matmul(description);
    e.a = memory(a, engine_, nullptr);
    e.b = memory(description.weights_desc(), engine_, nullptr);
    e.c = memory(c, engine_, nullptr);
    if (p.bias) e.bias = memory(bias, engine_, nullptr);
    e.scratchpad_bytes = description.scratchpad_desc().get_size();
    e.scratchpad = memory(description.scratchpad_desc(), engine_, nullptr);
    e.packed_bytes = description.weights_desc().get_size();
    if (p.rhs == Rhs::packed) e.layout = packed_layout(description.weights_desc(), p);
    return e;
  }

  dnnl::matmul::primitive_desc describe(const memory::desc& a, const memory::desc& b,
                                        const memory::desc& bias, const memory::desc& c,
                                        const dnnl::primitive_attr& attributes) const {
#if DNNL_VERSION_MAJOR >= 3
    return {engine_, a, b, bias, c, attributes};
#else
    return {dnnl::matmul::desc(a, b, bias, c), attributes, engine_};
#endif
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::unordered_map<MatmulProblem, Entry, ProblemHash> entries_;
  ScratchBuffer scratchpad_;
};

Matmul::Matmul() : impl_(std::make_unique<Impl>()) {}
Matmul::~Matmul() = default;

std::optional<PackedLayout> Matmul::layout(const MatmulProblem& problem) {
  return impl_->entry(problem).layout;
}

std::size_t Matmul::packed_bytes(const MatmulProblem& problem) {
  return impl_->entry(problem).packed_bytes;
}

void Matmul::run(const MatmulProblem& problem, const void* a, const void* b, const void* bias,
                 void* c) {
  impl_->run(problem, a, b, bias, c);
}

bool Matmul::has_bf16() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (isa & wanted) == wanted;
}

}  // namespace neox
