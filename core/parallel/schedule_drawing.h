#pragma once
// Gantt charts of a simulated schedule.

#include <string>

#include "core/parallel/schedule_simulator.h"

namespace neox {

struct TextDrawing {
  int width = 100;      // columns of the terminal
  bool colour = false;  // ANSI colours; without, letters alone tell the kinds apart
};

/// One line per stage, time to the right: "F3" forward of micro-batch 3, "B3" its input gradient,
/// "W3" its weight gradient, "BW3" both; chunks as "F3a", "F3b". A chart that is too long for the
/// width goes on below, up to five charts in all; longer ones show only the letters F, B, W, scaled
/// to the width. Ends with a legend.
std::string draw_text(const Schedule& schedule, const Simulation& simulation,
                      const TextDrawing& options);

/// A self-contained SVG image with title, axis and legend. Throws Error for more than 100000
/// computations.
std::string draw_svg(const Schedule& schedule, const Simulation& simulation,
                     const std::string& title);

}  // namespace neox
