#!/bin/sh
# Makes /opt/kubegate for one image: a virtual environment with the locked dependencies of one extra and only the rooms
# of services/ that it runs. Usage: room.sh EXTRA PACKAGE...   (inside the Dockerfile's build stage)
set -eu
extra=$1
shift
python3 -m venv --without-pip /opt/kubegate
pip="/build/bin/python -m pip --python /opt/kubegate/bin/python install --quiet --no-deps"
$pip --require-hashes -r "deploy/locks/$extra.lock"
$pip /wheel/*.whl
site=$(/opt/kubegate/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for room in "$site"/services/*/; do
  keep=no
  for package in common "$@"; do
    [ "$(basename "$room")" = "$package" ] && keep=yes
  done
  [ "$keep" = yes ] || rm -rf "$room"
done
if [ "$extra" = cli ]; then
  install -D -m 0644 deploy/containers.py /opt/kubegate/lib/containers.py
else
  # A service starts nothing and issues nothing.
  rm -rf "$site/configs" /opt/kubegate/bin/kubegate
  install -D -m 0644 deploy/health.py /opt/kubegate/lib/health.py
fi
