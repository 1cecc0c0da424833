#pragma once
// Faults of system calls through testing_hooks::fail_call, on this rank.

#include <map>
#include <mutex>
#include <string>

#include "io/checkpoint/posix_file.h"

namespace neox {

/// The calls named `call`, from number `first` on: one of them, or all.
struct Fault {
  std::string call;
  int first = 0;
  int answer = 0;  ///< errno, or minus the most bytes that move
  bool lasting = false;
};

/// Counts all calls while it lives, and fails those of the fault. One at a time.
class InjectedFaults {
 public:
  explicit InjectedFaults(Fault fault = {}) : fault_(std::move(fault)) {
    current_ = this;
    testing_hooks::fail_call = &InjectedFaults::ask;
  }
  ~InjectedFaults() {
    testing_hooks::fail_call = nullptr;
    current_ = nullptr;
  }
  InjectedFaults(const InjectedFaults&) = delete;
  InjectedFaults& operator=(const InjectedFaults&) = delete;

  std::map<std::string, int> calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  int fired() const {
    const std::lock_guard lock(mutex_);
    return fired_;
  }

 private:
  static int ask(const char* call, const std::string&) { return current_->answer(call); }
  int answer(const char* call) {
    const std::lock_guard lock(mutex_);  // a save's writer is a thread of its own
    const int number = calls_[call]++;
    if (fault_.call != call || number < fault_.first) return 0;
    if (!fault_.lasting && number > fault_.first) return 0;
    ++fired_;
    return fault_.answer;
  }

  static inline InjectedFaults* current_ = nullptr;
  Fault fault_;
  mutable std::mutex mutex_;
  std::map<std::string, int> calls_;
  int fired_ = 0;
};

}  // namespace neox
