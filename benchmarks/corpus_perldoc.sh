#!/usr/bin/env bash
# Makes a text corpus of Perl's manuals: one JSON line {"path": ..., "text": ...} for each .pod file of
# Debian's package perl-doc, sorted by path; about 200 documents and 8.8 MB of English prose and code.
# The package is downloaded and unpacked into a temporary folder, not installed; no root needed.
#
#   benchmarks/corpus_perldoc.sh OUTPUT.jsonl
set -euo pipefail
export LC_ALL=C

fail() { echo "corpus_perldoc: $*" >&2; exit 1; }
[ $# -eq 1 ] || fail "usage: $0 OUTPUT.jsonl"
output=$1
if [ -s "$output" ]; then
  echo "corpus_perldoc: $output exists; nothing to do (remove it to make it anew)"
  exit 0
fi
for tool in apt-get dpkg-deb perl; do
  command -v "$tool" > /dev/null || fail "$tool is missing: this script needs Debian or Ubuntu with perl installed"
done
perl -MJSON::PP -MPod::Text -e 1 2> /dev/null ||
  fail "perl lacks its core modules JSON::PP or Pod::Text: install the package 'perl'"
mkdir -p "$(dirname "$output")" 2> /dev/null || fail "cannot create the folder $(dirname "$output")"
[ -w "$(dirname "$output")" ] || fail "cannot write into $(dirname "$output")"

work=$(mktemp -d)
trap 'rm -rf "$work" "$output.partial"' EXIT
chmod 755 "$work"
log=$work/apt.log

# As root, apt would download as the user _apt, who may not write here.
download() { (cd "$work" && apt-get -q -o APT::Sandbox::User=root "$@" download perl-doc) >> "$log" 2>&1; }
if ! download; then
  # No package lists, or outdated ones: fetch lists of our own, without touching the system's.
  echo "corpus_perldoc: fetching package lists"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  own=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  if ! { apt-get -q "${own[@]}" update >> "$log" 2>&1 && download "${own[@]}"; }; then
    grep -E '^(E|W|Err)' "$log" | sort -u | tail -n 5 >&2 || true
    fail "cannot download the Debian package perl-doc: is there a network, and does /etc/apt name a mirror?"
  fi
fi
package=$(echo "$work"/perl-doc_*.deb)
dpkg-deb -x "$package" "$work/root"

(cd "$work/root/usr/share" && find . -name '*.pod' -type f | sort) > "$work/files"
[ -s "$work/files" ] || fail "$(basename "$package") holds no .pod files"

perl - "$work/root/usr/share" "$work/files" "$output.partial" << 'PERL'
use strict;
use warnings;
use JSON::PP;
use Pod::Text;

my ($root, $list, $output) = @ARGV;
my $json = JSON::PP->new->utf8->canonical;
open my $files, '<', $list or die "cannot read $list: $!\n";
open my $out, '>:raw', $output or die "cannot write $output: $!\n";
while (my $path = <$files>) {
  chomp $path;
  my $parser = Pod::Text->new(indent => 0, width => 80, errors => 'none');
  my $text = '';
  $parser->output_string(\$text);
  $parser->parse_file("$root/$path");
  # Some versions of Pod::Text give characters, others UTF-8.
  my $decoded = $text;
  $text = $decoded if $text !~ /[^\x00-\xff]/ && utf8::decode($decoded);
  $text =~ s/[ \t]+$//mg;
  $text =~ s/\n{3,}/\n\n/g;
  next unless $text =~ /\S/;
  (my $name = $path) =~ s{^\./}{};
  print {$out} $json->encode({path => $name, text => $text}), "\n" or die "cannot write $output: $!\n";
}
close $out or die "cannot write $output: $!\n";
PERL
mv "$output.partial" "$output"
echo "corpus_perldoc: $(wc -l < "$output") documents, $(wc -c < "$output") bytes in $output"
