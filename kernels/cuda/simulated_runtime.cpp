#include "kernels/cuda/simulated_runtime.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/format.h"
#include "core/tensor/device_tools.h"

namespace neox {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kMemory = std::size_t{64} << 30;  // what it says to have
std::atomic<std::size_t> used{0};

using Recorded = std::vector<std::function<void()>>;

thread_local int captures = 0;  // under way: others may allocate

class SimulatedStream final : public Stream {
 public:
  explicit SimulatedStream(int index) : index_(index) {}
  Device device() const override { return {DeviceKind::simulated, index_}; }
  void synchronize() override {
    require(!recording, "simulated device: a stream was waited for while its work is recorded");
  }

  bool recording = false;
  Recorded recorded{};

 private:
  int index_;
};

SimulatedStream& simulated(Stream& stream) {
  auto* mine = dynamic_cast<SimulatedStream*>(&stream);
  require(mine != nullptr, "work for a simulated device was given to a stream of {}",
          name_of(stream.device()));
  return *mine;
}

class SimulatedGraph final : public WorkGraph {
 public:
  explicit SimulatedGraph(Recorded work) : work_(std::move(work)) {}
  void launch(Stream& stream) override {
    require(!simulated(stream).recording, "simulated device: a graph was launched inside another");
    for (const auto& item : work_) item();
  }

 private:
  Recorded work_;
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
    require(captures == 0, "simulated device: memory was allocated while work is recorded");
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = std::aligned_alloc(kAlignment, rounded);
    require(memory != nullptr, "out of memory: {} could not be allocated", format_bytes(bytes));
    std::memset(memory, 0xff, rounded);  // as undefined as a GPU's: NaN in every dtype
    used += bytes;
    return memory;
  }
  void release(void* memory, std::size_t bytes, int) override {
    used -= bytes;
    std::free(memory);
  }
  void* allocate_host(std::size_t bytes, int index) override {
    void* memory = allocate(bytes, index);
    used -= bytes;
    return memory;
  }
  void release_host(void* memory, std::size_t, int) override { std::free(memory); }
  void copy(void* to, Device, const void* from, Device, std::size_t bytes,
            Stream& stream) override {
    if (bytes == 0) return;
    const auto work = [=] { std::memmove(to, from, bytes); };
    if (!record_simulated(stream, work)) work();
  }
  void fill_zero(void* memory, std::size_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    const auto work = [=] { std::memset(memory, 0, bytes); };
    if (!record_simulated(stream, work)) work();
  }
  std::unique_ptr<Stream> make_stream(int index, StreamPriority) override {
    return std::make_unique<SimulatedStream>(index);
  }
  std::unique_ptr<Event> make_event(int) override { return std::make_unique<SimulatedEvent>(); }
};

class SimulatedTools final : public DeviceTools {
 public:
  std::optional<DeviceMemory> memory(int) override { return {{kMemory - used, kMemory}}; }
  std::string why_no_graphs() const override { return ""; }
  void begin_capture(Stream& stream) override {
    SimulatedStream& mine = simulated(stream);
    require(!mine.recording, "simulated device: a stream's work is being recorded already");
    mine.recording = true;
    ++captures;
  }
  std::unique_ptr<WorkGraph> end_capture(Stream& stream) override {
    SimulatedStream& mine = simulated(stream);
    require(mine.recording, "simulated device: a stream's work is not being recorded");
    auto graph = std::make_unique<SimulatedGraph>(std::exchange(mine.recorded, {}));
    drop_capture(stream);
    return graph;
  }
  void drop_capture(Stream& stream) noexcept override {
    SimulatedStream& mine = simulated(stream);
    mine.recorded.clear();
    if (std::exchange(mine.recording, false)) --captures;
  }
};

}  // namespace

bool recording_simulated(Stream& stream) {
  const auto* mine = dynamic_cast<const SimulatedStream*>(&stream);
  return mine != nullptr && mine->recording;
}

bool record_simulated(Stream& stream, std::function<void()> work) {
  if (!recording_simulated(stream)) return false;
  simulated(stream).recorded.push_back(std::move(work));
  return true;
}

void register_simulated_runtime() {
  register_device_runtime(DeviceKind::simulated, std::make_unique<SimulatedRuntime>());
  register_device_tools(DeviceKind::simulated, std::make_unique<SimulatedTools>());
}

}  // namespace neox
