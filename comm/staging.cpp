#include "comm/staging.h"

#include <algorithm>
#include <bit>
#include <exception>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::size_t kLeastBytes = 4096;

/// Sizes that slots come in: four to an octave, so that at most a fifth is unused and operations of
/// slightly different sizes share slots.
std::size_t slot_bytes(std::size_t bytes) {
  if (bytes == 0) return 0;
  if (bytes <= kLeastBytes) return kLeastBytes;
  const std::size_t step = std::bit_floor(bytes - 1) / 4;
  return (bytes + step - 1) / step * step;
}

}  // namespace

Staging::Staging(Device device)
    : device_(device),
      uncaught_(std::uncaught_exceptions()),
      loading_(make_stream(device, StreamPriority::high)),
      storing_(make_stream(device, StreamPriority::high)),
      last_stored_(make_event(device)) {
  kept_.reserve(64);
}

Staging::~Staging() {
  bool idle = false;
  if (std::uncaught_exceptions() == uncaught_) {
    try {
      loading_->synchronize();
      storing_->synchronize();
      idle = true;
    } catch (const Error&) {  // reported where somebody waited for the operation, or never wanted
    }
  }
  // The device may still copy from and to this memory.
  if (!idle) static_cast<void>(new std::vector<std::unique_ptr<Slot>>(std::move(slots_)));
}

Staging::Class& Staging::class_of(std::size_t bytes) {
  const std::size_t size = slot_bytes(bytes);
  for (Class& candidate : classes_) {
    if (candidate.bytes == size) return candidate;
  }
  classes_.push_back({size, {}});
  classes_.back().free.reserve(16);
  return classes_.back();
}

Staging::Slot& Staging::begin(std::size_t bytes, Stream& stream) {
  Class& size = class_of(bytes);
  if (size.free.empty()) {
    auto slot = std::make_unique<Slot>();
    slot->memory = Buffer::pinned(size.bytes, device_, MemoryOwner::backend);
    slot->begun = make_event(device_);
    slot->loaded = make_event(device_);
    slot->stored = make_event(device_);
    size.free.push_back(slot.get());
    slots_.push_back(std::move(slot));
  }
  Slot& slot = *size.free.back();
  size.free.pop_back();
  // Without an input only the memory must be free. On the host's own memory (no bytes) the device's
  // work must be done.
  slot.awaited = bytes == 0 ? slot.begun.get() : slot.stored.get();
  slot.store_queued = false;
  slot.output = {};
  slot.from = nullptr;
  slot.late_input = {};
  slot.begun->record(stream);
  return slot;
}

bool Staging::will_be_written(ConstTensor input) const {
  const std::byte* end = input.data + input.bytes();
  return std::any_of(kept_.begin(), kept_.end(), [&](const Kept& kept) {
    const Tensor& output = kept.slot->output;
    return output && output.data < end && input.data < output.data + output.bytes();
  });
}

void Staging::queue_load(Slot& slot, ConstTensor input, std::byte* to) {
  slot.begun->make_wait(*loading_);
  slot.stored->make_wait(*loading_);  // the slot's last output may still be on its way out
  copy(*loading_, input, Tensor(to, input.shape, input.dtype, Device{}));
  slot.loaded->record(*loading_);
  slot.awaited = slot.loaded.get();
}

void Staging::load(Slot& slot, ConstTensor input, std::byte* to) {
  if (will_be_written(input)) {
    slot.late_input = input;
    slot.late_to = to;
    return;
  }
  const std::lock_guard lock(mutex_);
  queue_load(slot, input, to);
}

void Staging::load_late(Slot& slot) {
  if (!slot.late_input) return;
  const std::lock_guard lock(mutex_);
  last_stored_->make_wait(*loading_);
  queue_load(slot, slot.late_input, slot.late_to);
}

void Staging::set_output(Slot& slot, Tensor output, const std::byte* from) {
  slot.output = output;
  slot.from = from;
}

void Staging::keep(Slot& slot, std::uint64_t id) {
  kept_.push_back({id, &slot});
}

void Staging::drop(Slot& slot) {
  class_of(slot.memory.bytes()).free.push_back(&slot);
}

void Staging::store(Slot& slot) {
  if (!slot.output) return;
  const std::lock_guard lock(mutex_);
  slot.begun->make_wait(*storing_);  // earlier work of the caller may still use the output
  copy(*storing_, ConstTensor(slot.from, slot.output.shape, slot.output.dtype, Device{}),
       slot.output);
  slot.stored->record(*storing_);
  last_stored_->record(*storing_);
  slot.store_queued = true;
}

void Staging::join(Event& event, Stream& stream) const {
  if (stream.device().is_cpu()) {
    event.synchronize();
  } else {
    event.make_wait(stream);
  }
}

void Staging::finish(std::uint64_t id, Stream& stream) {
  const std::lock_guard lock(mutex_);
  const auto kept = std::find_if(kept_.begin(), kept_.end(),
                                 [id](const Kept& candidate) { return candidate.id == id; });
  if (kept == kept_.end()) {  // waited for before; its slot may belong to another operation now
    join(*last_stored_, stream);
    return;
  }
  Slot& slot = *kept->slot;
  if (slot.store_queued) join(*slot.stored, stream);
  *kept = kept_.back();
  kept_.pop_back();
  drop(slot);
}

}  // namespace neox
