#pragma once
// Where a run's numbers go: metrics.jsonl and TensorBoard event files.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace neox {

/// Name ("train/lm_loss") and value.
using Metric = std::pair<std::string, double>;

/// One destination of metrics. Writing throws Error; MetricLog keeps that from the training loop.
class MetricSink {
 public:
  virtual ~MetricSink() = default;
  /// The file or folder written, for messages.
  virtual const std::string& where() const = 0;
  /// One record of values that belong to optimizer step `step`; on disk when it returns.
  virtual void scalars(std::int64_t step, std::span<const Metric> values) = 0;
  /// A text of the run (Markdown), such as its configuration. Sinks without texts ignore it.
  virtual void text(std::int64_t /*step*/, std::string_view /*name*/, std::string_view /*text*/) {}
};

/// <path>: one JSON object a line, {"step": 7, "time": 1700000000.123, "train/lm_loss": 3.2, ...};
/// time in seconds since 1970; a value that is not finite is null. Appends to what is there, but
/// first removes, atomically, the lines after step `resumed_step` (the steps about to be done
/// again) and lines that are not whole. Creates missing folders. Throws Error naming the file when
/// it can't be written.
std::unique_ptr<MetricSink> make_jsonl_sink(const std::string& path, std::int64_t resumed_step);

/// A new TensorBoard event file (io/metrics/event_file.h) in `directory`, whose first event makes
/// TensorBoard forget what older files there say about steps after `resumed_step`. Creates missing
/// folders. Throws Error naming the folder when it can't be written.
std::unique_ptr<MetricSink> make_tensorboard_sink(const std::string& directory,
                                                  std::int64_t resumed_step);

/// Hands each record to several sinks. Recording never throws: a sink that fails (disk full) is
/// warned about once and tried again with every record; the records lost are counted at the end.
class MetricLog {
 public:
  MetricLog() = default;
  ~MetricLog();
  MetricLog(const MetricLog&) = delete;
  MetricLog& operator=(const MetricLog&) = delete;

  void add(std::unique_ptr<MetricSink> sink);
  void scalars(std::int64_t step, std::span<const Metric> values) noexcept;
  void text(std::int64_t step, std::string_view name, std::string_view text) noexcept;
  bool empty() const { return sinks_.empty(); }

 private:
  struct Entry {
    std::unique_ptr<MetricSink> sink;
    std::int64_t lost = 0;  // records
  };
  template <class F>
  void for_each_sink(F&& write) noexcept;

  std::vector<Entry> sinks_;
};

}  // namespace neox
