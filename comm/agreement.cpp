#include "comm/agreement.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <string_view>
#include <vector>

#include "comm/host_name.h"

namespace neox {
namespace {

// Lengths before texts, so that no two different lists look alike.
std::string serialise(std::span<const Fact> facts) {
  std::string text;
  for (const Fact& fact : facts) {
    for (const std::string* part : {&fact.key, &fact.value, &fact.advice}) {
      text += fmt::format("{}:{}", part->size(), *part);
    }
  }
  return text;
}

std::vector<Fact> parse(std::string_view text) {
  std::vector<Fact> facts;
  const auto next = [&] {
    const std::size_t colon = text.find(':');
    std::size_t length = 0;
    std::from_chars(text.data(), text.data() + std::min(colon, text.size()), length);
    std::string part(text.substr(colon + 1, length));
    text.remove_prefix(colon + 1 + part.size());
    return part;
  };
  while (!text.empty()) {
    Fact& fact = facts.emplace_back();
    fact.key = next();
    fact.value = next();
    fact.advice = next();
  }
  return facts;
}

std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

struct Difference {
  std::string key, advice;
  std::string theirs, ours;  // the first line that differs
};

Difference first_difference(const std::vector<Fact>& theirs, const std::vector<Fact>& ours) {
  for (std::size_t i = 0; i < std::min(theirs.size(), ours.size()); ++i) {
    const Fact &a = theirs[i], &b = ours[i];
    if (a.key != b.key) return {"what must be compared", b.advice, a.key, b.key};
    std::string_view left = a.value, right = b.value;
    while (!left.empty() || !right.empty()) {
      const std::string_view x = take_line(left), y = take_line(right);
      if (x != y) return {b.key, b.advice, std::string(x), std::string(y)};
    }
    if (a.value != b.value) return {b.key, b.advice, a.value, b.value};  // a line end at the end
  }
  return {"the number of things to compare", "start the same program on all ranks",
          fmt::format("{}", theirs.size()), fmt::format("{}", ours.size())};
}

}  // namespace

std::string name_ranks(std::span<const int> ranks, std::span<const std::string> hosts) {
  constexpr std::size_t kMost = 8;
  std::vector<std::string> pieces, names;
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    pieces.push_back(end - i == 1 ? fmt::format("{}", ranks[i])
                                  : fmt::format("{}-{}", ranks[i], ranks[end - 1]));
    i = end;
  }
  for (const int rank : ranks) {
    const std::string& host = hosts[static_cast<std::size_t>(rank)];
    if (std::find(names.begin(), names.end(), host) == names.end()) names.push_back(host);
  }
  const auto join = [](std::vector<std::string>& list) {
    if (list.size() > kMost) {
      list.resize(kMost);
      list.emplace_back("...");
    }
    std::string text;
    for (const std::string& item : list) text += (text.empty() ? "" : ", ") + item;
    return text;
  };
  return fmt::format("rank{} {} ({})", ranks.size() == 1 ? "" : "s", join(pieces), join(names));
}

void check_equal(Communicator& group, std::span<const Fact> facts) {
  const std::string mine = serialise(facts);
  const std::uint64_t hash = hash_of(mine);
  std::array<std::uint64_t, 2> extremes = {hash, ~hash};
  group.host_all_reduce(std::span<std::uint64_t>(extremes), ReduceOp::max);
  if (extremes[0] == ~extremes[1]) return;

  const std::vector<std::string> hashes = group.host_all_gather(fmt::format("{:016x}", hash));
  const std::vector<std::string> hosts = group.host_all_gather(host_name());
  std::map<std::string, int> votes;
  for (const std::string& text : hashes) ++votes[text];
  const auto usual = std::max_element(
      hashes.begin(), hashes.end(), [&](const std::string& a, const std::string& b) {
        return votes[a] < votes[b];  // the first of the most common ones
      });
  std::vector<int> different;
  for (int rank = 0; rank < group.size(); ++rank) {
    if (hashes[static_cast<std::size_t>(rank)] != *usual) different.push_back(rank);
  }
  const auto reference = static_cast<int>(usual - hashes.begin());
  const std::string theirs = group.host_broadcast(mine, different.front());
  const std::string ours = group.host_broadcast(mine, reference);
  const Difference d = first_difference(parse(theirs), parse(ours));
  const std::string first =
      different.size() == 1 ? "it has" : fmt::format("rank {} has", different.front());
  fail("{} {} from the others in the {}: {} '{}' where rank {} ({}) has '{}'; {}",
       name_ranks(different, hosts), different.size() == 1 ? "differs" : "differ", d.key, first,
       d.theirs, reference, hosts[static_cast<std::size_t>(reference)], d.ours, d.advice);
}

}  // namespace neox
