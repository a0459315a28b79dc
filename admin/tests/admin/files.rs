//! `new`, `setconf`, flags and mistakes: what needs no process but admin itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::support::{Bench, Done};
use serde_json::json;

#[test]
fn new_lays_out_a_cluster() {
    let bench = Bench::new();
    let out = bench.ok(&["new", "-cluster", "c"]);
    for name in ["config", "logs", "base", "packages", "registry", "workers"] {
        assert!(bench.path("c").join(name).is_dir(), "{name}");
    }
    assert_eq!(fs::metadata(bench.path("c")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(bench.json("c/config/template.json")["SOCK_base_path"], "host");
    assert_eq!(bench.json("c/config/load_balancer.json")["Port"], 7079);
    for part in ["template.json", "admin workers --cluster c", "curl -X POST localhost:8080/runLambda/hello"]
    {
        assert!(out.contains(part), "{part} is not in {out}");
    }
}

#[test]
fn new_takes_every_spelling_and_the_environment() {
    let bench = Bench::new();
    bench.ok(&["new", "-cluster=a"]);
    bench.ok(&["new", "--cluster=b"]);
    bench.ok(&["new", "--cluster", "d"]);
    assert!(bench.command(&["new"]).env("OPENLAMBDA_CLUSTER", "e").output().unwrap().status.success());
    for name in ["a", "b", "d", "e"] {
        assert!(bench.path(name).join("config/template.json").is_file(), "{name}");
    }
}

#[test]
fn new_refuses_what_is_there() {
    let bench = Bench::new();
    fs::create_dir(bench.path("empty")).unwrap();
    bench.ok(&["new", "--cluster", "empty"]);
    assert!(bench.fails(&["new", "--cluster", "empty"]).contains("exists and is not empty"));
    fs::write(bench.path("file"), "").unwrap();
    assert!(bench.fails(&["new", "--cluster", "file"]).contains("is a file"));
}

#[test]
fn new_checks_the_base_root() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("root/usr")).unwrap();
    bench.ok(&["new", "--cluster", "c", "--base", "root"]);
    let path = bench.json("c/config/template.json")["SOCK_base_path"].clone();
    assert_eq!(path, json!(fs::canonicalize(bench.path("root")).unwrap()));
    assert!(bench.fails(&["new", "--cluster", "d", "--base", "none"]).contains("unpacked root"));
    assert!(bench.fails(&["new", "--cluster", "d", "--base", "bin"]).contains("neither usr nor bin"));
    assert!(!bench.path("d").exists());
}

#[test]
fn setconf_merges() {
    let bench = Bench::new().with_cluster();
    let out = bench.ok(&[
        "setconf",
        "-cluster",
        "c",
        r#"{"max_runners": 4, "limits": {"cpu": "500m", "pids": null}}"#,
    ]);
    assert!(out.contains("set max_runners, limits"), "{out}");
    let template = bench.json("c/config/template.json");
    assert_eq!((&template["max_runners"], &template["sandbox"]), (&json!(4), &json!("sock")));
    assert_eq!(template["limits"]["cpu"], "500m");
    assert_eq!(template["limits"]["memory"], "128Mi");
    assert_eq!(template["limits"].get("pids"), None);
}

