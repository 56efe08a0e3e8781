#!/usr/bin/env bash
# Build the sdist and the wheel, install the wheel into an empty environment outside the checkout, and run the demo from it.
# PYTHON=python3.12 scripts/check_wheel.sh takes another Python; NEWEST=1 the newest dependencies, not those of the constraints.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/build"
"$place/build/bin/pip" install --quiet --disable-pip-version-check build
"$place/build/bin/python" -m build --outdir "$place/dist" .
"$python" -m venv "$place/empty"
constraint=(--constraint constraints.txt)
[ -z "${NEWEST:-}" ] || constraint=()
"$place/empty/bin/pip" install --quiet --disable-pip-version-check "${constraint[@]}" "$place"/dist/*.whl
cd "$place"
"$place/empty/bin/python" -c 'import itda; assert "site-packages" in itda.__file__, itda.__file__'
HF_HUB_OFFLINE=1 "$place/empty/bin/itda" demo
"$place/empty/bin/itda" info runs/demo
echo "The wheel's demo ran outside the checkout, with $("$place/empty/bin/python" --version)"
