//! The shell scripts of the web stack, as text.

use super::{ADMIN_SOCKET, Depool, POOL_LOG};

pub(super) fn depool(state: Depool) -> String {
    set_state("depool", &state.to_string())
}

pub(super) fn repool() -> String {
    set_state("pool", "ready")
}

/// HAProxy says nothing when it obeys.
fn set_state(name: &str, state: &str) -> String {
    format!(
        r#"#!/bin/sh
# {name} [BACKEND/SERVER]: sets the server to "{state}" in the load balancer.
server=${{1:-jobs/mw1}}
answer=$(echo "set server $server state {state}" | socat -t 5 - UNIX-CONNECT:{ADMIN_SOCKET}) || exit 1
answer=$(printf '%s' "$answer" | tr -d '\n')
if [ -n "$answer" ]; then
    echo "{name}: $answer" >&2
    exit 1
fi
echo "$(date +%s.%N) {name} $server" >> {POOL_LOG}
"#
    )
}

/// Of `show servers state`: field 4 is the server, 6 its operational state (2 runs), 7 its administrative state
/// (0 ready, else bits for maintenance and drain).
pub(super) fn pool_state() -> String {
    format!(
        r#"#!/bin/sh
# pool-state [BACKEND/SERVER]: exit status 0 pooled, 1 depooled, 2 unknown.
server=${{1:-jobs/mw1}}
answer=$(echo "show servers state ${{server%/*}}" | socat -t 5 - UNIX-CONNECT:{ADMIN_SOCKET}) || exit 2
set -- $(printf '%s\n' "$answer" | awk -v name="${{server#*/}}" '$4 == name {{ print $6, $7 }}')
[ $# -eq 2 ] || exit 2
if [ "$2" -ne 0 ]; then echo depooled; exit 1; fi
if [ "$1" -ne 2 ]; then echo down; exit 2; fi
echo pooled
"#
    )
}
