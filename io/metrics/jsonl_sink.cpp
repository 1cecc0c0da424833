#include <chrono>
#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "io/metrics/append_file.h"
#include "io/metrics/jsonl_file.h"
#include "io/metrics/metric_log.h"

namespace neox {
namespace {

class JsonlSink final : public MetricSink {
 public:
  JsonlSink(const std::string& path, std::int64_t resumed_step)
      : file_(open_jsonl(path, "metrics", resumed_step)) {}

  const std::string& where() const override { return file_.path(); }

  void scalars(std::int64_t step, std::span<const Metric> values) override {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    nlohmann::ordered_json record;
    record["step"] = step;
    record["time"] = static_cast<double>(ms) / 1000.0;
    for (const auto& [name, value] : values) record[name] = value;  // not finite: dumped as null
    file_.append(record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n');
  }

 private:
  AppendFile file_;
};

}  // namespace

std::unique_ptr<MetricSink> make_jsonl_sink(const std::string& path, std::int64_t resumed_step) {
  return std::make_unique<JsonlSink>(path, resumed_step);
}

}  // namespace neox
