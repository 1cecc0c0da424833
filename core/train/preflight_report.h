#pragma once
// A preflight in words: tables of nodes and groups, then what is wrong.

#include <span>
#include <string>

#include "core/train/preflight_judge.h"

namespace neox {

/// kExitFailure with an error among them, kExitSlow with something slow, 0 otherwise.
int exit_code_of(std::span<const Finding> findings);

/// Up to kNodesInFull nodes a line each; beyond that the nodes that findings name, and least,
/// median and most of every column.
std::string preflight_text(std::span<const RankFacts> ranks, std::span<const Finding> findings);
constexpr std::size_t kNodesInFull = 24;

}  // namespace neox
