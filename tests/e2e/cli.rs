//! The command line: commands, exit codes, which source of a setting wins.
//!
//! Not here: what is wrong with configs (`config`), plugins that are refused (`plugins`).

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::list_in;
use crate::harness::{Launch, Run, run};

fn file(dir: &Path, name: &str, config: &Value) {
    std::fs::write(dir.join(name), config.to_string()).unwrap();
}

/// A config with one route that answers with a word.
fn saying(word: &str) -> Value {
    json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "admin": { "address": "127.0.0.1:0" },
        "routes": [{ "path": "/", "respond": { "status": 200, "body": word } }],
    })
}

/// Runs in an empty directory.
fn run_alone(arguments: &[&str]) -> Run {
    run(TempDir::new().unwrap().path(), arguments)
}

#[test]
fn version_says_what_was_built() {
    let text = run_alone(&["version"]);
    let json = run_alone(&["version", "--format", "json"]);
    let flag = run_alone(&["--version"]);

    assert_eq!((text.code, json.code, flag.code), (Some(0), Some(0), Some(0)));
    assert!(text.stdout.contains(env!("CARGO_PKG_VERSION")), "{text:?}");
    assert!(flag.stdout.contains(env!("CARGO_PKG_VERSION")), "{flag:?}");
    let facts: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(facts["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn help_is_data_and_wrong_usage_is_exit_code_2() {
    let help = run_alone(&["--help"]);
    assert_eq!(help.code, Some(0));
    for word in
        ["--config", "--plugins", "--listen", "--workers", "--admin", "--set", "check", "schema"]
    {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }

    for wrong in [
        &["--nonsense"][..],
        &["nonsense"],
        &["--config"],
        &["--set", "no-equals-sign"],
        &["version", "--format", "xml"],
        &["check", "--format"],
    ] {
        let run = run_alone(wrong);
        assert_eq!(run.code, Some(2), "{wrong:?}: {run:?}");
        assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{wrong:?}: {run:?}");
    }
}

/// Interface §1: ./zproxy.json if there is one, else the embedded default.
#[test]
fn the_file_in_the_working_directory_is_taken_when_none_is_named() {
    let dir = TempDir::new().unwrap();
    file(dir.path(), "zproxy.json", &saying("from the directory"));
    let gateway = Launch::flags(&[]).within(dir).start();
    assert_eq!(gateway.get("/").text(), "from the directory");

    let dir = TempDir::new().unwrap();
    file(dir.path(), "zproxy.json", &saying("from the directory"));
    file(dir.path(), "other.json", &saying("from the variable"));
    let gateway =
        Launch::flags(&["run"]).environment("ZPROXY_CONFIG", "other.json").within(dir).start();
    assert_eq!(gateway.get("/").text(), "from the variable");

    let dir = TempDir::new().unwrap();
    file(dir.path(), "other.json", &saying("from the variable"));
    file(dir.path(), "third.json", &saying("from the flag"));
    let gateway = Launch::flags(&["run", "--config", "third.json"])
        .environment("ZPROXY_CONFIG", "other.json")
        .within(dir)
        .start();
    assert_eq!(gateway.get("/").text(), "from the flag");
}

/// Interface §1: flag, then environment, then file.
#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let dir = TempDir::new().unwrap();
    let socket = |name: &str| format!("unix:{}", dir.path().join(name).display());
    let (flag, variable) = (socket("flag"), socket("variable"));
    let (flag_admin, variable_admin) = (socket("flag-admin"), socket("variable-admin"));

    let gateway = Launch::config(saying("hello"))
        .environment("ZPROXY_LISTEN", &variable)
        .environment("ZPROXY_ADMIN", &variable_admin)
        .environment("ZPROXY_WORKERS", "3")
        .start();
    assert_eq!((gateway.address(), gateway.admin_address()), (&*variable, &*variable_admin));
    assert_eq!(list_in(&gateway.admin_json("/workers")).len(), 3);
    assert_eq!(gateway.get("/").text(), "hello");

    let gateway = Launch::config(saying("hello"))
        .arguments(&["--listen", &flag, "--admin", &flag_admin, "--workers", "4"])
        .environment("ZPROXY_LISTEN", &variable)
        .environment("ZPROXY_ADMIN", &variable_admin)
        .environment("ZPROXY_WORKERS", "3")
        .start();
    assert_eq!((gateway.address(), gateway.admin_address()), (&*flag, &*flag_admin));
    assert_eq!(list_in(&gateway.admin_json("/workers")).len(), 4);
    assert_eq!(gateway.get("/").text(), "hello");
}

#[test]
fn set_changes_a_key_of_the_file() {
    let gateway = Launch::config(saying("before"))
        .arguments(&["--set", "limits.uri_bytes_max=50", "--set", "routes[0].respond.body=after"])
        .start();

    assert_eq!(gateway.get("/").text(), "after");
    assert_eq!(gateway.get(&("/".to_owned() + &"x".repeat(50))).status(), 414);
}

/// Exit code 4: an operator must see at once that nothing listens.
#[test]
fn an_address_that_cannot_be_had_is_exit_code_4() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    file(dir.path(), "zproxy.json", &saying("hello"));

    for address in [&*taken, "192.0.2.1:80", "unix:/no/such/directory/socket"] {
        for flag in ["--listen", "--admin"] {
            if flag == "--admin" && address.starts_with("192") {
                // Needs a token, which is another mistake.
                continue;
            }
            let run = run(dir.path(), &[flag, address]);
            assert_eq!(run.code, Some(4), "{flag} {address}: {run:?}");
            assert!(run.stderr.contains(address), "{flag} {address}: {run:?}");
        }
    }
}

