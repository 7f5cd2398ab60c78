#!/usr/bin/env bash
# Installs PiMoE and all that it needs into one prefix: what a container's build runs, or an administrator. Debian, Ubuntu, Fedora, RHEL.
#
#   launch/packaging/install.sh PREFIX          PIMOE_CUDA=on|off|auto as for launch/setup.sh
#
# libtorch and, for CUDA builds, NCCL and the CUDA libraries stay in PREFIX/deps, where the binary finds them.
set -euo pipefail
[ $# = 1 ] && [[ $1 == /* ]] || { echo "install.sh: one absolute path is needed: launch/packaging/install.sh /opt/pimoe" >&2 && exit 64; }
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PIMOE_DEPS=$1/deps PIMOE_BUILD=${PIMOE_BUILD:-$repository/build-install}
"$repository/launch/setup.sh"
"$repository/launch/build.sh" -DBUILD_TESTING=OFF
source "$PIMOE_DEPS/env.sh"
"$PIMOE_CMAKE" --install "$PIMOE_BUILD" --prefix "$1" --strip >"$PIMOE_BUILD/install.log"
"$1/bin/pimoe" --version
echo "install: done. Next: module use $1/share/pimoe/modulefiles && module load pimoe; or PATH=$1/bin:\$PATH"
