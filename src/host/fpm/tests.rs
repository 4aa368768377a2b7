//! Servers that misbehave, each in its own way: every request ends with an error within its deadline.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::*;

const SHORT: Duration = Duration::from_millis(100);
/// Far above `SHORT` and far below for ever.
const BOUND: Duration = Duration::from_secs(5);
const STATUS: &[u8] = include_bytes!("../../../tests/fixtures/fpm/status_listen-8.2.json");
const FULL: &[u8] = include_bytes!("../../../tests/fixtures/fpm/status_listen-8.2.full.json");

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
}

fn whole(stdout: &[u8]) -> Vec<u8> {
    let mut wire: Vec<u8> = stdout.chunks(60_000).flat_map(|chunk| record(6, chunk)).collect();
    wire.extend(record(3, &[0; 8]));
    wire
}

fn page(status: &str, body: &[u8]) -> Vec<u8> {
    whole(&[b"Status: ", status.as_bytes(), b"\r\nContent-type: x\r\n\r\n", body].concat())
}

/// Serves every connection by `serve`, which gets the stream after the request has been read (its empty FCGI_STDIN).
fn server<F>(serve: impl Fn(UnixStream) -> F + Send + 'static) -> (TempDir, String)
where
    F: Future<Output = ()> + Send + 'static,
{
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(&[1, 5, 0, 1, 0, 0, 0, 0]) && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
            tokio::spawn(serve(stream));
        }
    });
    (directory, socket.to_str().unwrap().to_owned())
}

fn says(answer: Vec<u8>) -> (TempDir, String) {
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            let _ = stream.write_all(&answer).await;
        }
    })
}

async fn ask(socket: &str, full: bool) -> Result<PoolStatus, String> {
    let begun = Instant::now();
    let ask = StatusAsk { pool: "www".into(), socket: socket.into(), path: "/status".into() };
    let mut answers = ask_pools(&[ask], full, SHORT).await;
    assert!(begun.elapsed() < BOUND);
    answers.remove("www").unwrap()
}

async fn script(socket: &str) -> Result<(u16, String), String> {
    request(socket, &FpmRequest::Script { script: "/srv/a.php?b=c".into() }, BOUND).await
}

#[tokio::test]
async fn a_pool_that_answers() {
    let (_directory, socket) = says(page("200 OK", STATUS));
    let status = ask(&socket, false).await.unwrap();
    assert_eq!((status.active, status.idle, status.workers), (2, 4, None));
    assert!(ask(&socket, true).await.is_err(), "no processes in it");
    let (_directory, socket) = says(page("200 OK", FULL));
    assert_eq!(ask(&socket, true).await.unwrap().workers.unwrap().len(), 6);
}

#[tokio::test]
async fn over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&page("200 OK", STATUS)).await;
        }
    });
    for socket in [format!("127.0.0.1:{port}"), format!("{port}"), format!("*:{port}")] {
        assert_eq!(ask(&socket, false).await.unwrap().active, 2);
    }
}

#[tokio::test]
async fn nobody_there() {
    assert!(ask("/nonexistent/s", false).await.unwrap_err().contains("cannot connect"));
    assert!(ask("not a socket", false).await.unwrap_err().contains("write an absolute path"));
    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(ask(stale.to_str().unwrap(), false).await.unwrap_err().contains("refused"));
}

#[tokio::test]
async fn a_full_queue_is_an_error_at_once() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("s");
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    let _queued = UnixStream::connect(&path).await.unwrap();
    assert!(ask(path.to_str().unwrap(), false).await.unwrap_err().contains("queue is full"));
}