/// A socket file that nobody listens on would look like a gateway.
#[test]
fn a_start_that_fails_leaves_no_socket_behind() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = saying("hello");
    config["listeners"] = json!([
        { "address": format!("unix:{}", dir.path().join("socket").display()) },
        { "address": taken.local_addr().unwrap().to_string() },
    ]);
    file(dir.path(), "zproxy.json", &config);

    let run = run(dir.path(), &["run"]);

    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(!dir.path().join("socket").exists());
}

/// Two gateways on one port would share it silently (SO_REUSEPORT), each serving every other client.
#[test]
fn a_port_that_another_gateway_serves_is_not_shared_by_accident() {
    let first = Launch::config(saying("first")).start();
    let dir = TempDir::new().unwrap();
    file(dir.path(), "zproxy.json", &saying("second"));

    let second = run(dir.path(), &["--listen", first.address()]);

    assert_eq!(second.code, Some(4), "{second:?}");
    for _ in 0..20 {
        assert_eq!(first.get("/").text(), "first");
    }
}

#[test]
fn check_says_ok_or_everything_that_is_wrong() {
    let dir = TempDir::new().unwrap();
    file(dir.path(), "good.json", &saying("hello"));
    let wrong = json!({
        "listeners": [{ "address": "nowhere" }],
        "limits": { "headers_max": 0 },
        "routes": [{ "path": "no-slash", "upstream": "missing" }, { "path": "/x" }],
        "unknown": true,
    });
    file(dir.path(), "wrong.json", &wrong);

    let good = run(dir.path(), &["check", "--config", "good.json"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    let good = run(dir.path(), &["check", "--config", "good.json", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&good.stdout).unwrap()["ok"], true);

    let text = run(dir.path(), &["check", "--config", "wrong.json"]);
    assert_eq!(text.code, Some(3), "{text:?}");
    let json = run(dir.path(), &["check", "--config", "wrong.json", "--format", "json"]);
    assert_eq!(json.code, Some(3), "{json:?}");
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["ok"], false);
    for path in
        ["listeners[0].address", "limits.headers_max", "routes[0].path", "routes[1]", "unknown"]
    {
        assert!(text.stderr.contains(path), "{path}: {}", text.stderr);
        let problems = report["problems"].as_array().unwrap();
        let problem = problems.iter().find(|problem| problem["path"] == path);
        let problem = problem.unwrap_or_else(|| panic!("{path}: {report}"));
        assert!(problem["line"].is_u64() && problem["column"].is_u64(), "{problem}");
        assert!(problem["message"].is_string(), "{problem}");
    }
    // The same by `run`, which does not start.
    assert_eq!(run(dir.path(), &["--config", "wrong.json"]).code, Some(3));
}

/// Warnings are no failure; what is judged is tested with the judge.
#[test]
fn doctor_says_what_limits_this_host() {
    let dir = tempfile::TempDir::new().unwrap();
    let text = run(dir.path(), &["doctor", "--set", "limits.connections_max=100000000"]);
    let json = run(dir.path(), &["doctor", "--format", "json"]);

    let line = text.stdout.lines().find(|line| line.contains("descriptors")).expect(&text.stdout);
    assert!(line.starts_with("warn  descriptors"), "{line}");
    assert!(text.stdout.contains("do:  ulimit -Hn 200001024"), "{}", text.stdout);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    let expected = if report["ok"] == true { 0 } else { 1 };
    assert_eq!((json.code, text.code), (Some(expected), Some(expected)), "{json:?}");
    let names: Vec<&Value> =
        report["findings"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(names.contains(&&Value::from("io_uring")), "{names:?}");
}

#[test]
fn topology_shows_the_machine_and_where_workers_sit() {
    let text = run_alone(&["topology"]);
    let json = run_alone(&["topology", "--workers", "2", "--format", "json"]);

    assert_eq!((text.code, json.code), (Some(0), Some(0)), "{text:?} {json:?}");
    assert!(!text.stdout.trim().is_empty());
    let picture: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(picture["workers"].as_array().map(Vec::len), Some(2), "{picture}");
}

/// A half-mounted volume must not turn a gateway into the demo of the embedded default.
#[test]
fn a_default_file_that_cannot_be_read_is_not_an_absent_one() {
    let dir = TempDir::new().unwrap();
    std::os::unix::fs::symlink("nowhere.json", dir.path().join("zproxy.json")).unwrap();

    let checked = run(dir.path(), &["check"]);

    assert_eq!(checked.code, Some(3), "{checked:?}");
    assert!(checked.stderr.contains("zproxy.json: cannot be read"), "{checked:?}");
}

/// Neither a pipe that nobody writes to nor a device without an end can hold up a start.
#[test]
fn files_that_never_end_are_refused() {
    let dir = TempDir::new().unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe.wasm")).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.wasm")).unwrap();
    let config = json!({ "admin": null, "plugins_dir": "." });
    file(dir.path(), "zproxy.json", &config);

    let plugins = run(dir.path(), &["check"]);
    let config = run(dir.path(), &["check", "--config", "/dev/zero"]);

    assert_eq!(plugins.code, Some(5), "{plugins:?}");
    assert_eq!(plugins.stderr.matches("not a regular file").count(), 2, "{plugins:?}");
    assert_eq!(config.code, Some(3), "{config:?}");
    assert!(config.stderr.contains("larger than"), "{config:?}");
}

