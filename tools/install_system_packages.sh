#!/usr/bin/env bash
# Installs Debian packages whose programs are missing. Each argument is PACKAGE or PACKAGE=PROGRAM[,PROGRAM...].
set -euo pipefail
missing=()
for item in "$@"; do
  package=${item%%=*} programs=${item#*=}
  [ "$item" = "$package" ] && { missing+=("$package"); continue; }
  for program in ${programs//,/ }; do
    command -v "$program" >/dev/null || { missing+=("$package"); break; }
  done
done
[ ${#missing[@]} -eq 0 ] && exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "missing: ${missing[*]}; install them as root: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "Installing Debian packages: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
