#pragma once
// Named ranges on the time line of a profiler. Off unless a device's runtime turned them on
// (DeviceTools::show_ranges); then a range costs one load and one branch.

#include <atomic>
#include <cstdint>
#include <string_view>

namespace neox::trace {

/// Where ranges go. Functions of all threads; ranges of one thread are nested.
struct Sink {
  void (*open)(std::string_view name, std::int64_t number);  ///< number: -1 for none
  void (*close)();
};

namespace detail {
inline std::atomic<const Sink*> sink{nullptr};
}  // namespace detail

/// From now on ranges go there; it must live for ever. Null: nowhere.
inline void show_in(const Sink* sink) {
  detail::sink.store(sink, std::memory_order_release);
}

/// What the thread does while this lives: "backward", or with a number "layer 12".
class Range {
 public:
  explicit Range(std::string_view name, std::int64_t number = -1)
      : sink_(detail::sink.load(std::memory_order_acquire)) {
    if (sink_ != nullptr) [[unlikely]]
      sink_->open(name, number);
  }
  ~Range() {
    if (sink_ != nullptr) [[unlikely]]
      sink_->close();
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  const Sink* sink_;
};

}  // namespace neox::trace
