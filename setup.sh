#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that building neox needs. Run again, or run without root where
# all is there, it does nothing and says so.
#
#   ./setup.sh           build and run
#   ./setup.sh --dev     also clang-format, and Python for benchmarks/
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config        # build
  libopenmpi-dev openmpi-bin                     # MPI
  libhdf5-openmpi-dev hdf5-tools                 # checkpoints: parallel HDF5, and h5ls to look at them
  libdnnl-dev                                    # oneDNN: matrix products on the CPU
  libboost-dev libboost-program-options-dev      # configuration
  libfmt-dev libspdlog-dev                       # text and logs
  nlohmann-json3-dev libsimdjson-dev             # tokenizer.json; jsonl
  libpcre2-dev libicu-dev                        # pre-tokenizer patterns; Unicode normal forms
  libzstd-dev libarchive-dev                     # jsonl.zst; .gz, .zip, .tar
  libprotobuf-dev protobuf-compiler              # TensorBoard event files
  libgtest-dev libgmock-dev                      # tests
  perl                                           # benchmarks/corpus_perldoc.sh: JSON::PP and Pod::Text
)
[ "${1:-}" = --dev ] && packages+=(clang-format python3-venv)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: all ${#packages[@]} packages are installed; nothing to do"
  exit 0
fi

echo "setup: installing ${missing[*]}"
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: not root and no sudo. Ask an administrator to run:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
"${sudo[@]}" apt-get update -q
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
echo "setup: done"
