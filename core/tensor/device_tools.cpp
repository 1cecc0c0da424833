#include "core/tensor/device_tools.h"

#include <array>
#include <chrono>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

class HostTimeMark final : public TimeMark {
 public:
  void record(Stream&) override { time_ = std::chrono::steady_clock::now(); }
  void synchronize() override {}
  double seconds_since(const TimeMark& earlier) const override {
    const auto& from = dynamic_cast<const HostTimeMark&>(earlier);
    return std::chrono::duration<double>(time_ - from.time_).count();
  }

 private:
  std::chrono::steady_clock::time_point time_{};
};

std::unique_ptr<DeviceTools>& registered(DeviceKind kind) {
  static std::array<std::unique_ptr<DeviceTools>, 3> table;
  return table.at(static_cast<std::size_t>(kind));
}

}  // namespace

std::unique_ptr<TimeMark> DeviceTools::make_time_mark(int) {
  return std::make_unique<HostTimeMark>();
}

void DeviceTools::begin_capture(Stream& stream) {
  fail("internal error: work of {} cannot be recorded: {}", name_of(stream.device()),
       why_no_graphs());
}

std::unique_ptr<WorkGraph> DeviceTools::end_capture(Stream& stream) {
  fail("internal error: work of {} is not being recorded", name_of(stream.device()));
}

DeviceTools& device_tools(DeviceKind kind) {
  static DeviceTools plain;
  const auto& tools = registered(kind);
  return tools != nullptr ? *tools : plain;
}

void register_device_tools(DeviceKind kind, std::unique_ptr<DeviceTools> tools) {
  registered(kind) = std::move(tools);
}

}  // namespace neox
