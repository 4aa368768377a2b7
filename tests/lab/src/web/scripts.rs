//! The PHP and shell scripts of the web stack, as text.

use super::{ADMIN_SOCKET, Depool, POOL_LOG};

/// `/work.php?id=ID&ms=MS` lasts MS milliseconds and answers who served it with which code.
///
/// Signals cut usleep() short, so the clock decides. The end is marked before the answer is given: a request that
/// was answered always has both marks.
pub(super) const WORK: &str = r#"<?php
const MARKERS = '/var/log/app/markers.log';
$id = (string)($_GET['id'] ?? '');
file_put_contents(MARKERS, "start $id\n", FILE_APPEND);
$end = hrtime(true) + 1000000 * (int)($_GET['ms'] ?? 0);
$version = require __DIR__ . '/version.php';
while (($left = $end - hrtime(true)) > 0) {
    usleep(max(1, intdiv($left, 1000)));
}
// A worker is as old as its master, which owns the opcache.
$master = posix_getppid();
$stat = file_get_contents("/proc/$master/stat");
$start = explode(' ', substr($stat, strrpos($stat, ') ') + 2))[19];
$answer = json_encode([
    'id' => $id,
    'server' => $_SERVER['SERVER_PORT'] === '8081' ? 'mw1' : 'mw2',
    'generation' => "$master@$start",
    'version' => $version,
]);
file_put_contents(MARKERS, "end $id\n", FILE_APPEND);
header('Content-Type: application/json');
header('Content-Length: ' . strlen($answer));
echo $answer;
"#;

/// A file that returns its version when it is included, and prints it when it is asked for itself.
pub(super) fn version(version: &str) -> String {
    let quoted = version.replace('\\', r"\\").replace('\'', r"\'");
    format!(
        "<?php\nif (!debug_backtrace()) {{\n    header('Content-Length: ' . strlen('{quoted}'));\n    echo '{quoted}';\n}}\nreturn '{quoted}';\n"
    )
}

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
