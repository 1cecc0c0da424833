#pragma once
// Where memory lives and work runs. The CPU is built in; an accelerator backend registers a
// DeviceRuntime at start-up, so nothing above this file knows its library.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace neox {

/// `simulated` is a GPU without a GPU: memory that only its own runtime and kernels may touch, and
/// the CUDA kernels' code run on the host, thread by thread. Slow; for tests.
enum class DeviceKind : std::uint8_t { cpu, cuda, simulated };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
  bool is_cpu() const { return kind == DeviceKind::cpu; }
};
/// "cpu", "cuda:0", "simulated:0"
std::string name_of(Device device);

/// A queue of work on one device. Work of one stream runs in order; streams run concurrently.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual Device device() const = 0;
  /// Waits until everything queued so far has run; throws the error of failed work.
  virtual void synchronize() = 0;
  /// The library's handle (cudaStream_t); null for the CPU, whose streams run work immediately.
  virtual void* native() const { return nullptr; }
};

/// A point in a stream's work.
class Event {
 public:
  virtual ~Event() = default;
  virtual void record(Stream& stream) = 0;
  /// Makes later work of `stream` wait for the recorded point.
  virtual void make_wait(Stream& stream) = 0;
  virtual bool done() const = 0;
  /// Blocks the host until the recorded point is reached.
  virtual void synchronize() = 0;
};

/// Work of a `high` stream goes before work of `normal` ones where both are ready: for
/// communication beside computation.
enum class StreamPriority : std::uint8_t { normal, high };

/// Memory and streams of one kind of device.
class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;
  /// 256-byte aligned; throws Error naming the size when there is no room. Contents are undefined.
  virtual void* allocate(std::size_t bytes, int device_index) = 0;
  virtual void release(void* memory, std::size_t bytes, int device_index) = 0;
  /// Host memory that this device copies from and to at full speed, beside other work (page-locked
  /// for CUDA); otherwise as allocate().
  virtual void* allocate_host(std::size_t bytes, int device_index) = 0;
  virtual void release_host(void* memory, std::size_t bytes, int device_index) = 0;
  /// Copies between any two of {host, this device}, ordered on `stream`.
  virtual void copy(void* to, Device to_device, const void* from, Device from_device,
                    std::size_t bytes, Stream& stream) = 0;
  virtual void fill_zero(void* memory, std::size_t bytes, Stream& stream) = 0;
  virtual std::unique_ptr<Stream> make_stream(int device_index, StreamPriority priority) = 0;
  virtual std::unique_ptr<Event> make_event(int device_index) = 0;
  /// Devices that this process sees: indices [0, n).
  virtual int device_count() { return 1; }
  /// Makes it the current device of the calling thread, for libraries that ask which one that is.
  virtual void make_current(int) {}
  /// The same text in all processes of a node that mean the same piece of hardware, whatever their
  /// index for it: a PCI address. "": such devices are not shared.
  virtual std::string physical_name(int) { return ""; }
};

/// Throws Error when no backend for this kind was registered.
DeviceRuntime& device_runtime(DeviceKind kind);
void register_device_runtime(DeviceKind kind, std::unique_ptr<DeviceRuntime> runtime);

std::unique_ptr<Stream> make_stream(Device device,
                                    StreamPriority priority = StreamPriority::normal);
std::unique_ptr<Event> make_event(Device device);

/// Whose memory it is. What a model needs follows from its layout (MemoryPlan); what a backend
/// keeps for itself (packed weights, scratch of its threads) follows from its implementation.
enum class MemoryOwner : std::uint8_t { run, backend };

/// Counts of device allocations since program start: the steady state of training allocates
/// nothing, and tests assert it with these.
struct AllocationCounts {
  std::int64_t calls = 0;
  std::int64_t bytes_live = 0;
  std::int64_t bytes_peak = 0;
};
AllocationCounts allocation_counts(MemoryOwner owner);
/// Of all owners together.
AllocationCounts allocation_counts();
/// From now on bytes_peak is the most since this call.
void restart_allocation_peaks();
namespace detail {
void count_allocation(std::int64_t bytes, MemoryOwner owner);
void count_release(std::int64_t bytes, MemoryOwner owner);
}  // namespace detail

}  // namespace neox