#[test]
fn setconf_refuses_and_leaves_the_file() {
    let bench = Bench::new().with_cluster();
    let before = fs::read(bench.path("c/config/template.json")).unwrap();
    for (json, parts) in [
        (r#"{"a": "#, ["is no JSON", "quote it"]),
        ("[1]", ["no JSON object", "[1]"]),
        ("{}", ["empty", "nothing to set"]),
        (r#"{"handler_cach_size": 0}"#, ["handler_cach_size: unknown key", "\"handler_cache_size\""]),
        (r#"{"sandbox": "docker"}"#, ["sandbox = \"docker\"", "only \"sock\""]),
        (r#"{"registry": "remote"}"#, ["registry_server: is missing", "localhost:9000"]),
        (r#"{"timing": 3, "limits": {"memory": "1Ki"}}"#, ["timing = 3", "limits.memory = \"1Ki\""]),
        (r#"{"registry_dir": null}"#, ["registry_dir: is missing", "template.json"]),
    ] {
        let error = bench.fails(&["setconf", "--cluster", "c", json]);
        assert!(parts.iter().all(|part| error.contains(part)), "{json}: {error}");
        assert_eq!(fs::read(bench.path("c/config/template.json")).unwrap(), before, "{json}");
    }
    assert_eq!(fs::read_dir(bench.path("c/config")).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn a_directory_that_is_no_cluster_is_named() {
    let bench = Bench::new();
    for command in [&["status"][..], &["kill"], &["workers"], &["load-balancer"], &["setconf", "{}"]] {
        let error = bench.fails(&[command, &["--cluster", "none"]].concat());
        assert!(error.contains("/none is no cluster") && error.contains("admin new"), "{command:?}: {error}");
    }
}

#[test]
fn wrong_usage_has_code_2_and_help_0() {
    let bench = Bench::new();
    for args in [
        &[][..],
        &["wrokers"],
        &["new"],
        &["new", "--cluster"],
        &["setconf", "--cluster", "c"],
        &["workers", "--cluster", "c", "--port", "0"],
        &["workers", "--cluster", "c", "-n", "0"],
        &["worker-exec"],
    ] {
        let done = bench.run(args);
        assert_eq!(done.code, Some(2), "{args:?}: {}", done.err);
    }
    for command in
        ["new", "setconf", "workers", "worker-exec", "load-balancer", "load-balancer-exec", "status", "kill"]
    {
        let help = bench.ok(&[command, "-help"]);
        assert!(help.contains("Example") && help.contains(&format!("admin {command}")), "{help}");
    }
}

#[test]
fn nothing_started_is_said() {
    let bench = Bench::new().with_cluster();
    let Done { code, out, .. } = bench.run(&["status", "--cluster", "c"]);
    assert!(code == Some(1) && out.contains("nothing was started"), "{out}");
    assert!(bench.ok(&["kill", "--cluster", "c"]).contains("nothing was started"));
}

#[test]
fn a_missing_program_is_named() {
    let bench = Bench::new().with_cluster();
    let error = bench.fails(&["worker-exec", "-config=c/config/template.json"]);
    assert!(
        error.contains("openlambda-node-agent is neither in") && error.contains("cargo build"),
        "{error}"
    );
    let error = bench.fails(&["load-balancer", "--cluster", "c"]);
    assert!(error.contains("openlambda-lard is neither in"), "{error}");
}

#[test]
fn a_stranger_with_our_pid_is_left_alone() {
    let bench = Bench::new().with_cluster();
    // This very test is the stranger: were it killed, it would not pass.
    fs::write(bench.path("c/logs/worker-0.pid"), std::process::id().to_string()).unwrap();
    fs::write(bench.path("c/logs/worker-1.pid"), "no number").unwrap();
    fs::write(bench.path("c/logs/load_balancer.pid"), i32::MAX.to_string()).unwrap();
    let Done { code, out, .. } = bench.run(&["status", "--cluster", "c"]);
    assert!(code == Some(1) && out.contains("localhost:7079/status => load_balancer has ended"), "{out}");
    let out = bench.ok(&["kill", "--cluster", "c"]);
    assert_eq!(out.matches("had ended already").count(), 3, "{out}");
    assert_eq!(fs::read_dir(bench.path("c/logs")).unwrap().count(), 0);
}

#[test]
fn workers_without_root_say_what_is_missing() {
    let bench = Bench::with_stand_ins();
    fs::create_dir(bench.path("home")).unwrap();
    let nobody = 65_534;
    let as_user = |args: &[&str]| -> Done {
        let mut command = bench.command(args);
        // As another user already, this test needs no change of user.
        if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            command.uid(nobody).gid(nobody);
        }
        command.output().unwrap().into()
    };
    fs::set_permissions(bench.path("home"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(as_user(&["new", "--cluster", "home/c"]).code, Some(0));
    let Done { code, err, .. } = as_user(&["workers", "--cluster", "home/c"]);
    assert!(code == Some(1) && err.contains("workers need root") && err.contains("sudo"), "{err}");
}
