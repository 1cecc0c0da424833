#include "core/optim/finite_check.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <cstdlib>
#include <limits>
#include <optional>
#include <vector>

#include <fmt/format.h>

namespace neox {
namespace {

// A parameter's place in the model, whichever pipeline stage has it: embeddings, layers, head.
struct Place {
  std::int64_t layer = 0;
  std::int64_t id = 0;  // in the store: forward order within a layer
  int rank = 0;
  std::string name{};
  friend auto operator<=>(const Place&, const Place&) = default;
};

Place place_of(const std::string& name, ParameterId id, int rank) {
  Place place{-1, id, rank, name};
  if (name.starts_with("layers.")) {
    place.layer = std::strtoll(name.c_str() + 7, nullptr, 10);
  } else if (!name.starts_with("embed_") || name.starts_with("embed_out")) {
    place.layer = std::numeric_limits<std::int64_t>::max();
  }
  return place;
}

// The sum of squares of f32 elements cannot overflow in f64: it is finite when all elements are.
std::vector<ParameterId> non_finite(const ParameterStore& store, const Backend& ops,
                                    Stream& stream) {
  const OwnedTensor sums({store.size()}, DType::f64, store.device());
  const OwnedTensor host({store.size()}, DType::f64);
  fill_zero(stream, sums);
  for (ParameterId id = 0; id < store.size(); ++id) {
    for (const ParameterPiece& piece : store.owned_pieces(id)) {
      ops.square_sum(stream, store.piece(State::gradients, piece.piece),
                     sums.tensor.slice(id, id + 1), true);
    }
  }
  copy(stream, sums, host);
  stream.synchronize();
  std::vector<ParameterId> found;
  for (ParameterId id = 0; id < store.size(); ++id) {
    if (!std::isfinite(host.tensor.ptr<double>()[id])) found.push_back(id);
  }
  return found;
}

std::string pack(const Place& place) {
  return fmt::format("{} {} {} {}\n", place.layer, place.id, place.rank, place.name);
}

std::vector<Place> unpack(const std::string& text) {
  std::vector<Place> places;
  for (const char* at = text.c_str(); *at != '\0';) {
    char* next = nullptr;
    Place place;
    place.layer = std::strtoll(at, &next, 10);
    place.id = std::strtoll(next, &next, 10);
    place.rank = static_cast<int>(std::strtol(next, &next, 10));
    const char* end = std::find(static_cast<const char*>(next), text.c_str() + text.size(), '\n');
    place.name = std::string(static_cast<const char*>(next) + 1, end);
    places.push_back(std::move(place));
    at = end + 1;
  }
  return places;
}

}  // namespace

std::string describe_non_finite_gradients(const ParameterStore& store, const Backend& ops,
                                          Stream& stream, Communicator& world) {
  std::vector<Place> mine;
  for (const ParameterId id : non_finite(store, ops, stream)) {
    mine.push_back(place_of(store.spec(id).name, id, world.rank()));
  }
  const auto [first, last] = std::minmax_element(mine.begin(), mine.end());
  const std::string text = mine.empty() ? "" : pack(*first) + pack(*last);
  std::vector<Place> all;
  for (const std::string& part : world.host_all_gather(text)) {
    for (Place& place : unpack(part)) all.push_back(std::move(place));
  }
  if (all.empty()) return "all gradients are finite";
  const auto [begin, end] = std::minmax_element(all.begin(), all.end());
  std::string result =
      fmt::format("the gradient of {} (rank {}) is not finite", begin->name, begin->rank);
  if (begin->name != end->name) {
    result += fmt::format(
        "; of all such parameters it is the first in the model's order, and {} (rank {}) the last, "
        "whose gradient backward computes first",
        end->name, end->rank);
  }
  return result;
}

}  // namespace neox
