# shellcheck shell=bash
# Sourced by the other scripts: where the checkout and its Python environment are, and how a script gives up.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # nginx and nft live where an ordinary user does not look

say() { printf 'scripts/%s: %s\n' "${0##*/}" "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

# APPGUARD_PYTHON chooses another interpreter, which gets an environment of its own.
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
venv=$root/.venv
if [ -n "${APPGUARD_PYTHON:-}" ]; then
  venv=$venv-$(python_version "$APPGUARD_PYTHON") || fail "APPGUARD_PYTHON=$APPGUARD_PYTHON is no Python that runs"
  # Itself, not a script that chooses it: such a one works by files that the lab may hide.
  APPGUARD_PYTHON=$("$APPGUARD_PYTHON" -c 'import sys; print(sys.executable)')
fi