#[test]
fn a_variable_that_says_nothing_is_wrong_usage() {
    let dir = TempDir::new().unwrap();
    let binary = env!("CARGO_BIN_EXE_zproxy");
    let started = |name: &str, value: &std::ffi::OsStr| {
        let mut command = std::process::Command::new(binary);
        let output = command.current_dir(dir.path()).env(name, value).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");

    for (name, value) in [("ZPROXY_LOG", "verbose".as_ref()), ("ZPROXY_PLUGINS", odd)] {
        let (code, stderr) = started(name, value);
        assert_eq!(code, Some(2), "{name}: {stderr}");
        assert!(stderr.contains(name), "{stderr}");
    }
}

/// What `run` would refuse `check` refuses, at the same place.
#[test]
fn an_access_log_that_cannot_be_written_is_told_with_place_and_cure() {
    let dir = TempDir::new().unwrap();
    let mut config = saying("hello");
    config["access_log"] = json!({ "path": "logs/access.log" });
    file(dir.path(), "zproxy.json", &config);

    for command in ["check", "run"] {
        let run = run(dir.path(), &[command]);
        assert_eq!(run.code, Some(3), "{command}: {run:?}");
        assert!(run.stderr.contains("zproxy.json:1:"), "{command}: {run:?}");
        assert!(run.stderr.contains("access_log.path: there is no folder"), "{command}: {run:?}");
    }
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    assert_eq!(run(dir.path(), &["check"]).code, Some(0));
    assert!(!dir.path().join("logs/access.log").exists());
}

/// Both families on one port, as many configurations have it.
#[test]
fn a_port_is_shared_by_ipv4_and_ipv6() {
    // Not one of those that the kernel deals to connections and to other tests.
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let is_free = |port: &u16| std::net::TcpListener::bind(("::", *port)).is_ok();
    let free = (first..32_000).find(is_free).expect("a free port");
    let mut config = saying("hello");
    config["listeners"] = json!([
        { "address": format!("0.0.0.0:{free}") },
        { "address": format!("[::]:{free}") },
    ]);

    let gateway = Launch::config(config).start();

    for listener in 0..2 {
        let mut client = gateway.connect_to(listener);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().text(), "hello");
    }
}

/// stdout carries data only: a closed one must not make a panic of it.
#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let dir = TempDir::new().unwrap();
    let binary = env!("CARGO_BIN_EXE_zproxy");
    let line = format!("{binary} schema | head -c 10 > /dev/null");

    let shell =
        std::process::Command::new("sh").arg("-c").arg(&line).current_dir(dir.path()).output();

    let stderr = String::from_utf8(shell.unwrap().stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_closed_stderr_changes_no_exit_code() {
    let dir = TempDir::new().unwrap();
    file(dir.path(), "zproxy.json", &json!({ "routes": vec![json!({}); 20_000] }));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_zproxy"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);

    let status = command.arg("check").current_dir(dir.path()).stderr(writer).status();

    assert_eq!(status.unwrap().code(), Some(3));
}
