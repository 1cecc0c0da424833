#include "tests/support/deferred_runtime.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "core/base/error.h"

namespace neox {
namespace {

struct Queue;
/// A point in a queue: `count` items have run.
struct Point {
  std::shared_ptr<Queue> queue;
  std::uint64_t count = 0;
  bool reached() const;
};
struct Item {
  std::function<bool()> run;  // empty: waits for `after`
  Point after;
};
struct Queue {
  std::deque<Item> items;
  std::uint64_t ran = 0, queued = 0;
};
bool Point::reached() const {
  return queue == nullptr || queue->ran >= count;
}

struct Range {
  std::size_t bytes = 0;
  bool device = false;
};
struct Released {
  void* memory;
};

struct Machine {
  std::mutex mutex;
  DeferredOrder order = DeferredOrder::lazy;
  std::mt19937_64 random;
  std::vector<std::shared_ptr<Queue>> queues;
  std::map<const std::byte*, Range> memory;  // of the device, and pinned
  int devices = 1;
  std::string physical_name;
  std::vector<Released> released;  // freed as soon as no work is queued

  bool chance(unsigned percent) {
    return order == DeferredOrder::random && random() % 100 < percent;
  }

  /// Runs at most one item, of `queue` or of what it waits for. False: nothing can move.
  bool step(Queue& queue) {
    if (queue.items.empty()) return false;
    Item& item = queue.items.front();
    if (!item.run) {
      if (!item.after.reached()) return step(*item.after.queue);
    } else if (!item.run()) {
      return false;
    }
    queue.items.pop_front();
    ++queue.ran;
    return true;
  }
  bool step_any() {
    bool moved = false;
    for (std::size_t i = 0; i < queues.size(); ++i) {
      moved = step(*queues[i]) || moved;
    }
    return moved;
  }
  void step_some() {
    while (chance(50) && !queues.empty()) step(*queues[random() % queues.size()]);
  }
  void reach(const Point& point, std::unique_lock<std::mutex>& lock) {
    while (!point.reached()) {
      step_some();
      if (step(*point.queue) || step_any()) continue;
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      lock.lock();
    }
    tidy();
  }
  void push(Queue& queue, Item item) {
    queue.items.push_back(std::move(item));
    ++queue.queued;
    if (order == DeferredOrder::at_once) {
      while (step(queue)) {
      }
    }
    step_some();
    tidy();
  }
  void tidy() {
    std::erase_if(queues,
                  [](const auto& queue) { return queue.use_count() == 1 && queue->items.empty(); });
    if (released.empty()) return;
    for (const auto& queue : queues) {
      if (!queue->items.empty()) return;
    }
    for (const Released& block : released) std::free(block.memory);
    released.clear();
  }

  enum class Place : std::uint8_t { device, pinned, pageable };
  Place place_of(const void* at, std::size_t bytes) const {
    const auto* begin = static_cast<const std::byte*>(at);
    auto it = memory.upper_bound(begin);
    if (it == memory.begin()) return Place::pageable;
    --it;
    if (begin >= it->first + it->second.bytes) return Place::pageable;
    require(begin + bytes <= it->first + it->second.bytes,
            "deferred device: {} bytes reach beyond their allocation", bytes);
    return it->second.device ? Place::device : Place::pinned;
  }
};

Machine& machine() {
  static Machine the_machine;
  return the_machine;
}

class DeferredStream final : public Stream {
 public:
  explicit DeferredStream(int index) : index_(index) {
    const std::lock_guard lock(machine().mutex);
    machine().queues.push_back(queue_);
  }
  Device device() const override { return {DeviceKind::simulated, index_}; }
  void synchronize() override {
    std::unique_lock lock(machine().mutex);
    machine().reach({queue_, queue_->queued}, lock);
  }
  void* native() const override { return queue_.get(); }
  const std::shared_ptr<Queue>& queue() const { return queue_; }

 private:
  int index_;
  std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();
};

const std::shared_ptr<Queue>& queue_of(Stream& stream) {
  auto* deferred = dynamic_cast<DeferredStream*>(&stream);
  require(deferred != nullptr, "work for a simulated device was given to a stream of {}",
          name_of(stream.device()));
  return deferred->queue();
}

class DeferredEvent final : public Event {
 public:
  void record(Stream& stream) override {
    const auto& queue = queue_of(stream);
    const std::lock_guard lock(machine().mutex);
    point_ = {queue, queue->queued};
  }
  void make_wait(Stream& stream) override {
    const auto& queue = queue_of(stream);
    const std::lock_guard lock(machine().mutex);
    if (point_.queue != nullptr) machine().push(*queue, {{}, point_});
  }
  bool done() const override {
    Machine& m = machine();
    const std::lock_guard lock(m.mutex);
    if (point_.reached()) return true;
    if (m.chance(70)) {  // a device takes its time
      m.step_some();
      return point_.reached();
    }
    while (!point_.reached() && m.step(*point_.queue)) {
    }
    return point_.reached();
  }
  void synchronize() override {
    std::unique_lock lock(machine().mutex);
    const Point point = point_;
    machine().reach(point, lock);
  }

