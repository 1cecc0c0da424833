#include "kernels/cuda/simulated_runtime.h"

#include <cstdlib>
#include <cstring>

#include "core/base/error.h"
#include "core/base/format.h"
#include "core/tensor/device.h"

namespace neox {
namespace {

constexpr std::size_t kAlignment = 256;

class SimulatedStream final : public Stream {
 public:
  explicit SimulatedStream(int index) : index_(index) {}
  Device device() const override { return {DeviceKind::simulated, index_}; }
  void synchronize() override {}

 private:
  int index_;
};

class SimulatedEvent final : public Event {
 public:
  void record(Stream&) override {}
  void make_wait(Stream&) override {}
  bool done() const override { return true; }
  void synchronize() override {}
};

class SimulatedRuntime final : public DeviceRuntime {
 public:
  void* allocate(std::size_t bytes, int) override {
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = std::aligned_alloc(kAlignment, rounded);
    require(memory != nullptr, "out of memory: {} could not be allocated", format_bytes(bytes));
    std::memset(memory, 0xff, rounded);  // as undefined as a GPU's: NaN in every dtype
    return memory;
  }
  void release(void* memory, std::size_t, int) override { std::free(memory); }
  void* allocate_host(std::size_t bytes, int index) override { return allocate(bytes, index); }
  void release_host(void* memory, std::size_t bytes, int index) override {
    release(memory, bytes, index);
  }
  void copy(void* to, Device, const void* from, Device, std::size_t bytes, Stream&) override {
    if (bytes > 0) std::memmove(to, from, bytes);
  }
  void fill_zero(void* memory, std::size_t bytes, Stream&) override {
    if (bytes > 0) std::memset(memory, 0, bytes);
  }
  std::unique_ptr<Stream> make_stream(int index, StreamPriority) override {
    return std::make_unique<SimulatedStream>(index);
  }
  std::unique_ptr<Event> make_event(int) override { return std::make_unique<SimulatedEvent>(); }
};

}  // namespace

void register_simulated_runtime() {
  register_device_runtime(DeviceKind::simulated, std::make_unique<SimulatedRuntime>());
}

}  // namespace neox
