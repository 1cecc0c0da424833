#include "core/parallel/schedule_drawing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox {
namespace {

// How a kind of computation looks. Chunks alternate between the two shades.
struct Look {
  std::string_view letters, meaning;
  std::array<int, 2> ansi;               // of the 256-colour palette, for the background
  std::array<std::string_view, 2> fill;  // SVG
};

const Look& look(ActionKind kind) {
  static const Look forward{"F", "forward", {153, 75}, {"#a6cbf0", "#6ca6de"}};
  static const Look both{"BW", "backward, both halves", {157, 114}, {"#b4dfb0", "#7fc47c"}};
  static const Look input{"B", "backward: input gradient", {158, 79}, {"#a5e0d3", "#66c4b0"}};
  static const Look weight{"W", "backward: weight gradient", {223, 215}, {"#f7d9a4", "#eeb75c"}};
  switch (kind) {
    case ActionKind::forward:
      return forward;
    case ActionKind::backward:
      return both;
    case ActionKind::backward_input:
      return input;
    case ActionKind::backward_weight:
      return weight;
    default:
      fail("messages are not drawn");
  }
}

constexpr int kMostPanels = 5;  // of a text chart, one below the other

constexpr ActionKind kDrawn[] = {ActionKind::forward, ActionKind::backward_input,
                                 ActionKind::backward_weight, ActionKind::backward};

std::string chunk_name(int chunk) {
  return chunk < 26 ? std::string(1, static_cast<char>('a' + chunk)) : fmt::format(".{}", chunk);
}

std::string label(const Schedule& s, const Action& a) {
  return fmt::format("{}{}{}", look(a.kind).letters, a.micro_batch,
                     s.chunks > 1 ? chunk_name(a.chunk) : "");
}

std::vector<ActionKind> kinds_in(const Simulation& run) {
  std::vector<ActionKind> out;
  for (const ActionKind kind : kDrawn) {
    for (const auto& stage : run.timeline) {
      if (std::any_of(stage.begin(), stage.end(),
                      [&](const Span& span) { return span.action.kind == kind; })) {
        out.push_back(kind);
        break;
      }
    }
  }
  return out;
}

std::string paint(std::string_view text, const Action& a, bool colour) {
  if (!colour) return std::string(text);
  const auto shade = static_cast<std::size_t>(a.chunk % 2);
  return fmt::format("\033[30;48;5;{}m{}\033[0m", look(a.kind).ansi[shade], text);
}

// Columns per unit of time that every label needs, with `gap` columns after it.
double columns_for_labels(const Schedule& s, const Simulation& run, int gap) {
  double needed = 0;
  for (const auto& stage : run.timeline) {
    for (const Span& span : stage) {
      if (span.end == span.begin) continue;
      needed = std::max(needed, (static_cast<double>(label(s, span.action).size()) + gap) /
                                    static_cast<double>(span.end - span.begin));
    }
  }
  return needed;
}

// One stage between two columns of the whole chart.
std::string labelled_row(const Schedule& s, const std::vector<Span>& stage, double scale,
                         std::int64_t first, std::int64_t last, bool colour) {
  const auto column = [&](std::int64_t time) {
    return static_cast<std::int64_t>(std::llround(static_cast<double>(time) * scale));
  };
  std::string out;
  std::int64_t at = first;
  const auto idle_until = [&](std::int64_t end) {
    if (end > at) out.append(static_cast<std::size_t>(end - at), '.');
    at = std::max(at, end);
  };
  for (const Span& span : stage) {
    const std::int64_t begin = std::max(column(span.begin), first);
    const std::int64_t end = std::min(column(span.end), last);
    if (begin >= end) continue;
    idle_until(begin);
    std::string text = label(s, span.action);
    text.resize(static_cast<std::size_t>(column(span.end) - column(span.begin)), ' ');
    // A box that the edge of the chart cuts goes on there.
    const auto hidden = static_cast<std::size_t>(begin - column(span.begin));
    text = text.substr(hidden, static_cast<std::size_t>(end - begin));
    // The last column stays blank, so that boxes of one colour are apart.
    const bool blank = colour && text.size() > 1 && text.back() == ' ';
    if (blank) text.pop_back();
    out += paint(text, span.action, colour) + (blank ? " " : "");
    at = end;
  }
  idle_until(last);
  return out;
}

// One stage, scaled to `columns`: what takes most of a column's time.
std::string letters_row(const std::vector<Span>& stage, std::int64_t makespan, int columns,
                        bool colour) {
  std::string out;
  std::size_t first = 0;
  for (int column = 0; column < columns; ++column) {
    const double begin = static_cast<double>(makespan) * column / columns;
    const double end = static_cast<double>(makespan) * (column + 1) / columns;
    while (first < stage.size() && static_cast<double>(stage[first].end) <= begin) ++first;
    std::array<double, 8> taken{};
    double busy = 0;
    for (std::size_t i = first; i < stage.size() && static_cast<double>(stage[i].begin) < end;
         ++i) {
      const double part = std::min(end, static_cast<double>(stage[i].end)) -
                          std::max(begin, static_cast<double>(stage[i].begin));
      taken[static_cast<std::size_t>(stage[i].action.kind)] += part;
      busy += part;
    }
    const auto most = std::max_element(taken.begin(), taken.end());
    const Action action{.kind = static_cast<ActionKind>(most - taken.begin())};
    if (2 * busy < end - begin) {
      out += '.';
    } else {
      out += paint(look(action.kind).letters.substr(0, 1), action, colour);
    }
  }
  return out;
}

// The smallest of 1, 2, 5, 10, 20, ... that is not below `least`.
double tick_step(double least) {
  double step = 1;
  for (int k = 0; step < least; ++k) step *= k % 3 == 1 ? 2.5 : 2;
  return step;
}

// Time written below the columns at the places where a number fits.
std::string axis(double scale, std::int64_t first, std::int64_t last) {
  std::string out;
  const double step = tick_step(10 / scale);
  const auto start =
      static_cast<std::int64_t>(std::ceil(static_cast<double>(first) / scale / step));
  for (std::int64_t k = start;; ++k) {
    const auto time = static_cast<double>(k) * step;
    const std::int64_t column = std::llround(time * scale);
    const std::string text = fmt::format("{:.0f}", time);
    if (column + static_cast<std::int64_t>(text.size()) > last) break;
    if (column < first) continue;
    out.resize(static_cast<std::size_t>(column - first), ' ');
    out += text;
  }
  return out;
}

std::string legend(const Simulation& run, const Schedule& s, bool colour) {
  std::string out;
  for (const ActionKind kind : kinds_in(run)) {
    const Look& l = look(kind);
    out += fmt::format("{} {}   ", paint(l.letters, {.kind = kind}, colour), l.meaning);
  }
  out += ". idle";
  if (s.chunks > 1) {
    out += fmt::format("   a-{} chunks", chunk_name(std::min(s.chunks, 26) - 1));
  }
  return out + "\n";
}

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  }
  return out;
}

