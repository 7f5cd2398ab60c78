#!/usr/bin/env bash
# The page of `pimoe serve` in a browser without a window: a text is asked for, its tokens and their experts must be drawn, and nothing may be blocked or fail.
#
#   tests/interop/page.sh
#
# PIMOE_BUILD (default: build) holds pimoe. The browser is chromium or google-chrome on the PATH.
source "$(dirname "${BASH_SOURCE[0]}")/environments.sh"

needs pimoe
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[ -n "$browser" ] || unavailable "there is no chromium or google-chrome on the PATH." "Debian: apt-get install chromium"
export OMP_NUM_THREADS=1
"$PIMOE_PYTHON" "$repository/tests/interop/page.py" --pimoe "$PIMOE_BUILD/pimoe" --browser "$browser" "$@"
