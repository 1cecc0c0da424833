#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <unistd.h>
#include <utility>

#include "core/base/error.h"
#include "io/metrics/append_file.h"
#include "io/metrics/event_file.h"
#include "io/metrics/metric_log.h"
#include "io/metrics/tensorboard_event.pb.h"

namespace neox {
namespace {

using tensorboard::Event;
using SystemClock = std::chrono::system_clock;

double wall_time() {
  return std::chrono::duration<double>(SystemClock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  const bool known = ::gethostname(name.data(), name.size() - 1) == 0 && name[0] != '\0';
  return known ? std::string(name.data()) : "localhost";
}

/// TensorBoard reads a folder's files in the order of their names: time first, then, where one
/// process makes several within a second, a serial number.
AppendFile create_event_file(const std::string& directory) {
  const auto seconds = static_cast<std::int64_t>(wall_time());
  for (int serial = 0;; ++serial) {
    const auto path =
        std::filesystem::path(directory) / fmt::format("events.out.tfevents.{:010}.{}.{}.{}",
                                                       seconds, host_name(), ::getpid(), serial);
    if (std::filesystem::exists(path)) continue;
    return AppendFile(path.string(), AppendFile::Mode::create_new);
  }
}

class TensorBoardSink final : public MetricSink {
 public:
  TensorBoardSink(const std::string& directory, std::int64_t resumed_step)
      : file_(create_event_file(directory)) {
    Event version;
    version.set_file_version("brain.Event:2");
    Event start;
    start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
    start.set_step(resumed_step + 1);
    write(version);
    write(start);
  }

  const std::string& where() const override { return file_.path(); }

  void scalars(std::int64_t step, std::span<const Metric> values) override {
    Event event;
    event.set_step(step);
    for (const auto& [name, number] : values) {
      auto* value = event.mutable_summary()->add_value();
      value->set_tag(name);
      value->set_simple_value(static_cast<float>(number));
    }
    write(event);
  }

  void text(std::int64_t step, std::string_view name, std::string_view text) override {
    Event event;
    event.set_step(step);
    auto* value = event.mutable_summary()->add_value();
    value->set_tag(std::string(name));
    value->mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
    auto* tensor = value->mutable_tensor();
    tensor->set_dtype(tensorboard::Tensor::DT_STRING);
    tensor->mutable_tensor_shape()->add_dim()->set_size(1);
    tensor->add_string_val(std::string(text));
    write(event);
  }

 private:
  void write(Event& event) {
    event.set_wall_time(wall_time());
    std::string data;
    require(event.SerializeToString(&data), "cannot encode an event for '{}'", where());
    file_.append(tfrecord(data));
  }

  AppendFile file_;
};

}  // namespace

std::unique_ptr<MetricSink> make_tensorboard_sink(const std::string& directory,
                                                  std::int64_t resumed_step) {
  create_directories_for_writing(directory);
  return std::make_unique<TensorBoardSink>(directory, resumed_step);
}

}  // namespace neox