// Geometry of the image, in pixels.
struct Canvas {
  double left = 78, top = 52, row = 30, bar = 24;
  double scale = 1;  // pixels per unit of time
  double width = 0, chart = 0;
  double bottom = 0;  // of the rows
};

Canvas layout(const Schedule& s, const Simulation& run) {
  Canvas c;
  // Room for labels where that keeps the image below 6000 pixels.
  const double label_width = columns_for_labels(s, run, 1) * 7.0;
  const auto total = static_cast<double>(std::max<std::int64_t>(1, run.makespan));
  c.scale = std::min(std::max(label_width, 900.0 / total), std::max(6000.0, 900.0) / total);
  c.chart = total * c.scale;
  c.width = c.left + c.chart + 24;
  c.bottom = c.top + c.row * s.stages;
  return c;
}

void draw_axis(std::string& out, const Canvas& c, std::int64_t makespan) {
  auto add = std::back_inserter(out);
  const auto total = static_cast<double>(makespan);
  const double step = tick_step(60 / c.scale);
  const double y = c.bottom + 4;
  fmt::format_to(add, "<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' stroke='#888'/>\n",
                 c.left, y, c.left + c.chart, y);
  for (double time = 0; time <= total; time += step) {
    const double x = c.left + time * c.scale;
    fmt::format_to(
        add,
        "<line x1='{0:.1f}' y1='{1:.1f}' x2='{0:.1f}' y2='{2:.1f}' stroke='#888'/>"
        "<text x='{0:.1f}' y='{3:.1f}' text-anchor='middle' fill='#555'>{4:.0f}</text>\n",
        x, y, y + 5, y + 18, time);
  }
}

void draw_legend(std::string& out, const Canvas& c, const Schedule& s, const Simulation& run) {
  auto add = std::back_inserter(out);
  const double y = c.bottom + 34;
  double x = c.left;
  for (const ActionKind kind : kinds_in(run)) {
    const Look& l = look(kind);
    fmt::format_to(add,
                   "<rect x='{:.1f}' y='{:.1f}' width='30' height='16' rx='2' fill='{}'/>"
                   "<text x='{:.1f}' y='{:.1f}' text-anchor='middle'>{}</text>"
                   "<text x='{:.1f}' y='{:.1f}'>{}</text>\n",
                   x, y, l.fill[0], x + 15, y + 12, l.letters, x + 36, y + 12, l.meaning);
    x += 36 + 6.6 * static_cast<double>(l.meaning.size()) + 22;
  }
  if (s.chunks > 1) {
    fmt::format_to(add, "<text x='{:.1f}' y='{:.1f}'>a-{}: chunks</text>\n", x, y + 12,
                   chunk_name(std::min(s.chunks, 26) - 1));
  }
}

}  // namespace

