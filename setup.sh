#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that building neox needs. Run again, or run without root where
# all is there, it does nothing and says so.
#
#   ./setup.sh           build and run
#   ./setup.sh --dev     also clang-format, and Python for benchmarks/
#   ./setup.sh --slurm   also SLURM and shellcheck, for the tests of slurm/
#   ./setup.sh --cuda    also NVIDIA's cudnn-frontend headers, into .deps/: attention by cuDNN
set -euo pipefail
cd "$(dirname "$0")"

dev='' slurm='' cuda=''
for argument in "$@"; do
  case $argument in
    --dev) dev=1 ;;
    --slurm) slurm=1 ;;
    --cuda) cuda=1 ;;
    *) echo "setup: unknown option $argument; there are --dev, --slurm and --cuda" >&2; exit 2 ;;
  esac
done

packages=(
  g++ cmake ninja-build ccache pkg-config        # build
  libopenmpi-dev openmpi-bin                     # MPI
  libhdf5-openmpi-dev hdf5-tools                 # checkpoints: parallel HDF5, and h5ls to look at them
  libdnnl-dev                                    # oneDNN: matrix products on the CPU
  libboost-dev libboost-program-options-dev      # configuration
  libfmt-dev libspdlog-dev                       # text and logs
  nlohmann-json3-dev libsimdjson-dev             # tokenizer.json; jsonl
  libyaml-cpp-dev                                # GPT-NeoX configurations
  libpcre2-dev libicu-dev                        # pre-tokenizer patterns; Unicode normal forms
  libsentencepiece-dev                           # SentencePiece models
  libzstd-dev libarchive-dev                     # jsonl.zst; .gz, .zip, .tar
  libprotobuf-dev protobuf-compiler              # TensorBoard event files
  libgtest-dev libgmock-dev                      # tests
  perl                                           # benchmarks/corpus_perldoc.sh: JSON::PP and Pod::Text
)
[ -z "$dev" ] || packages+=(clang-format python3-venv)
# SLURM's PMIx plugin opens libpmix.so, which no package of SLURM's asks for.
[ -z "$slurm" ] || packages+=(slurmctld slurmd slurm-client munge libpmix-dev procps shellcheck)
[ -z "$cuda" ] || python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)

install_packages() {
  local missing=() package state sudo=()
  for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    echo "setup: all ${#packages[@]} packages are installed; nothing to do"
    return
  fi
  echo "setup: installing ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "setup: not root and no sudo. Ask an administrator to run:" >&2
      echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -q
  # RUNLEVEL=1: services (SLURM's, munge) are not started.
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# Header-only, but published as a Python wheel, which is a zip file.
install_cudnn_frontend() {
  local version=1.32.0 to=.deps/cudnn-frontend download
  if [ "$(cat $to/version 2>/dev/null)" = $version ]; then
    echo "setup: cudnn-frontend $version is there; nothing to do"
    return
  fi
  download=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --platform "manylinux_2_28_$(uname -m)" --dest "$download" \
    "nvidia-cudnn-frontend==$version"
  python3 -m zipfile -e "$download"/*.whl "$download/wheel"
  rm -rf $to
  mkdir -p $to
  cp -r "$download/wheel/include" $to/
  cp "$download"/wheel/*.dist-info/licenses/LICENSE* $to/
  echo $version >$to/version
  rm -rf "$download"
  echo "setup: cudnn-frontend $version is in $to"
}

install_packages
[ -z "$cuda" ] || install_cudnn_frontend
echo "setup: done"
