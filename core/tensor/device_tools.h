#pragma once
// What a device can do besides holding memory and running streams (device.h): tell the time of a
// point in its work, record work, serve a profiler.

#include <memory>
#include <optional>
#include <string>

#include "core/tensor/device.h"

namespace neox {

/// A point in a stream's work that knows when it was reached, by the device's own clock.
class TimeMark {
 public:
  virtual ~TimeMark() = default;
  virtual void record(Stream& stream) = 0;
  /// Blocks the host until the recorded point is reached.
  virtual void synchronize() = 0;
  /// From `earlier` to this; both of the same device, recorded and reached.
  virtual double seconds_since(const TimeMark& earlier) const = 0;
};

/// Recorded work of a stream, which one call queues again: the same operations with the same
/// arguments, on the same memory. Destroying it is allowed while it runs.
class WorkGraph {
 public:
  virtual ~WorkGraph() = default;
  virtual void launch(Stream& stream) = 0;
};

/// Of a device, all programs that use it together.
struct DeviceMemory {
  std::size_t free = 0, total = 0;
};

/// Of one kind of device. This class is what a kind has whose runtime registered nothing better.
class DeviceTools {
 public:
  virtual ~DeviceTools() = default;

  /// By default the host's clock when the mark is recorded: right where work runs at once.
  virtual std::unique_ptr<TimeMark> make_time_mark(int device_index);
  /// Nothing where the device has no memory of its own.
  virtual std::optional<DeviceMemory> memory(int) { return std::nullopt; }

  /// Whether work can be recorded: "", or why not.
  virtual std::string why_no_graphs() const { return "such a device records no work"; }
  /// Until end_capture or drop_capture, what this thread queues on `stream` is recorded and not
  /// run. Nothing may be allocated meanwhile, and nobody may wait for the stream.
  virtual void begin_capture(Stream& stream);
  virtual std::unique_ptr<WorkGraph> end_capture(Stream& stream);
  /// Ends a capture in which something failed.
  virtual void drop_capture(Stream&) noexcept {}

  /// Tells a profiler that watches the program to record from here / up to here. False: this kind
  /// of device has none.
  virtual bool start_profiler() { return false; }
  virtual bool stop_profiler() { return false; }
  /// From now on trace::Range (core/base/trace.h) is shown in such a profiler.
  virtual bool show_ranges() { return false; }
};

DeviceTools& device_tools(DeviceKind kind);
/// Null: back to what every kind has.
void register_device_tools(DeviceKind kind, std::unique_ptr<DeviceTools> tools);

}  // namespace neox
