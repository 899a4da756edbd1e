#!/bin/sh
# Makes the certificates that the TLS tests use; valid for a hundred years. The keys guard nothing: the
# server's is kept for the tests, the authority's is thrown away.
set -eu
cd "$(dirname "$0")"
authority_key=$(mktemp)
request=$(mktemp)
trap 'rm -f "$authority_key" "$request"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 \
    -subj '/CN=nemoclaw test authority' -keyout "$authority_key" -out authority.pem \
    -addext 'keyUsage=critical,keyCertSign'
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
    -subj '/CN=localhost' -keyout server-key.pem -out "$request"
printf 'subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n' |
    openssl x509 -req -in "$request" -CA authority.pem -CAkey "$authority_key" -days 36500 \
        -extfile /dev/stdin -out server.pem
