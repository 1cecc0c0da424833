#pragma once
// Texts made from the option table.

#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/config/parse.h"

namespace neox {

/// Every option with its value, as INI that can be read back; a comment marks what differs from the
/// default and what was derived, i.e. differs between `given` (before resolve()) and `config`.
/// For --print-config, and the copy inside checkpoints.
std::string effective_ini(const Config& config, const Config& given);

/// "section.key=value\n" for every option, in the table's order: equal texts mean equal
/// configurations.
std::string canonical_text(const Config& config);

/// --help: the program's own options, then the options of its sections with defaults and units.
std::string help_text(const Program& program);

/// docs/config.md.
std::string render_config_markdown();

/// One line for every option in which the two models differ so that weights of one cannot stand for
/// the other (shapes, or the function computed): "hidden_size: 512 / 768". Values that do not
/// matter (the rotary base of a model without rotary embedding) are left out; open values are
/// derived first.
std::vector<std::string> compare_architecture(const ModelConfig& a, const ModelConfig& b);

}  // namespace neox