#[tokio::test]
async fn silence_a_drip_and_a_flood_end_at_the_deadline() {
    let (_silent, silent) = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let (_drip, drip) = server(|mut stream| async move {
        for byte in record(6, &[b'x'; 1000]) {
            let _ = stream.write_all(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let (_flood, flood) = server(|mut stream| async move { while stream.write_all(&record(7, &[b'x'; 60_000])).await.is_ok() {} });
    for (socket, why) in [(silent, "no complete answer"), (drip, "no complete answer"), (flood, "longer than 1024 KiB")] {
        let error = ask(&socket, true).await.unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_reads_nothing_ends_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let script = format!("/srv/a.php?{}", "x".repeat(4 << 20));
    let sent = request(socket.to_str().unwrap(), &FpmRequest::Script { script }, SHORT).await;
    assert!(sent.unwrap_err().contains("no complete answer within 100ms"));
    drop(listener);
}

#[tokio::test]
async fn garbage_and_half_answers_are_errors() {
    let half = page("200 OK", STATUS);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "closed the connection"),
        (half[..half.len() - 16].to_vec(), "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "does not speak FastCGI"),
        (vec![0; 4096], "does not speak FastCGI"),
        (record(3, &[0, 0, 0, 0, 2, 0, 0, 0]), "overloaded"),
        (whole(b""), "no HTTP header"),
        (page("200 OK", b"pong"), "not valid JSON"),
        (page("200 OK", b"{}"), "not a php-fpm status"),
        (page("404 Not Found", b"File not found.\n"), "not its pm.status_path"),
        (page("403 Forbidden", b"Access denied.\n"), "not its pm.status_path"),
        (page("500 Internal Server Error", b"Internal error.\x1b[31m"), "answers 500 for /status: Internal error.\u{fffd}"),
        (page("200 OK", &[b' '; 2 << 20]), "longer than 1024 KiB"),
    ];
    for (answer, why) in cases {
        let (_directory, socket) = says(answer);
        let error = ask(&socket, false).await.unwrap_err();
        assert!(error.contains(why) && error.contains(&socket), "{error} / {why}");
    }
}

#[tokio::test]
async fn pools_are_asked_at_once_and_one_that_hangs_holds_up_none() {
    let (_silent, silent) = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let (_good, good) = says(page("200 OK", STATUS));
    let ask = |number: usize| StatusAsk {
        pool: format!("{number}"),
        socket: if number == 7 { good.clone() } else { silent.clone() },
        path: "/s".into(),
    };
    let asks: Vec<StatusAsk> = (0..50).map(ask).collect();
    let begun = Instant::now();
    let answers = ask_pools(&asks, false, SHORT).await;
    assert!(begun.elapsed() < SHORT * 10);
    assert_eq!(answers.len(), 50);
    assert_eq!(answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(pool, _)| pool.as_str()).collect::<Vec<_>>(), ["7"]);
}

#[tokio::test]
async fn scripts_give_status_and_a_bounded_body() {
    let (_directory, socket) = says(page("404 Not Found", b"File not found.\n"));
    assert_eq!(script(&socket).await, Ok((404, "File not found.\n".into())));
    let (_directory, socket) = says(whole(b"X: y\r\n\r\nid 7 \xff"));
    assert_eq!(script(&socket).await, Ok((200, "id 7 \u{fffd}".into())));
    let (_directory, socket) = says(page("200 OK", &[b'x'; 3 << 20]));
    assert_eq!(script(&socket).await.map(|(code, body)| (code, body.len())), Ok((200, BODY_MAX)));
    let failed = [record(7, b"PHP message: no database"), page("500 Internal Server Error", b"")].concat();
    let (_directory, socket) = says(failed);
    assert_eq!(script(&socket).await, Ok((500, "PHP message: no database".into())));
}

/// The real thing; skipped (ignored) where no php-fpm is installed on the machine itself.
mod real {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Fpm {
        child: Child,
        directory: TempDir,
    }

    fn binary() -> &'static str {
        ["/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm8.4"].into_iter().find(|path| Path::new(path).exists()).unwrap()
    }

    impl Fpm {
        /// Two static workers; waits until it answers a ping.
        async fn start() -> Fpm {
            let directory = tempfile::tempdir().unwrap();
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            let root = directory.path().display();
            let conf = format!(
                "[global]\nerror_log = {root}/log\ndaemonize = no\n[www]\nuser = nobody\ngroup = nogroup\nlisten = {root}/main\nlisten.mode = 0666\n\
                 pm = static\npm.max_children = 2\npm.status_path = /fpm-status\npm.status_listen = {root}/status\nping.path = /fpm-ping\n"
            );
            std::fs::write(directory.path().join("conf"), conf).unwrap();
            let hold = "<?php for ($end = hrtime(true) + 1e6 * $_GET['ms']; hrtime(true) < $end;); echo json_encode($_SERVER);";
            std::fs::write(directory.path().join("hold.php"), hold).unwrap();
            let child = Command::new(binary()).args(["-n", "-y"]).arg(directory.path().join("conf")).stderr(Stdio::null()).spawn().unwrap();
            let fpm = Fpm { child, directory };
            let begun = Instant::now();
            while fpm.ping(SHORT).await.is_err() {
                assert!(begun.elapsed() < BOUND, "php-fpm does not start");
            }
            fpm
        }

        fn at(&self, name: &str) -> String {
            self.directory.path().join(name).display().to_string()
        }

        async fn ping(&self, timeout: Duration) -> Result<(u16, String), String> {
            request(&self.at("main"), &FpmRequest::Ping { path: "/fpm-ping".into() }, timeout).await
        }

        async fn ask(&self, socket: &str, full: bool) -> Result<PoolStatus, String> {
            let ask = StatusAsk { pool: "www".into(), socket: self.at(socket), path: "/fpm-status".into() };
            ask_pools(&[ask], full, Duration::from_millis(500)).await.remove("www").unwrap()
        }
    }

    impl Drop for Fpm {
        fn drop(&mut self) {
            let master = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
            let _ = nix::sys::signal::kill(master, nix::sys::signal::SIGTERM);
            let _ = self.child.wait();
        }
    }

    #[tokio::test]
    #[ignore = "needs php-fpm on this machine"]
    async fn status_ping_and_scripts_of_a_real_pool() {
        let fpm = Fpm::start().await;
        assert_eq!(fpm.ping(BOUND).await, Ok((200, "pong".into())));
        let status = fpm.ask("status", false).await.unwrap();
        assert_eq!((status.active, status.idle, status.ondemand), (0, 2, false));
        // The status socket leaves the counters of the pool alone; over the main socket the asking worker is active (facts 3c), and
        // the look itself is an accepted request.
        assert_eq!(fpm.ask("status", true).await.unwrap().accepted, status.accepted);
        let seen = fpm.ask("main", true).await.unwrap();
        assert_eq!((seen.active, seen.accepted), (1, status.accepted + 1));

        let hold = |ms: u32| FpmRequest::Script { script: format!("{}?ms={ms}&x=%20", fpm.at("hold.php")) };
        let (code, body) = request(&fpm.at("main"), &hold(0), BOUND).await.unwrap();
        let server: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, server["QUERY_STRING"].as_str(), server["REMOTE_ADDR"].as_str()), (200, Some("ms=0&x=%20"), Some("127.0.0.1")));
        let missing = FpmRequest::Script { script: "/nonexistent.php".into() };
        assert_eq!(request(&fpm.at("main"), &missing, BOUND).await, Ok((404, "File not found.\n".into())));

        // All workers busy: the main socket says nothing, which is no "idle"; the status socket tells (facts 3d, trap T15).
        let (main, request_of) = (fpm.at("main"), hold(1500));
        let busy = async { tokio::join!(request(&main, &request_of, BOUND), request(&main, &request_of, BOUND)) };
        let watched = async {
            let begun = Instant::now();
            while fpm.ask("status", false).await.unwrap().active < 2 {
                assert!(begun.elapsed() < BOUND);
            }
            assert!(fpm.ask("main", false).await.unwrap_err().contains("no complete answer"));
            assert!(fpm.ping(SHORT).await.is_err());
            fpm.ask("status", true).await.unwrap()
        };
        let ((one, two), seen) = tokio::join!(busy, watched);
        assert_eq!((one.unwrap().0, two.unwrap().0), (200, 200));
        let workers = seen.workers.unwrap();
        assert!(workers.iter().all(|worker| worker.uri.contains("hold.php?ms=1500") && worker.duration_us > 100_000), "{workers:?}");
    }

    #[test]
    #[ignore = "needs php-fpm on this machine"]
    fn the_layout_is_printed_whatever_is_logged_and_leaves_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let pool = "[www]\nuser = nobody\nlisten = $pool-${GENERATION}.sock\npm = static\npm.max_children = 1\n";
        std::fs::write(at("conf"), format!("[global]\nlog_level = alert\nerror_log = {}\nsystemd_interval = 1\n{pool}", at("log")))
            .unwrap();
        let run = |argv: &[String]| {
            let output = Command::new(&argv[0]).args(&argv[1..]).env("GENERATION", "g7").output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let exec_start = [binary(), "--nodaemonize", "-p", &at("."), "--fpm-config", &at("conf")].map(str::to_owned);

        let inspect = invocation::inspect(&exec_start, &at("wrapper")).unwrap();
        let (good, plain) = run(&inspect.argv[..inspect.argv.len() - 2]);
        assert!(good && layout::parse(&plain).is_err(), "{plain}");
        std::fs::remove_file(at("log")).unwrap();
        std::fs::write(at("wrapper"), inspect.wrapper.unwrap()).unwrap();
        let (good, output) = run(&inspect.argv);
        let layout = layout::parse(&output).unwrap();
        assert!(good);
        assert_eq!((layout.pools[0].listen.clone(), layout.systemd_interval_ms), (at("./www-g7.sock"), 1000));
        assert!(!Path::new(&at("log")).exists());
    }
}
