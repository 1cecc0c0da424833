#pragma once
// Threads that work on a stream of inputs side by side, with results in the order of the inputs.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace neox {

/// Runs `workers` threads. Each takes the next input (`read`, one thread at a time; nothing means
/// the end) and turns it into a Result (`work`); the calling thread gets the results in the inputs'
/// order
/// (`consume`). At most 2 * workers + 2 inputs are on their way. The first exception, in the order
/// of the inputs, is thrown again when all threads have ended.
template <class Input, class Result>
class OrderedPipeline {
 public:
  OrderedPipeline(std::function<std::optional<Input>()> read,
                  std::function<Result(int worker, Input)> work,
                  std::function<void(Result)> consume)
      : read_(std::move(read)), work_(std::move(work)), consume_(std::move(consume)) {}

  void run(int workers) {
    window_ = 2 * workers + 2;
    {
      std::vector<std::jthread> threads;
      try {
        for (int i = 0; i < workers; ++i) threads.emplace_back([this, i] { worker_loop(i); });
        consume_loop();
      } catch (...) {
        error_ = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      stop_ = true;
      changed_.notify_all();
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Outcome {
    std::optional<Result> result;  // none: the end of the inputs, or an error
    std::exception_ptr error;
  };

  void worker_loop(int worker) {
    while (true) {
      std::unique_lock reading(read_mutex_);
      const std::int64_t number = next_number_;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || number < consumed_ + window_; });
        if (stop_ || ended_) return;
      }
      ++next_number_;
      Outcome outcome;
      bool last = false;
      try {
        std::optional<Input> input = read_();
        last = !input.has_value();
        if (last) set_ended();
        reading.unlock();
        if (!last) outcome.result = work_(worker, std::move(*input));
      } catch (...) {
        last = true;
        outcome.error = std::current_exception();
        set_ended();
      }
      const std::lock_guard lock(mutex_);
      done_.emplace(number, std::move(outcome));
      changed_.notify_all();
      if (last) return;
    }
  }

  void set_ended() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }

  void consume_loop() {
    while (true) {
      Outcome outcome;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return done_.contains(consumed_); });
        auto node = done_.extract(consumed_);
        outcome = std::move(node.mapped());
      }
      if (outcome.error) std::rethrow_exception(outcome.error);
      if (!outcome.result) return;
      consume_(std::move(*outcome.result));
      const std::lock_guard lock(mutex_);
      ++consumed_;
      changed_.notify_all();
    }
  }

  std::function<std::optional<Input>()> read_;
  std::function<Result(int, Input)> work_;
  std::function<void(Result)> consume_;
  std::mutex read_mutex_;
  std::int64_t next_number_ = 0;  // under read_mutex_

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::int64_t, Outcome> done_;
  std::int64_t consumed_ = 0, window_ = 0;
  bool ended_ = false, stop_ = false;
  std::exception_ptr error_;
};

}  // namespace neox
