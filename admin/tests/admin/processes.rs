//! `workers`, `load-balancer`, `status` and `kill` with programs that stand in for the real ones.
//!
//! These tests need root, because `admin workers` does, and `python3` for the stand-ins.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::support::{Bench, Done, free_port, runs};
use serde_json::json;

#[test]
fn a_cluster_starts_answers_ends_and_starts_again() {
    let bench = Bench::with_stand_ins().with_cluster();
    let port = free_port();
    let text = port.to_string();
    let start = ["workers", "-cluster=c", "-num-workers", "2", "-port", &text];
    let out = bench.ok(&start);
    assert!(
        out.contains(&format!("worker-1 pid {} at http://127.0.0.1:{}", bench.pid("worker-1"), port + 1)),
        "{out}"
    );
    let config = bench.json("c/config/worker-1.json");
    assert_eq!((&config["worker_port"], &config["sandbox"]), (&json!(port + 1), &json!("sock")));
    assert!(bench.path("c/workers/worker-1").is_dir());
    assert!(fs::read_to_string(bench.path("c/logs/worker-0.out")).unwrap().contains("listening"));

    let out = bench.ok(&["status", "-cluster", "c"]);
    assert!(out.contains(&format!("http://127.0.0.1:{port}/status => ready [200 OK]")), "{out}");
    let error = bench.fails(&start);
    assert!(error.contains(&format!("worker-0 runs already (pid {})", bench.pid("worker-0"))), "{error}");

    let pids = [bench.pid("worker-0"), bench.pid("worker-1")];
    assert!(pids.iter().all(|pid| runs(pid)));
    let out = bench.ok(&["kill", "--cluster", "c"]);
    assert!(out.contains(&format!("worker-0 (pid {}) ended", pids[0])), "{out}");
    assert!(!pids.iter().any(|pid| runs(pid)));
    assert!(!bench.path("c/logs/worker-0.pid").exists());
    bench.ok(&start);
    bench.ok(&["kill", "--cluster", "c"]);
}

#[test]
fn the_balancer_gets_the_workers_and_keeps_what_was_written_by_hand() {
    let bench = Bench::with_stand_ins().with_cluster();
    let (port, front) = (free_port(), free_port().to_string());
    bench.ok(&["workers", "--cluster", "c", "-n", "2", "-p", &port.to_string()]);
    let out = bench.ok(&["load-balancer", "--cluster", "c", "-p", &front]);
    assert!(out.contains(&format!("at http://localhost:{front}")), "{out}");
    let file = "c/config/load_balancer.json";
    let config = bench.json(file);
    assert_eq!(config["Port"].to_string(), front);
    assert_eq!(config["Servers"][1]["Port"], json!(port + 1));
    assert_eq!(config["Servers"][1]["Name"], "worker-1");
    assert!(bench.fails(&["load-balancer", "--cluster", "c"]).contains("runs already"));
    let out = bench.ok(&["status", "--cluster", "c"]);
    assert!(out.starts_with(&format!("http://localhost:{front}/status => ready [200 OK]\n")), "{out}");
    let out = bench.ok(&["kill", "--cluster", "c"]);
    assert!(out.starts_with("load_balancer (pid "), "{out}");

    // Filled by admin before: filled again, with one worker less, and with what was added to an entry.
    let mut config = config;
    config["Servers"][0]["MaxConn"] = json!(7);
    fs::write(bench.path(file), config.to_string()).unwrap();
    bench.ok(&["workers", "--cluster", "c", "-n", "1", "-p", &port.to_string()]);
    bench.ok(&["load-balancer", "--cluster", "c"]);
    let servers = bench.json(file)["Servers"].clone();
    assert_eq!(servers.as_array().unwrap().len(), 1, "{servers}");
    assert_eq!(servers[0]["MaxConn"], 7);
    bench.ok(&["kill", "--cluster", "c"]);

    let by_hand = json!([{"Name": "far", "Host": "192.0.2.1", "Port": 80}]);
    config["Servers"] = by_hand.clone();
    fs::write(bench.path(file), config.to_string()).unwrap();
    bench.ok(&["load-balancer", "--cluster", "c"]);
    assert_eq!(bench.json(file)["Servers"], by_hand);
    bench.ok(&["kill", "--cluster", "c"]);
}

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let bench = Bench::with_stand_ins().with_cluster();
    let port = free_port();
    let _other = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let error = bench.fails(&["workers", "--cluster", "c", "-n", "2", "-p", &port.to_string()]);
    let parts = [&format!("worker-1 needs port {}", port + 1), "ss -ltnp", "--port"];
    assert!(parts.iter().all(|part| error.contains(*part)), "{error}");
    assert_eq!(fs::read_dir(bench.path("c/logs")).unwrap().count(), 0);
}

#[test]
fn a_worker_that_does_not_start_shows_its_log_and_takes_the_others_along() {
    let bench = Bench::with_stand_ins().with_cluster();
    bench.ok(&["setconf", "--cluster", "c", r#"{"cluster_name": "crash"}"#]);
    let error = bench.fails(&["workers", "--cluster", "c", "-n", "2", "-p", &free_port().to_string()]);
    let parts = ["worker-0 did not start (exit status: 1)", "worker-0.out", "  the base root lacks python3"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    let left: Vec<_> = fs::read_dir(bench.path("c/logs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_str().unwrap().ends_with(".out")), "{left:?}");
    assert!(bench.run(&["status", "--cluster", "c"]).out.contains("nothing was started"));
}

#[test]
fn a_worker_that_has_died_is_seen_and_one_that_does_not_end_is_killed() {
    let bench = Bench::with_stand_ins().with_cluster();
    let deaf = r#"{"cluster_name": "deaf", "drain_timeout": "0s"}"#;
    bench.ok(&["setconf", "--cluster", "c", deaf]);
    let port = free_port().to_string();
    bench.ok(&["workers", "--cluster", "c", "-n", "2", "-p", &port]);
    let pids = [bench.pid("worker-0"), bench.pid("worker-1")];
    let kill = Command::new("kill").args(["-KILL", &pids[0]]).status();
    assert!(kill.unwrap().success());
    while runs(&pids[0]) {
        std::thread::yield_now();
    }
    let Done { code, out, .. } = bench.run(&["status", "--cluster", "c"]);
    assert!(code == Some(1) && out.contains("worker-0 has ended") && out.contains("ready [200 OK]"), "{out}");
    let out = bench.ok(&["kill", "--cluster", "c"]);
    assert!(out.contains("worker-0 had ended already"), "{out}");
    assert!(
        out.contains(&format!("worker-1 (pid {}) did not end within 10s and was killed", pids[1])),
        "{out}"
    );
    assert!(!runs(&pids[1]));
}

#[test]
fn two_commands_at_once_do_not_mix() {
    let bench = Bench::with_stand_ins().with_cluster();
    let keys = ["max_instances", "queue_length", "data_threads", "cg_pool_size", "import_cache_size"];
    let set = |key: &&str| {
        let json = format!("{{\"{key}\": 7}}");
        let mut command = bench.command(&["setconf", "--cluster", "c", &json]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let running: Vec<_> = keys.iter().map(set).collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    let template = bench.json("c/config/template.json");
    assert!(keys.iter().all(|key| template[*key] == 7), "{template}");
}
