#include "io/metrics/metric_log.h"

#include <exception>

#include "core/base/log.h"

namespace neox {

void MetricLog::add(std::unique_ptr<MetricSink> sink) {
  sinks_.push_back({std::move(sink)});
}

MetricLog::~MetricLog() {
  for (const auto& entry : sinks_) {
    if (entry.lost > 0)
      log_warning("'{}' lacks {} records that could not be written", entry.sink->where(),
                  entry.lost);
  }
}

template <class F>
void MetricLog::for_each_sink(F&& write) noexcept {
  for (auto& entry : sinks_) {
    try {
      write(*entry.sink);
    } catch (const std::exception& e) {
      // Only once: on a disk that is nearly full, failures and successes alternate.
      if (entry.lost++ == 0) {
        log_warning("metrics are being lost, training goes on: {}", e.what());
      }
    }
  }
}

void MetricLog::scalars(std::int64_t step, std::span<const Metric> values) noexcept {
  for_each_sink([&](MetricSink& sink) { sink.scalars(step, values); });
}

void MetricLog::text(std::int64_t step, std::string_view name, std::string_view text) noexcept {
  for_each_sink([&](MetricSink& sink) { sink.text(step, name, text); });
}

}  // namespace neox