std::string draw_text(const Schedule& s, const Simulation& run, const TextDrawing& options) {
  const std::string last_name = fmt::format("stage {} ", s.stages - 1);
  const int names = static_cast<int>(last_name.size());
  const int columns = std::max(20, options.width - names);
  const auto total = static_cast<double>(run.makespan);
  double scale = 0;
  bool labelled = false;
  for (const int gap : {1, 0}) {
    if (labelled) break;
    scale = columns_for_labels(s, run, gap);
    labelled = scale > 0 && total * scale <= kMostPanels * columns;
  }
  // Whole columns, where there is room, make equal costs look equal.
  if (total * std::ceil(scale) <= columns) scale = std::ceil(scale);
  const std::int64_t whole = labelled ? std::llround(std::ceil(total * scale)) : columns;
  std::string out;
  for (std::int64_t first = 0; first < std::max<std::int64_t>(1, whole); first += columns) {
    const std::int64_t last = std::min<std::int64_t>(whole, first + columns);
    if (first > 0) out += '\n';
    for (int stage = 0; stage < s.stages; ++stage) {
      const auto& spans = run.timeline[static_cast<std::size_t>(stage)];
      out += fmt::format("{:<{}}", fmt::format("stage {}", stage), names);
      out += labelled ? labelled_row(s, spans, scale, first, last, options.colour)
                      : letters_row(spans, std::max<std::int64_t>(1, run.makespan), columns,
                                    options.colour);
      out += '\n';
    }
    out += fmt::format("{:<{}}", "time", names) +
           axis(labelled ? scale : columns / std::max(1.0, total), first, last) + '\n';
  }
  return out + legend(run, s, options.colour);
}

std::string draw_svg(const Schedule& s, const Simulation& run, const std::string& title) {
  std::size_t boxes = 0;
  for (const auto& stage : run.timeline) boxes += stage.size();
  require(boxes <= 100000,
          "the schedule has {} computations; an image can have 100000: draw fewer micro-batches",
          boxes);
  const Canvas c = layout(s, run);
  const double width = std::max(c.width, 900.0), height = c.bottom + 64;
  std::string out;
  auto add = std::back_inserter(out);
  fmt::format_to(add,
                 "<svg xmlns='http://www.w3.org/2000/svg' width='{0:.0f}' height='{1:.0f}' "
                 "viewBox='0 0 {0:.0f} {1:.0f}' font-family='Helvetica, Arial, sans-serif' "
                 "font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n"
                 "<text x='16' y='28' font-size='16' font-weight='bold'>{2}</text>\n",
                 width, height, escape(title));
  for (int stage = 0; stage < s.stages; ++stage) {
    const double y = c.top + c.row * stage;
    fmt::format_to(add,
                   "<text x='16' y='{:.1f}'>stage {}</text>"
                   "<rect x='{:.1f}' y='{:.1f}' width='{:.1f}' height='{:.1f}' fill='#f1f1f1'/>\n",
                   y + 16.5, stage, c.left, y, c.chart, c.bar);
    for (const Span& span : run.timeline[static_cast<std::size_t>(stage)]) {
      const double x = c.left + static_cast<double>(span.begin) * c.scale;
      const double w = static_cast<double>(span.end - span.begin) * c.scale;
      if (w <= 0) continue;
      const std::string text = label(s, span.action);
      fmt::format_to(add,
                     "<rect x='{:.2f}' y='{:.1f}' width='{:.2f}' height='{:.1f}' fill='{}' "
                     "stroke='white' stroke-width='{}'/>",
                     x, y, w, c.bar,
                     look(span.action.kind).fill[static_cast<std::size_t>(span.action.chunk % 2)],
                     w > 4 ? "1" : "0");
      if (w >= 6.6 * static_cast<double>(text.size())) {
        fmt::format_to(add,
                       "<text x='{:.2f}' y='{:.1f}' text-anchor='middle' font-size='11'>{}</text>",
                       x + w / 2, y + 16, text);
      }
      out += '\n';
    }
  }
  draw_axis(out, c, run.makespan);
  draw_legend(out, c, s, run);
  return out + "</svg>\n";
}

}  // namespace neox
