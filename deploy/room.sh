#!/bin/sh
# Makes /opt/kubegate for one image, inside the Dockerfile's build stage.
# Usage: room.sh depend EXTRA       a virtual environment with the locked dependencies of one extra
#        room.sh furnish PACKAGE... kubegate itself, with only these rooms of services/, and what its container runs;
#                                   what is installed then is listed in sbom.cdx.json
set -eu
command=$1
shift
install="/build/bin/uv pip install --quiet --no-deps --no-cache --compile-bytecode --python /opt/kubegate/bin/python"

if [ "$command" = depend ]; then
  python3 -m venv --without-pip /opt/kubegate
  $install --require-hashes -r "deploy/locks/$1.lock"
  exit
fi

$install /wheel/*.whl
image=$(echo "$1" | tr _ -)
/opt/kubegate/bin/python -I deploy/sbom.py "$image" "deploy/locks/$image.lock" > /opt/kubegate/sbom.cdx.json
site=$(/opt/kubegate/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for room in "$site"/services/*/; do
  keep=no
  for package in common "$@"; do
    [ "$(basename "$room")" = "$package" ] && keep=yes
  done
  [ "$keep" = yes ] || rm -rf "$room"
done
if [ "$1" != cli ]; then
  # A service starts nothing and issues nothing.
  rm -rf "$site/configs" /opt/kubegate/bin/kubegate
  install -D -m 0644 deploy/health.py /opt/kubegate/lib/health.py
fi
