#!/usr/bin/env bash
# Make the environment of one bridge, with the versions that it is tested with, and print the path of its Python.
#
#     scripts/bridges_env.sh saelens [FOLDER]        # FOLDER: .bridges/saelens if none is given
#
# scripts/bridges/NAME.txt lists what is installed beside this checkout: a pip requirements file. A line `#: WORD` of it
# says otherwise than the usual:
#   #: constraints      the versions of constraints.txt too (where the tool can live with them)
#   #: no-dependencies  this checkout without its dependencies, for tools that ask for other versions of these: the file
#                       then lists what is needed of them
#   #: alone            what the file lists without its dependencies: all that is needed of these is listed too
#   #: without NAME     what comes along and must go: torchvision of the package index, say, which wants torch for GPUs
#   #: python3.11       another Python than ${PYTHON:-python3}
# Nothing is done again until one of these files changes. A failure leaves no environment that looks whole.
set -euo pipefail
cd "$(dirname "$0")/.."
names=$(cd scripts/bridges && ls -- *.txt | sed 's/\.txt$//' | tr '\n' ' ')
name="${1:-}"
list="scripts/bridges/$name.txt"
if [ ! -f "$list" ]; then
    echo "no bridge ${name:-is named}: name one of ${names}" >&2
    exit 2
fi
folder="${2:-.bridges/$name}"
made="$folder/made-of"
of=$(cat "$list" constraints.txt pyproject.toml "$0" | cksum)
if [ "$(cat "$made" 2> /dev/null)" != "$of" ]; then
    python=$(sed -n 's/^#: \(python3[.0-9]*\)$/\1/p' "$list")
    options=(--quiet --no-compile --disable-pip-version-check)
    if grep -qx '#: constraints' "$list"; then options+=(--constraint constraints.txt); fi
    "${python:-${PYTHON:-python3}}" -m venv --clear "$folder" >&2
    if grep -qx '#: no-dependencies' "$list"; then
        "$folder/bin/python" -m pip install "${options[@]}" --requirement "$list" >&2
        "$folder/bin/python" -m pip install "${options[@]}" --no-deps --editable . >&2
    elif grep -qx '#: alone' "$list"; then
        "$folder/bin/python" -m pip install "${options[@]}" --no-deps --requirement "$list" >&2
        "$folder/bin/python" -m pip install "${options[@]}" --editable . >&2
    else
        "$folder/bin/python" -m pip install "${options[@]}" --requirement "$list" --editable . >&2
    fi
    for unwanted in $(sed -n 's/^#: without \(.*\)$/\1/p' "$list"); do
        "$folder/bin/python" -m pip uninstall --quiet --yes "$unwanted" >&2
    done
    echo "$of" > "$made"
fi
echo "$folder/bin/python"