 private:
  Point point_;
};

class DeferredRuntime final : public DeviceRuntime {
 public:
  void* allocate(std::size_t bytes, int) override { return add(bytes, true); }
  void release(void* memory, std::size_t, int) override { remove(memory); }
  void* allocate_host(std::size_t bytes, int) override { return add(bytes, false); }
  void release_host(void* memory, std::size_t, int) override { remove(memory); }

  void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes,
            Stream& stream) override {
    if (bytes == 0) return;
    const auto& queue = queue_of(stream);
    Machine& m = machine();
    std::unique_lock lock(m.mutex);
    const auto source = m.place_of(from, bytes), target = m.place_of(to, bytes);
    require((source == Machine::Place::device) == !from_device.is_cpu() &&
                (target == Machine::Place::device) == !to_device.is_cpu(),
            "deferred device: a copy from {} to {} whose memory is elsewhere", name_of(from_device),
            name_of(to_device));
    if (source == Machine::Place::pageable) {
      const auto* begin = static_cast<const std::byte*>(from);
      m.push(*queue, {[to, data = std::vector<std::byte>(begin, begin + bytes)] {
                        std::memcpy(to, data.data(), data.size());
                        return true;
                      },
                      {}});
      return;
    }
    m.push(*queue, {[=] {
                      std::memmove(to, from, bytes);
                      return true;
                    },
                    {}});
    if (target == Machine::Place::pageable) m.reach({queue, queue->queued}, lock);
  }
  void fill_zero(void* memory, std::size_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    const auto& queue = queue_of(stream);
    Machine& m = machine();
    const std::lock_guard lock(m.mutex);
    require(m.place_of(memory, bytes) == Machine::Place::device,
            "deferred device: fill_zero of memory that is not the device's");
    m.push(*queue, {[=] {
                      std::memset(memory, 0, bytes);
                      return true;
                    },
                    {}});
  }
  std::unique_ptr<Stream> make_stream(int index, StreamPriority) override {
    return std::make_unique<DeferredStream>(index);
  }
  std::unique_ptr<Event> make_event(int) override { return std::make_unique<DeferredEvent>(); }
  int device_count() override { return machine().devices; }
  std::string physical_name(int) override { return machine().physical_name; }

 private:
  static void* add(std::size_t bytes, bool device) {
    const std::size_t rounded = (bytes + 255) / 256 * 256;
    void* memory = std::aligned_alloc(256, rounded);
    require(memory != nullptr, "out of memory");
    std::memset(memory, 0xff, rounded);
    const std::lock_guard lock(machine().mutex);
    machine().memory[static_cast<std::byte*>(memory)] = {bytes, device};
    return memory;
  }
  static void remove(void* memory) {
    const std::lock_guard lock(machine().mutex);
    machine().memory.erase(static_cast<std::byte*>(memory));
    machine().released.push_back({memory});
    machine().tidy();
  }
};

}  // namespace

const char* name_of(DeferredOrder order) {
  return order == DeferredOrder::at_once ? "at_once"
         : order == DeferredOrder::lazy  ? "lazy"
                                         : "random";
}

void use_deferred_runtime(DeferredOrder order, std::uint64_t seed) {
  {
    const std::lock_guard lock(machine().mutex);
    machine().order = order;
    machine().random.seed(seed);
  }
  static const bool registered =
      (register_device_runtime(DeviceKind::simulated, std::make_unique<DeferredRuntime>()), true);
  static_cast<void>(registered);
}

void set_deferred_devices(int count, const std::string& physical_name) {
  const std::lock_guard lock(machine().mutex);
  machine().devices = count;
  machine().physical_name = physical_name;
}

void enqueue_deferred(void* native_stream, std::function<bool()> work) {
  const std::lock_guard lock(machine().mutex);
  machine().push(*static_cast<Queue*>(native_stream), {std::move(work), {}});
}

std::int64_t deferred_items() {
  const std::lock_guard lock(machine().mutex);
  std::int64_t items = 0;
  for (const auto& queue : machine().queues)
    items += static_cast<std::int64_t>(queue->items.size());
  return items;
}

struct DeferredProgress::Thread {
  std::atomic<bool> stop{false};
  std::thread thread{[this] {
    std::uint64_t seen = 0;
    while (!stop) {
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      const std::lock_guard lock(machine().mutex);
      std::uint64_t queued = 0;
      for (const auto& queue : machine().queues) queued += queue->queued;
      if (queued == seen) {  // nothing new for a while: what is there has waited long enough
        while (machine().step_any()) {
        }
        machine().tidy();
      }
      seen = queued;
    }
  }};
};

DeferredProgress::DeferredProgress() : thread_(std::make_unique<Thread>()) {}
DeferredProgress::~DeferredProgress() {
  thread_->stop = true;
  thread_->thread.join();
}

}  // namespace neox
