#!/bin/sh
# Starts PostgreSQL for authn and audit. The directory that it mounts holds tls/, a password file for each role, and
# after the first start data/. Every role may enter its own database, over TLS, and nothing else; the superuser has
# no password and comes from inside the container only.
set -eu
state=/state/postgres
data=$state/data
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)

# Appears whole or not at all: a start that was cut short begins anew.
if [ ! -e "$data" ]; then
  rm -rf "$data.part"
  "$bin/initdb" --pgdata "$data.part" --username kubegate --encoding UTF8 --locale C.UTF-8 --auth reject >/dev/null
  cat >"$data.part/pg_hba.conf" <<'HBA'
local   all   kubegate            peer
hostssl authn authn    all        scram-sha-256
hostssl audit audit    all        scram-sha-256
HBA
  {
    for role in authn audit; do
      printf 'CREATE ROLE %s LOGIN\n' "$role"
      printf 'CREATE DATABASE %s OWNER %s\n' "$role" "$role"
      printf 'REVOKE ALL ON DATABASE %s FROM PUBLIC\n' "$role"
    done
  } | "$bin/postgres" --single -D "$data.part" postgres >/dev/null
  mv "$data.part" "$data"
fi

# At every start, so that a new password is a new file and a restart. By standard input: arguments are for all to see.
for role in authn audit; do
  printf "ALTER ROLE %s PASSWORD '%s'\n" "$role" "$(cat "$state/$role.password")"
done | "$bin/postgres" --single -D "$data" postgres >/dev/null

exec "$bin/postgres" -D "$data" \
  -c listen_addresses='*' -c unix_socket_directories=/tmp -c max_connections=60 \
  -c ssl=on -c ssl_min_protocol_version=TLSv1.3 \
  -c ssl_cert_file="$state/tls/tls.crt" -c ssl_key_file="$state/tls/tls.key"
